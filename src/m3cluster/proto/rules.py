"""The tables of rulepb: rule sets and their namespaces as KV holds them (docs/m3/metrics.md, rule messages)."""

from m3cluster.proto.family import stored
from m3x.protobuf import Enum, Field, Kind

__all__ = ["NAMESPACES", "RULE_SET"]

_AGGREGATION_TYPE = Enum(
    "aggregationpb.AggregationType",
    {
        "UNKNOWN": 0, "LAST": 1, "MIN": 2, "MAX": 3, "MEAN": 4, "MEDIAN": 5, "COUNT": 6, "SUM": 7, "SUMSQ": 8, "STDEV": 9,
        "P10": 10, "P20": 11, "P30": 12, "P40": 13, "P50": 14, "P60": 15, "P70": 16, "P80": 17, "P90": 18, "P95": 19,
        "P99": 20, "P999": 21, "P9999": 22, "P25": 23, "P75": 24,
    },
)  # fmt: skip
_TRANSFORMATION_TYPE = Enum(
    "transformationpb.TransformationType",
    {"UNKNOWN": 0, "ABSOLUTE": 1, "PERSECOND": 2, "INCREASE": 3, "ADD": 4, "RESET": 5},
)
_DROP_POLICY = Enum("policypb.DropPolicy", {"NONE": 0, "DROP_MUST": 1, "DROP_IF_ONLY_MATCH": 2})
_ROLLUP_TYPE = Enum("pipelinepb.RollupOp.Type", {"GROUP_BY": 0, "EXCLUDE_BY": 1})
_OP_TYPE = Enum("pipelinepb.PipelineOp.Type", {"UNKNOWN": 0, "AGGREGATION": 1, "TRANSFORMATION": 2, "ROLLUP": 3})

_RESOLUTION = stored("policypb.Resolution", (Field(1, "window_size", Kind.INT64), Field(2, "precision", Kind.INT64)))
_RETENTION = stored("policypb.Retention", (Field(1, "period", Kind.INT64),))
_STORAGE_POLICY = stored(
    "policypb.StoragePolicy",
    (Field(1, "resolution", Kind.MESSAGE, _RESOLUTION), Field(2, "retention", Kind.MESSAGE, _RETENTION)),
)
_POLICY = stored(
    "policypb.Policy",
    (
        Field(1, "storage_policy", Kind.MESSAGE, _STORAGE_POLICY),
        Field(2, "aggregation_types", Kind.ENUM, _AGGREGATION_TYPE, repeated=True),
    ),
)
_TAG = stored("metricpb.Tag", (Field(1, "name", Kind.BYTES), Field(2, "value", Kind.BYTES)))

_AGGREGATION_OP = stored("pipelinepb.AggregationOp", (Field(1, "type", Kind.ENUM, _AGGREGATION_TYPE),))
_TRANSFORMATION_OP = stored("pipelinepb.TransformationOp", (Field(1, "type", Kind.ENUM, _TRANSFORMATION_TYPE),))
_ROLLUP_OP = stored(
    "pipelinepb.RollupOp",
    (
        Field(1, "new_name", Kind.STRING),
        Field(2, "tags", Kind.STRING, repeated=True),
        Field(3, "aggregation_types", Kind.ENUM, _AGGREGATION_TYPE, repeated=True),
        Field(4, "type", Kind.ENUM, _ROLLUP_TYPE),
    ),
)
_PIPELINE_OP = stored(
    "pipelinepb.PipelineOp",
    (
        Field(1, "type", Kind.ENUM, _OP_TYPE),
        Field(2, "aggregation", Kind.MESSAGE, _AGGREGATION_OP),
        Field(3, "transformation", Kind.MESSAGE, _TRANSFORMATION_OP),
        Field(4, "rollup", Kind.MESSAGE, _ROLLUP_OP),
    ),
)
_PIPELINE = stored("pipelinepb.Pipeline", (Field(1, "ops", Kind.MESSAGE, _PIPELINE_OP, repeated=True),))

