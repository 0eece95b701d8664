"""Bodies of the admin API beyond ``init``, as tables (docs/m3/cluster.md, messages)."""

from m3cluster.proto.messages import CONSUMER_SERVICE, INSTANCE, OPTIONS, PLACEMENT
from m3x.protobuf import Field, Kind, Message

__all__ = [
    "PLACEMENT_ADD_REQUEST",
    "PLACEMENT_REMOVE_REQUEST",
    "PLACEMENT_REPLACE_REQUEST",
    "PLACEMENT_SET_REQUEST",
    "PLACEMENT_SET_RESPONSE",
    "QUERY_LIMITS",
    "TOPIC_UPDATE_REQUEST",
]

_OVERRIDE = Field(99, "option_override", Kind.MESSAGE, OPTIONS)

PLACEMENT_ADD_REQUEST = Message(
    "admin.PlacementAddRequest",
    (Field(1, "instances", Kind.MESSAGE, INSTANCE, repeated=True), Field(2, "force", Kind.BOOL), _OVERRIDE),
)
PLACEMENT_REMOVE_REQUEST = Message(
    "admin.PlacementRemoveRequest",
    (Field(1, "instance_ids", Kind.STRING, repeated=True), Field(2, "force", Kind.BOOL), _OVERRIDE),
)
PLACEMENT_REPLACE_REQUEST = Message(
    "admin.PlacementReplaceRequest",
    (
        Field(1, "leavingInstanceIDs", Kind.STRING, repeated=True),
        Field(2, "candidates", Kind.MESSAGE, INSTANCE, repeated=True),
        Field(3, "force", Kind.BOOL),
        _OVERRIDE,
    ),
)
PLACEMENT_SET_REQUEST = Message(
    "admin.PlacementSetRequest",
    (
        Field(1, "placement", Kind.MESSAGE, PLACEMENT),
        Field(2, "version", Kind.INT32),
        Field(3, "confirm", Kind.BOOL),
        Field(4, "force", Kind.BOOL),
    ),
)
PLACEMENT_SET_RESPONSE = Message(
    "admin.PlacementSetResponse",
    (
        Field(1, "placement", Kind.MESSAGE, PLACEMENT),
        Field(2, "version", Kind.INT32),
        Field(3, "dry_run", Kind.BOOL),
    ),
)
TOPIC_UPDATE_REQUEST = Message(
    "admin.TopicUpdateRequest",
    (
        Field(1, "consumer_services", Kind.MESSAGE, CONSUMER_SERVICE, repeated=True),
        Field(2, "version", Kind.UINT32),
    ),
)

_QUERY_LIMIT = Message(
    "kvpb.QueryLimit",
    (
        Field(1, "limit", Kind.INT64),
        Field(2, "lookbackSeconds", Kind.INT64),
        Field(3, "forceExceeded", Kind.BOOL),
        Field(4, "forceWaited", Kind.BOOL),
    ),
)
QUERY_LIMITS = Message(
    "kvpb.QueryLimits",
    tuple(
        Field(number, name, Kind.MESSAGE, _QUERY_LIMIT)
        for number, name in enumerate(
            (
                "maxRecentlyQueriedSeriesBlocks",
                "maxRecentlyQueriedSeriesDiskBytesRead",
                "maxRecentlyQueriedSeriesDiskRead",
                "maxRecentlyQueriedMetadataRead",
            ),
            1,
        )
    ),
)
