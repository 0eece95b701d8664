"""etcd's v3 messages, as far as the store uses them: numbers and names are facts of the wire format (etcdserverpb, mvccpb).

Fields that nobody here reads are left out; the codec skips them. Enumerations are written as their numbers.
"""

from m3x.protobuf import Field, Kind, Message

__all__ = [
    "COMPARE_CREATE",
    "COMPARE_VERSION",
    "DELETE_RANGE_REQUEST",
    "DELETE_RANGE_RESPONSE",
    "EVENT_DELETE",
    "LEASE_GRANT_REQUEST",
    "LEASE_GRANT_RESPONSE",
    "LEASE_KEEP_ALIVE_REQUEST",
    "LEASE_KEEP_ALIVE_RESPONSE",
    "LEASE_REVOKE_REQUEST",
    "LEASE_REVOKE_RESPONSE",
    "PUT_REQUEST",
    "PUT_RESPONSE",
    "RANGE_REQUEST",
    "RANGE_RESPONSE",
    "TXN_REQUEST",
    "TXN_RESPONSE",
    "WATCH_REQUEST",
    "WATCH_RESPONSE",
]

COMPARE_VERSION, COMPARE_CREATE = 0, 1
"""``Compare.target``; its ``result`` is always 0, EQUAL."""
EVENT_DELETE = 1
"""``Event.type``; 0 is PUT."""

_HEADER = Message("etcdserverpb.ResponseHeader", (Field(3, "revision", Kind.INT64),))
_HEADER_FIELD = Field(1, "header", Kind.MESSAGE, _HEADER)

_KEY_VALUE = Message(
    "mvccpb.KeyValue",
    (
        Field(1, "key", Kind.BYTES),
        Field(2, "create_revision", Kind.INT64),
        Field(3, "mod_revision", Kind.INT64),
        Field(4, "version", Kind.INT64),
        Field(5, "value", Kind.BYTES),
        Field(6, "lease", Kind.INT64),
    ),
)

RANGE_REQUEST = Message(
    "etcdserverpb.RangeRequest",
    (
        Field(1, "key", Kind.BYTES),
        Field(2, "range_end", Kind.BYTES),
        Field(4, "revision", Kind.INT64),
        Field(8, "keys_only", Kind.BOOL),
    ),
)
RANGE_RESPONSE = Message(
    "etcdserverpb.RangeResponse",
    (_HEADER_FIELD, Field(2, "kvs", Kind.MESSAGE, _KEY_VALUE, repeated=True)),
)

PUT_REQUEST = Message(
    "etcdserverpb.PutRequest",
    (
        Field(1, "key", Kind.BYTES),
        Field(2, "value", Kind.BYTES),
        Field(3, "lease", Kind.INT64),
        Field(4, "prev_kv", Kind.BOOL),
    ),
)
PUT_RESPONSE = Message(
    "etcdserverpb.PutResponse",
    (_HEADER_FIELD, Field(2, "prev_kv", Kind.MESSAGE, _KEY_VALUE)),
)

DELETE_RANGE_REQUEST = Message(
    "etcdserverpb.DeleteRangeRequest", (Field(1, "key", Kind.BYTES), Field(3, "prev_kv", Kind.BOOL))
)
DELETE_RANGE_RESPONSE = Message(
    "etcdserverpb.DeleteRangeResponse",
    (
        _HEADER_FIELD,
        Field(2, "deleted", Kind.INT64),
        Field(3, "prev_kvs", Kind.MESSAGE, _KEY_VALUE, repeated=True),
    ),
)

