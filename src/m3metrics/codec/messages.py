"""The metric messages, field by field (docs/m3/metrics.md, messages)."""

from dataclasses import replace

from m3metrics.errors import UnmarshalError
from m3x.protobuf import GENERATED, Field, Kind, Message, generated

_RULES = replace(GENERATED, error=lambda _message, reason, _detail: UnmarshalError(reason))


def _message(name: str, *fields: Field) -> Message:
    return generated(name, *fields, rules=_RULES)


AGGREGATION_ID = _message("AggregationID", Field(1, "id", Kind.UINT64))
RESOLUTION = _message("Resolution", Field(1, "window_size", Kind.INT64), Field(2, "precision", Kind.INT64))
RETENTION = _message("Retention", Field(1, "period", Kind.INT64))
STORAGE_POLICY = _message(
    "StoragePolicy",
    Field(1, "resolution", Kind.MESSAGE, RESOLUTION, embedded=True),
    Field(2, "retention", Kind.MESSAGE, RETENTION, embedded=True),
)
ROUTING_POLICY = _message("RoutingPolicy", Field(1, "traffic_types", Kind.UINT64))

TRANSFORMATION_OP = _message("TransformationOp", Field(1, "type", Kind.INT32))
APPLIED_ROLLUP_OP = _message(
    "AppliedRollupOp",
    Field(1, "id", Kind.BYTES),
    Field(2, "aggregation_id", Kind.MESSAGE, AGGREGATION_ID, embedded=True),
)
APPLIED_PIPELINE_OP = _message(
    "AppliedPipelineOp",
    Field(1, "type", Kind.INT32),
    Field(2, "transformation", Kind.MESSAGE, TRANSFORMATION_OP, embedded=True),
    Field(3, "rollup", Kind.MESSAGE, APPLIED_ROLLUP_OP, embedded=True),
)
APPLIED_PIPELINE = _message("AppliedPipeline", Field(1, "ops", Kind.MESSAGE, APPLIED_PIPELINE_OP, repeated=True))

PIPELINE_METADATA = _message(
    "PipelineMetadata",
    Field(1, "aggregation_id", Kind.MESSAGE, AGGREGATION_ID, embedded=True),
    Field(2, "storage_policies", Kind.MESSAGE, STORAGE_POLICY, repeated=True),
    Field(3, "pipeline", Kind.MESSAGE, APPLIED_PIPELINE, embedded=True),
    Field(4, "drop_policy", Kind.INT32),
    Field(5, "resend_enabled", Kind.BOOL),
    Field(6, "routing_policy", Kind.MESSAGE, ROUTING_POLICY, embedded=True),
)
METADATA = _message("Metadata", Field(1, "pipelines", Kind.MESSAGE, PIPELINE_METADATA, repeated=True))
STAGED_METADATA = _message(
    "StagedMetadata",
    Field(1, "cutover_nanos", Kind.INT64),
    Field(2, "tombstoned", Kind.BOOL),
    Field(3, "metadata", Kind.MESSAGE, METADATA, embedded=True),
)
STAGED_METADATAS = _message("StagedMetadatas", Field(1, "metadatas", Kind.MESSAGE, STAGED_METADATA, repeated=True))
FORWARD_METADATA = _message(
    "ForwardMetadata",
    Field(1, "aggregation_id", Kind.MESSAGE, AGGREGATION_ID, embedded=True),
    Field(2, "storage_policy", Kind.MESSAGE, STORAGE_POLICY, embedded=True),
    Field(3, "pipeline", Kind.MESSAGE, APPLIED_PIPELINE, embedded=True),
    Field(4, "source_id", Kind.UINT32),
    Field(5, "num_forwarded_times", Kind.INT32),
    Field(6, "resend_enabled", Kind.BOOL),
    Field(7, "routing_policy", Kind.MESSAGE, ROUTING_POLICY, embedded=True),
)
TIMED_METADATA = _message(
    "TimedMetadata",
    Field(1, "aggregation_id", Kind.MESSAGE, AGGREGATION_ID, embedded=True),
    Field(2, "storage_policy", Kind.MESSAGE, STORAGE_POLICY, embedded=True),
    Field(3, "routing_policy", Kind.MESSAGE, ROUTING_POLICY, embedded=True),
)


def _untimed(name: str, value: Field) -> Message:
    return _message(
        name,
        Field(1, "id", Kind.BYTES),
        value,
        Field(3, "annotation", Kind.BYTES),
        Field(4, "client_time_nanos", Kind.INT64),
    )