_MAPPING_RULE_SNAPSHOT = stored(
    "rulepb.MappingRuleSnapshot",
    (
        Field(1, "name", Kind.STRING),
        Field(2, "tombstoned", Kind.BOOL),
        Field(3, "cutover_nanos", Kind.INT64),
        Field(4, "filter", Kind.STRING),
        Field(5, "policies", Kind.MESSAGE, _POLICY, repeated=True),
        Field(6, "last_updated_at_nanos", Kind.INT64),
        Field(7, "last_updated_by", Kind.STRING),
        Field(8, "aggregation_types", Kind.ENUM, _AGGREGATION_TYPE, repeated=True),
        Field(9, "storage_policies", Kind.MESSAGE, _STORAGE_POLICY, repeated=True),
        Field(10, "drop_policy", Kind.ENUM, _DROP_POLICY),
        Field(11, "tags", Kind.MESSAGE, _TAG, repeated=True),
    ),
)
_MAPPING_RULE = stored(
    "rulepb.MappingRule",
    (
        Field(1, "uuid", Kind.STRING),
        Field(2, "snapshots", Kind.MESSAGE, _MAPPING_RULE_SNAPSHOT, repeated=True),
    ),
)
_ROLLUP_TARGET = stored(
    "rulepb.RollupTarget",
    (
        Field(1, "name", Kind.STRING),
        Field(2, "tags", Kind.STRING, repeated=True),
        Field(3, "policies", Kind.MESSAGE, _POLICY, repeated=True),
    ),
)
_ROLLUP_TARGET_V2 = stored(
    "rulepb.RollupTargetV2",
    (
        Field(1, "pipeline", Kind.MESSAGE, _PIPELINE),
        Field(2, "storage_policies", Kind.MESSAGE, _STORAGE_POLICY, repeated=True),
        Field(3, "resend_enabled", Kind.BOOL),
    ),
)
_ROLLUP_RULE_SNAPSHOT = stored(
    "rulepb.RollupRuleSnapshot",
    (
        Field(1, "name", Kind.STRING),
        Field(2, "tombstoned", Kind.BOOL),
        Field(3, "cutover_nanos", Kind.INT64),
        Field(4, "filter", Kind.STRING),
        Field(5, "targets", Kind.MESSAGE, _ROLLUP_TARGET, repeated=True),
        Field(6, "last_updated_at_nanos", Kind.INT64),
        Field(7, "last_updated_by", Kind.STRING),
        Field(8, "targets_v2", Kind.MESSAGE, _ROLLUP_TARGET_V2, repeated=True),
        Field(9, "keep_original", Kind.BOOL),
        Field(10, "tags", Kind.MESSAGE, _TAG, repeated=True),
    ),
)
_ROLLUP_RULE = stored(
    "rulepb.RollupRule",
    (
        Field(1, "uuid", Kind.STRING),
        Field(2, "snapshots", Kind.MESSAGE, _ROLLUP_RULE_SNAPSHOT, repeated=True),
    ),
)

RULE_SET = stored(
    "rulepb.RuleSet",
    (
        Field(1, "uuid", Kind.STRING),
        Field(2, "namespace", Kind.STRING),
        Field(3, "created_at_nanos", Kind.INT64),
        Field(4, "last_updated_at_nanos", Kind.INT64),
        Field(5, "tombstoned", Kind.BOOL),
        Field(6, "cutover_nanos", Kind.INT64),
        Field(7, "mapping_rules", Kind.MESSAGE, _MAPPING_RULE, repeated=True),
        Field(8, "rollup_rules", Kind.MESSAGE, _ROLLUP_RULE, repeated=True),
        Field(9, "last_updated_by", Kind.STRING),
    ),
)

_NAMESPACE_SNAPSHOT = stored(
    "rulepb.NamespaceSnapshot",
    (
        Field(1, "for_ruleset_version", Kind.INT32),
        Field(2, "tombstoned", Kind.BOOL),
        Field(3, "last_updated_at_nanos", Kind.INT64),
        Field(4, "last_updated_by", Kind.STRING),
    ),
)
_NAMESPACE = stored(
    "rulepb.Namespace",
    (
        Field(1, "name", Kind.STRING),
        Field(2, "snapshots", Kind.MESSAGE, _NAMESPACE_SNAPSHOT, repeated=True),
    ),
)
NAMESPACES = stored("rulepb.Namespaces", (Field(1, "namespaces", Kind.MESSAGE, _NAMESPACE, repeated=True),))