_COMPARE = Message(
    "etcdserverpb.Compare",
    (
        Field(1, "result", Kind.INT32),
        Field(2, "target", Kind.INT32),
        Field(3, "key", Kind.BYTES),
        Field(4, "version", Kind.INT64),
        Field(5, "create_revision", Kind.INT64),
    ),
)
_REQUEST_OP = Message(
    "etcdserverpb.RequestOp",
    (
        Field(1, "range", Kind.MESSAGE, RANGE_REQUEST),
        Field(2, "put", Kind.MESSAGE, PUT_REQUEST),
        Field(3, "delete_range", Kind.MESSAGE, DELETE_RANGE_REQUEST),
    ),
)
_RESPONSE_OP = Message(
    "etcdserverpb.ResponseOp",
    (
        Field(1, "range", Kind.MESSAGE, RANGE_RESPONSE),
        Field(2, "put", Kind.MESSAGE, PUT_RESPONSE),
        Field(3, "delete_range", Kind.MESSAGE, DELETE_RANGE_RESPONSE),
    ),
)
TXN_REQUEST = Message(
    "etcdserverpb.TxnRequest",
    (
        Field(1, "compare", Kind.MESSAGE, _COMPARE, repeated=True),
        Field(2, "success", Kind.MESSAGE, _REQUEST_OP, repeated=True),
        Field(3, "failure", Kind.MESSAGE, _REQUEST_OP, repeated=True),
    ),
)
TXN_RESPONSE = Message(
    "etcdserverpb.TxnResponse",
    (
        _HEADER_FIELD,
        Field(2, "succeeded", Kind.BOOL),
        Field(3, "responses", Kind.MESSAGE, _RESPONSE_OP, repeated=True),
    ),
)

_WATCH_CREATE = Message(
    "etcdserverpb.WatchCreateRequest",
    (
        Field(1, "key", Kind.BYTES),
        Field(2, "range_end", Kind.BYTES),
        Field(3, "start_revision", Kind.INT64),
        Field(4, "progress_notify", Kind.BOOL),
        Field(7, "watch_id", Kind.INT64),
    ),
)
_WATCH_CANCEL = Message("etcdserverpb.WatchCancelRequest", (Field(1, "watch_id", Kind.INT64),))
_WATCH_PROGRESS = Message("etcdserverpb.WatchProgressRequest", ())
WATCH_REQUEST = Message(
    "etcdserverpb.WatchRequest",
    (
        Field(1, "create", Kind.MESSAGE, _WATCH_CREATE),
        Field(2, "cancel", Kind.MESSAGE, _WATCH_CANCEL),
        Field(3, "progress", Kind.MESSAGE, _WATCH_PROGRESS),
    ),
)
_EVENT = Message("mvccpb.Event", (Field(1, "type", Kind.INT32), Field(2, "kv", Kind.MESSAGE, _KEY_VALUE)))
WATCH_RESPONSE = Message(
    "etcdserverpb.WatchResponse",
    (
        _HEADER_FIELD,
        Field(2, "watch_id", Kind.INT64),
        Field(3, "created", Kind.BOOL),
        Field(4, "canceled", Kind.BOOL),
        Field(5, "compact_revision", Kind.INT64),
        Field(6, "cancel_reason", Kind.STRING),
        Field(11, "events", Kind.MESSAGE, _EVENT, repeated=True),
    ),
)

LEASE_GRANT_REQUEST = Message("etcdserverpb.LeaseGrantRequest", (Field(1, "ttl", Kind.INT64),))
LEASE_GRANT_RESPONSE = Message(
    "etcdserverpb.LeaseGrantResponse",
    (_HEADER_FIELD, Field(2, "id", Kind.INT64), Field(3, "ttl", Kind.INT64), Field(4, "error", Kind.STRING)),
)
LEASE_REVOKE_REQUEST = Message("etcdserverpb.LeaseRevokeRequest", (Field(1, "id", Kind.INT64),))
LEASE_REVOKE_RESPONSE = Message("etcdserverpb.LeaseRevokeResponse", (_HEADER_FIELD,))
LEASE_KEEP_ALIVE_REQUEST = Message("etcdserverpb.LeaseKeepAliveRequest", (Field(1, "id", Kind.INT64),))
LEASE_KEEP_ALIVE_RESPONSE = Message(
    "etcdserverpb.LeaseKeepAliveResponse",
    (_HEADER_FIELD, Field(2, "id", Kind.INT64), Field(3, "ttl", Kind.INT64)),
)
