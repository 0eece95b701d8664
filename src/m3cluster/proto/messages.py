"""The message tables (docs/m3/cluster.md, messages). Numbers and names are facts of the wire format."""

from m3cluster.proto.family import stored
from m3x.protobuf import Enum, Field, Kind

__all__ = [
    "BOOL_PROTO",
    "COMPRESS_MODE",
    "CONSUMPTION_TYPE",
    "FLOAT64_PROTO",
    "INSTANCE",
    "INT64_PROTO",
    "PLACEMENT",
    "PLACEMENT_GET_RESPONSE",
    "PLACEMENT_INIT_REQUEST",
    "PLACEMENT_SNAPSHOTS",
    "SHARD_SET_FLUSH_TIMES",
    "STRING_ARRAY_PROTO",
    "STRING_PROTO",
    "TOPIC",
    "TOPIC_ADD_REQUEST",
    "TOPIC_GET_RESPONSE",
    "TOPIC_INIT_REQUEST",
]

_UINT32_VALUE = stored("types.UInt32Value", (Field(1, "value", Kind.UINT32),))
_BOOL_VALUE = stored("types.BoolValue", (Field(1, "value", Kind.BOOL),))

# placementpb

SHARD_STATE = Enum("placementpb.ShardState", {"INITIALIZING": 0, "AVAILABLE": 1, "LEAVING": 2})
COMPRESS_MODE = Enum("placementpb.CompressMode", {"NONE": 0, "ZSTD": 1})

SHARD = stored(
    "placementpb.Shard",
    (
        Field(1, "id", Kind.UINT32),
        Field(2, "state", Kind.ENUM, SHARD_STATE),
        Field(3, "source_id", Kind.STRING),
        Field(4, "cutover_nanos", Kind.INT64),
        Field(5, "cutoff_nanos", Kind.INT64),
        Field(6, "redirect_to_shard_id", Kind.MESSAGE, _UINT32_VALUE, wrapper=True),
    ),
)

INSTANCE_METADATA = stored("placementpb.InstanceMetadata", (Field(1, "debug_port", Kind.UINT32),))

INSTANCE = stored(
    "placementpb.Instance",
    (
        Field(1, "id", Kind.STRING),
        Field(2, "isolation_group", Kind.STRING),
        Field(3, "zone", Kind.STRING),
        Field(4, "weight", Kind.UINT32),
        Field(5, "endpoint", Kind.STRING),
        Field(6, "shards", Kind.MESSAGE, SHARD, repeated=True),
        Field(7, "shard_set_id", Kind.UINT32),
        Field(8, "hostname", Kind.STRING),
        Field(9, "port", Kind.UINT32),
        Field(10, "metadata", Kind.MESSAGE, INSTANCE_METADATA),
        Field(11, "subcluster_id", Kind.UINT32),
    ),
)

PLACEMENT = stored(
    "placementpb.Placement",
    (
        Field(1, "instances", Kind.MESSAGE, INSTANCE, map_key=Kind.STRING),
        Field(2, "replica_factor", Kind.UINT32),
        Field(3, "num_shards", Kind.UINT32),
        Field(4, "is_sharded", Kind.BOOL),
        Field(5, "cutover_time", Kind.INT64),
        Field(6, "is_mirrored", Kind.BOOL),
        Field(7, "max_shard_set_id", Kind.UINT32),
        Field(8, "is_subclustered", Kind.BOOL),
        Field(9, "instances_per_subcluster", Kind.UINT32),
    ),
)

PLACEMENT_SNAPSHOTS = stored(
    "placementpb.PlacementSnapshots",
    (
        Field(1, "snapshots", Kind.MESSAGE, PLACEMENT, repeated=True),
        Field(2, "compress_mode", Kind.ENUM, COMPRESS_MODE),
        Field(3, "compressed_placement", Kind.BYTES),
    ),
)

OPTIONS = stored(
    "placementpb.Options",
    (
        Field(1, "is_sharded", Kind.MESSAGE, _BOOL_VALUE, wrapper=True),
        Field(2, "skip_port_mirroring", Kind.MESSAGE, _BOOL_VALUE, wrapper=True),
    ),
)

# topicpb

CONSUMPTION_TYPE = Enum("topicpb.ConsumptionType", {"UNKNOWN": 0, "SHARED": 1, "REPLICATED": 2})

SERVICE_ID = stored(
    "topicpb.ServiceID",
    (Field(1, "name", Kind.STRING), Field(2, "environment", Kind.STRING), Field(3, "zone", Kind.STRING)),
)

