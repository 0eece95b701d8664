"""The metric messages, field by field (reference/m3msg.md §2, reference/metrics.md §1.3-1.7)."""

from m3metrics.codec.wire import Field, Kind, Message

AGGREGATION_ID = Message("AggregationID", {1: Field("id", Kind.UINT64)})
RESOLUTION = Message("Resolution", {1: Field("window_size", Kind.INT64), 2: Field("precision", Kind.INT64)})
RETENTION = Message("Retention", {1: Field("period", Kind.INT64)})
STORAGE_POLICY = Message(
    "StoragePolicy", {1: Field("resolution", Kind.MESSAGE, RESOLUTION), 2: Field("retention", Kind.MESSAGE, RETENTION)}
)
ROUTING_POLICY = Message("RoutingPolicy", {1: Field("traffic_types", Kind.UINT64)})

TRANSFORMATION_OP = Message("TransformationOp", {1: Field("type", Kind.INT32)})
APPLIED_ROLLUP_OP = Message(
    "AppliedRollupOp", {1: Field("id", Kind.BYTES), 2: Field("aggregation_id", Kind.MESSAGE, AGGREGATION_ID)}
)
APPLIED_PIPELINE_OP = Message(
    "AppliedPipelineOp",
    {
        1: Field("type", Kind.INT32),
        2: Field("transformation", Kind.MESSAGE, TRANSFORMATION_OP),
        3: Field("rollup", Kind.MESSAGE, APPLIED_ROLLUP_OP),
    },
)
APPLIED_PIPELINE = Message("AppliedPipeline", {1: Field("ops", Kind.MESSAGES, APPLIED_PIPELINE_OP)})

PIPELINE_METADATA = Message(
    "PipelineMetadata",
    {
        1: Field("aggregation_id", Kind.MESSAGE, AGGREGATION_ID),
        2: Field("storage_policies", Kind.MESSAGES, STORAGE_POLICY),
        3: Field("pipeline", Kind.MESSAGE, APPLIED_PIPELINE),
        4: Field("drop_policy", Kind.INT32),
        5: Field("resend_enabled", Kind.BOOL),
        6: Field("routing_policy", Kind.MESSAGE, ROUTING_POLICY),
    },
)
METADATA = Message("Metadata", {1: Field("pipelines", Kind.MESSAGES, PIPELINE_METADATA)})
STAGED_METADATA = Message(
    "StagedMetadata",
    {
        1: Field("cutover_nanos", Kind.INT64),
        2: Field("tombstoned", Kind.BOOL),
        3: Field("metadata", Kind.MESSAGE, METADATA),
    },
)
STAGED_METADATAS = Message("StagedMetadatas", {1: Field("metadatas", Kind.MESSAGES, STAGED_METADATA)})
FORWARD_METADATA = Message(
    "ForwardMetadata",
    {
        1: Field("aggregation_id", Kind.MESSAGE, AGGREGATION_ID),
        2: Field("storage_policy", Kind.MESSAGE, STORAGE_POLICY),
        3: Field("pipeline", Kind.MESSAGE, APPLIED_PIPELINE),
        4: Field("source_id", Kind.UINT32),
        5: Field("num_forwarded_times", Kind.INT32),
        6: Field("resend_enabled", Kind.BOOL),
        7: Field("routing_policy", Kind.MESSAGE, ROUTING_POLICY),
    },
)
TIMED_METADATA = Message(
    "TimedMetadata",
    {
        1: Field("aggregation_id", Kind.MESSAGE, AGGREGATION_ID),
        2: Field("storage_policy", Kind.MESSAGE, STORAGE_POLICY),
        3: Field("routing_policy", Kind.MESSAGE, ROUTING_POLICY),
    },
)


def _untimed(name: str, value: Field) -> Message:
    return Message(
        name,
        {
            1: Field("id", Kind.BYTES),
            2: value,
            3: Field("annotation", Kind.BYTES),
            4: Field("client_time_nanos", Kind.INT64),
        },
    )