COUNTER = _untimed("Counter", Field(2, "value", Kind.INT64))
BATCH_TIMER = _untimed("BatchTimer", Field(2, "values", Kind.DOUBLE, repeated=True))
GAUGE = _untimed("Gauge", Field(2, "value", Kind.DOUBLE))
TIMED_METRIC = _message(
    "TimedMetric",
    Field(1, "type", Kind.INT32),
    Field(2, "id", Kind.BYTES),
    Field(3, "time_nanos", Kind.INT64),
    Field(4, "value", Kind.DOUBLE),
    Field(5, "annotation", Kind.BYTES),
)
FORWARDED_METRIC = _message(
    "ForwardedMetric",
    Field(1, "type", Kind.INT32),
    Field(2, "id", Kind.BYTES),
    Field(3, "time_nanos", Kind.INT64),
    Field(4, "values", Kind.DOUBLE, repeated=True),
    Field(5, "annotation", Kind.BYTES),
    Field(6, "prev_values", Kind.DOUBLE, repeated=True),
    Field(7, "version", Kind.UINT32),
)

COUNTER_WITH_METADATAS = _message(
    "CounterWithMetadatas",
    Field(1, "counter", Kind.MESSAGE, COUNTER, embedded=True),
    Field(2, "metadatas", Kind.MESSAGE, STAGED_METADATAS, embedded=True),
)
BATCH_TIMER_WITH_METADATAS = _message(
    "BatchTimerWithMetadatas",
    Field(1, "batch_timer", Kind.MESSAGE, BATCH_TIMER, embedded=True),
    Field(2, "metadatas", Kind.MESSAGE, STAGED_METADATAS, embedded=True),
)
GAUGE_WITH_METADATAS = _message(
    "GaugeWithMetadatas",
    Field(1, "gauge", Kind.MESSAGE, GAUGE, embedded=True),
    Field(2, "metadatas", Kind.MESSAGE, STAGED_METADATAS, embedded=True),
)
FORWARDED_METRIC_WITH_METADATA = _message(
    "ForwardedMetricWithMetadata",
    Field(1, "metric", Kind.MESSAGE, FORWARDED_METRIC, embedded=True),
    Field(2, "metadata", Kind.MESSAGE, FORWARD_METADATA, embedded=True),
)
TIMED_METRIC_WITH_METADATA = _message(
    "TimedMetricWithMetadata",
    Field(1, "metric", Kind.MESSAGE, TIMED_METRIC, embedded=True),
    Field(2, "metadata", Kind.MESSAGE, TIMED_METADATA, embedded=True),
)
TIMED_METRIC_WITH_METADATAS = _message(
    "TimedMetricWithMetadatas",
    Field(1, "metric", Kind.MESSAGE, TIMED_METRIC, embedded=True),
    Field(2, "metadatas", Kind.MESSAGE, STAGED_METADATAS, embedded=True),
)
TIMED_METRIC_WITH_STORAGE_POLICY = _message(
    "TimedMetricWithStoragePolicy",
    Field(1, "timed_metric", Kind.MESSAGE, TIMED_METRIC, embedded=True),
    Field(2, "storage_policy", Kind.MESSAGE, STORAGE_POLICY, embedded=True),
    Field(3, "routing_policy", Kind.MESSAGE, ROUTING_POLICY, embedded=True),
)
METRIC_WITH_METADATAS = _message(
    "MetricWithMetadatas",
    Field(1, "type", Kind.INT32),
    Field(2, "counter_with_metadatas", Kind.MESSAGE, COUNTER_WITH_METADATAS),
    Field(3, "batch_timer_with_metadatas", Kind.MESSAGE, BATCH_TIMER_WITH_METADATAS),
    Field(4, "gauge_with_metadatas", Kind.MESSAGE, GAUGE_WITH_METADATAS),
    Field(5, "forwarded_metric_with_metadata", Kind.MESSAGE, FORWARDED_METRIC_WITH_METADATA),
    Field(6, "timed_metric_with_metadata", Kind.MESSAGE, TIMED_METRIC_WITH_METADATA),
    Field(7, "timed_metric_with_metadatas", Kind.MESSAGE, TIMED_METRIC_WITH_METADATAS),
    Field(8, "timed_metric_with_storage_policy", Kind.MESSAGE, TIMED_METRIC_WITH_STORAGE_POLICY),
)
AGGREGATED_METRIC = _message(
    "AggregatedMetric",
    Field(1, "metric", Kind.MESSAGE, TIMED_METRIC_WITH_STORAGE_POLICY, embedded=True),
    Field(2, "encode_nanos", Kind.INT64),
)