_STORAGE_POLICY_FILTER = stored(
    "topicpb.StoragePolicyFilter", (Field(1, "storage_policies", Kind.STRING, repeated=True),)
)
_PERCENTAGE_FILTER = stored("topicpb.PercentageFilter", (Field(1, "percentage", Kind.DOUBLE),))
_SHARD_SET_FILTER = stored("topicpb.ShardSetFilter", (Field(1, "shard_set", Kind.STRING),))
_ROUTING_POLICY_FILTER = stored(
    "topicpb.RoutingPolicyFilter",
    (Field(1, "allowed_traffic_types", Kind.STRING, repeated=True), Field(2, "is_default", Kind.BOOL)),
)

FILTERS = stored(
    "topicpb.Filters",
    (
        Field(1, "storage_policy_filter", Kind.MESSAGE, _STORAGE_POLICY_FILTER),
        Field(2, "percentage_filter", Kind.MESSAGE, _PERCENTAGE_FILTER),
        Field(3, "shard_set_filter", Kind.MESSAGE, _SHARD_SET_FILTER),
        Field(4, "routing_policy_filter", Kind.MESSAGE, _ROUTING_POLICY_FILTER),
    ),
)

CONSUMER_SERVICE = stored(
    "topicpb.ConsumerService",
    (
        Field(1, "service_id", Kind.MESSAGE, SERVICE_ID),
        Field(2, "consumption_type", Kind.ENUM, CONSUMPTION_TYPE),
        Field(3, "message_ttl_nanos", Kind.INT64),
        Field(4, "filters", Kind.MESSAGE, FILTERS),
    ),
)

TOPIC = stored(
    "topicpb.Topic",
    (
        Field(1, "name", Kind.STRING),
        Field(2, "number_of_shards", Kind.UINT32),
        Field(3, "consumer_services", Kind.MESSAGE, CONSUMER_SERVICE, repeated=True),
    ),
)

# commonpb: values of runtime options

BOOL_PROTO = stored("commonpb.BoolProto", (Field(1, "value", Kind.BOOL),))
FLOAT64_PROTO = stored("commonpb.Float64Proto", (Field(1, "value", Kind.DOUBLE),))
INT64_PROTO = stored("commonpb.Int64Proto", (Field(1, "value", Kind.INT64),))
STRING_PROTO = stored("commonpb.StringProto", (Field(1, "value", Kind.STRING),))
STRING_ARRAY_PROTO = stored("commonpb.StringArrayProto", (Field(1, "values", Kind.STRING, repeated=True),))

# flush

_FORWARDED_FLUSH_TIMES = stored(
    "flush.ForwardedFlushTimesForResolution",
    (Field(1, "by_num_forwarded_times", Kind.INT64, map_key=Kind.INT32),),
)

SHARD_FLUSH_TIMES = stored(
    "flush.ShardFlushTimes",
    (
        Field(1, "standard_by_resolution", Kind.INT64, map_key=Kind.INT64),
        Field(2, "tombstoned", Kind.BOOL),
        Field(3, "forwarded_by_resolution", Kind.MESSAGE, _FORWARDED_FLUSH_TIMES, map_key=Kind.INT64),
        Field(4, "timed_by_resolution", Kind.INT64, map_key=Kind.INT64),
    ),
)

SHARD_SET_FLUSH_TIMES = stored(
    "flush.ShardSetFlushTimes", (Field(1, "by_shard", Kind.MESSAGE, SHARD_FLUSH_TIMES, map_key=Kind.UINT32),)
)

# admin: bodies of the HTTP API

PLACEMENT_INIT_REQUEST = stored(
    "admin.PlacementInitRequest",
    (
        Field(1, "instances", Kind.MESSAGE, INSTANCE, repeated=True),
        Field(2, "num_shards", Kind.INT32),
        Field(3, "replication_factor", Kind.INT32),
        Field(99, "option_override", Kind.MESSAGE, OPTIONS),
    ),
)
PLACEMENT_GET_RESPONSE = stored(
    "admin.PlacementGetResponse",
    (Field(1, "placement", Kind.MESSAGE, PLACEMENT), Field(2, "version", Kind.INT32)),
)
TOPIC_GET_RESPONSE = stored(
    "admin.TopicGetResponse", (Field(1, "topic", Kind.MESSAGE, TOPIC), Field(2, "version", Kind.UINT32))
)
TOPIC_INIT_REQUEST = stored("admin.TopicInitRequest", (Field(1, "number_of_shards", Kind.UINT32),))
TOPIC_ADD_REQUEST = stored("admin.TopicAddRequest", (Field(1, "consumer_service", Kind.MESSAGE, CONSUMER_SERVICE),))