COUNTER = _untimed("Counter", Field("value", Kind.INT64))
BATCH_TIMER = _untimed("BatchTimer", Field("values", Kind.DOUBLES))
GAUGE = _untimed("Gauge", Field("value", Kind.DOUBLE))
TIMED_METRIC = Message(
    "TimedMetric",
    {
        1: Field("type", Kind.INT32),
        2: Field("id", Kind.BYTES),
        3: Field("time_nanos", Kind.INT64),
        4: Field("value", Kind.DOUBLE),
        5: Field("annotation", Kind.BYTES),
    },
)
FORWARDED_METRIC = Message(
    "ForwardedMetric",
    {
        1: Field("type", Kind.INT32),
        2: Field("id", Kind.BYTES),
        3: Field("time_nanos", Kind.INT64),
        4: Field("values", Kind.DOUBLES),
        5: Field("annotation", Kind.BYTES),
        6: Field("prev_values", Kind.DOUBLES),
        7: Field("version", Kind.UINT32),
    },
)

COUNTER_WITH_METADATAS = Message(
    "CounterWithMetadatas",
    {1: Field("counter", Kind.MESSAGE, COUNTER), 2: Field("metadatas", Kind.MESSAGE, STAGED_METADATAS)},
)
BATCH_TIMER_WITH_METADATAS = Message(
    "BatchTimerWithMetadatas",
    {1: Field("batch_timer", Kind.MESSAGE, BATCH_TIMER), 2: Field("metadatas", Kind.MESSAGE, STAGED_METADATAS)},
)
GAUGE_WITH_METADATAS = Message(
    "GaugeWithMetadatas",
    {1: Field("gauge", Kind.MESSAGE, GAUGE), 2: Field("metadatas", Kind.MESSAGE, STAGED_METADATAS)},
)
FORWARDED_METRIC_WITH_METADATA = Message(
    "ForwardedMetricWithMetadata",
    {1: Field("metric", Kind.MESSAGE, FORWARDED_METRIC), 2: Field("metadata", Kind.MESSAGE, FORWARD_METADATA)},
)
TIMED_METRIC_WITH_METADATA = Message(
    "TimedMetricWithMetadata",
    {1: Field("metric", Kind.MESSAGE, TIMED_METRIC), 2: Field("metadata", Kind.MESSAGE, TIMED_METADATA)},
)
TIMED_METRIC_WITH_METADATAS = Message(
    "TimedMetricWithMetadatas",
    {1: Field("metric", Kind.MESSAGE, TIMED_METRIC), 2: Field("metadatas", Kind.MESSAGE, STAGED_METADATAS)},
)
TIMED_METRIC_WITH_STORAGE_POLICY = Message(
    "TimedMetricWithStoragePolicy",
    {
        1: Field("timed_metric", Kind.MESSAGE, TIMED_METRIC),
        2: Field("storage_policy", Kind.MESSAGE, STORAGE_POLICY),
        3: Field("routing_policy", Kind.MESSAGE, ROUTING_POLICY),
    },
)
METRIC_WITH_METADATAS = Message(
    "MetricWithMetadatas",
    {
        1: Field("type", Kind.INT32),
        2: Field("counter_with_metadatas", Kind.POINTER, COUNTER_WITH_METADATAS),
        3: Field("batch_timer_with_metadatas", Kind.POINTER, BATCH_TIMER_WITH_METADATAS),
        4: Field("gauge_with_metadatas", Kind.POINTER, GAUGE_WITH_METADATAS),
        5: Field("forwarded_metric_with_metadata", Kind.POINTER, FORWARDED_METRIC_WITH_METADATA),
        6: Field("timed_metric_with_metadata", Kind.POINTER, TIMED_METRIC_WITH_METADATA),
        7: Field("timed_metric_with_metadatas", Kind.POINTER, TIMED_METRIC_WITH_METADATAS),
        8: Field("timed_metric_with_storage_policy", Kind.POINTER, TIMED_METRIC_WITH_STORAGE_POLICY),
    },
)
AGGREGATED_METRIC = Message(
    "AggregatedMetric",
    {1: Field("metric", Kind.MESSAGE, TIMED_METRIC_WITH_STORAGE_POLICY), 2: Field("encode_nanos", Kind.INT64)},
)
