"""The structs of the calls that a client makes of nodes, names as in M3's rpc.thrift (docs/m3/m3db_wire.md, structs)."""

import enum

from m3db.thrift.schema import Field, Kind, ListOf, MapOf, Struct, Type

__all__ = [
    "AGGREGATE_QUERY_RAW_REQUEST",
    "AGGREGATE_QUERY_RAW_RESULT",
    "DATAPOINT",
    "ERROR",
    "FETCH_TAGGED_REQUEST",
    "FETCH_TAGGED_RESULT",
    "NODE_HEALTH_RESULT",
    "WRITE_BATCH_RAW_ERRORS",
    "WRITE_TAGGED_BATCH_RAW_REQUEST",
    "AggregateType",
    "TimeType",
]


class TimeType(enum.IntEnum):
    """``rpc.TimeType``, the unit of a timestamp. Microseconds come before milliseconds."""

    SECONDS = 0
    MICROSECONDS = 1
    MILLISECONDS = 2
    NANOSECONDS = 3


class AggregateType(enum.IntEnum):
    """``rpc.AggregateQueryType``: names of tags alone, or their values too."""

    NAMES = 0
    NAMES_AND_VALUES = 1


def _required(number: int, name: str, of: Type) -> Field:
    return Field(number, name, of, required=True)


ERROR = Struct(
    "Error",
    (
        _required(1, "type", Kind.I32),
        _required(2, "message", Kind.BINARY),
        Field(3, "flags", Kind.I64, default=0),
    ),
)
_WRITE_BATCH_RAW_ERROR = Struct(
    "WriteBatchRawError",
    (_required(1, "index", Kind.I64), _required(2, "err", ERROR)),
)
WRITE_BATCH_RAW_ERRORS = Struct("WriteBatchRawErrors", (_required(1, "errors", ListOf(_WRITE_BATCH_RAW_ERROR)),))

DATAPOINT = Struct(
    "Datapoint",
    (
        _required(1, "timestamp", Kind.I64),
        _required(2, "value", Kind.DOUBLE),
        Field(3, "annotation", Kind.BINARY),
        Field(4, "timestampTimeType", Kind.I32, default=int(TimeType.SECONDS)),
    ),
)
_WRITE_TAGGED_BATCH_RAW_ELEMENT = Struct(
    "WriteTaggedBatchRawRequestElement",
    (
        _required(1, "id", Kind.BINARY),
        _required(2, "encodedTags", Kind.BINARY),
        _required(3, "datapoint", DATAPOINT),
    ),
)
WRITE_TAGGED_BATCH_RAW_REQUEST = Struct(
    "WriteTaggedBatchRawRequest",
    (_required(1, "nameSpace", Kind.BINARY), _required(2, "elements", ListOf(_WRITE_TAGGED_BATCH_RAW_ELEMENT))),
)

NODE_HEALTH_RESULT = Struct(
    "NodeHealthResult",
    (
        _required(1, "ok", Kind.BOOL),
        _required(2, "status", Kind.BINARY),
        _required(3, "bootstrapped", Kind.BOOL),
        Field(4, "metadata", MapOf(Kind.BINARY, Kind.BINARY)),
    ),
)

FETCH_TAGGED_REQUEST = Struct(
    "FetchTaggedRequest",
    (
        _required(1, "nameSpace", Kind.BINARY),
        _required(2, "query", Kind.BINARY),
        _required(3, "rangeStart", Kind.I64),
        _required(4, "rangeEnd", Kind.I64),
        _required(5, "fetchData", Kind.BOOL),
        Field(6, "seriesLimit", Kind.I64),
        Field(7, "rangeTimeType", Kind.I32, default=0),
        Field(8, "requireExhaustive", Kind.BOOL, default=True),
        Field(9, "docsLimit", Kind.I64),
        Field(10, "source", Kind.BINARY),
        Field(11, "requireNoWait", Kind.BOOL, default=False),
    ),
)
_SEGMENT = Struct(
    "Segment",
    (
        _required(1, "head", Kind.BINARY),
        _required(2, "tail", Kind.BINARY),
        Field(3, "startTime", Kind.I64),
        Field(4, "blockSize", Kind.I64),
        Field(5, "checksum", Kind.I64),
    ),
)
_SEGMENTS = Struct("Segments", (Field(1, "merged", _SEGMENT), Field(2, "unmerged", ListOf(_SEGMENT))))
_FETCH_TAGGED_ID_RESULT = Struct(
    "FetchTaggedIDResult",
    (
        _required(1, "id", Kind.BINARY),
        _required(2, "nameSpace", Kind.BINARY),
        _required(3, "encodedTags", Kind.BINARY),
        Field(4, "segments", ListOf(_SEGMENTS)),
        Field(5, "err", ERROR),
    ),
)
FETCH_TAGGED_RESULT = Struct(
    "FetchTaggedResult",
    (
        _required(1, "elements", ListOf(_FETCH_TAGGED_ID_RESULT)),
        _required(2, "exhaustive", Kind.BOOL),
        Field(3, "waitedIndex", Kind.I64),
        Field(4, "waitedSeriesRead", Kind.I64),
    ),
)

AGGREGATE_QUERY_RAW_REQUEST = Struct(
    "AggregateQueryRawRequest",
    (
        _required(1, "query", Kind.BINARY),
        _required(2, "rangeStart", Kind.I64),
        _required(3, "rangeEnd", Kind.I64),
        _required(4, "nameSpace", Kind.BINARY),
        Field(5, "seriesLimit", Kind.I64),
        Field(6, "tagNameFilter", ListOf(Kind.BINARY)),
        Field(7, "aggregateQueryType", Kind.I32, default=int(AggregateType.NAMES_AND_VALUES)),
        Field(8, "rangeType", Kind.I32, default=0),
        Field(9, "source", Kind.BINARY),
        Field(10, "docsLimit", Kind.I64),
        Field(11, "requireExhaustive", Kind.BOOL),
        Field(12, "requireNoWait", Kind.BOOL),
    ),
)
_TAG_VALUE = Struct("AggregateQueryRawResultTagValueElement", (_required(1, "tagValue", Kind.BINARY),))
_TAG_NAME = Struct(
    "AggregateQueryRawResultTagNameElement",
    (_required(1, "tagName", Kind.BINARY), Field(2, "tagValues", ListOf(_TAG_VALUE))),
)
AGGREGATE_QUERY_RAW_RESULT = Struct(
    "AggregateQueryRawResult",
    (
        _required(1, "results", ListOf(_TAG_NAME)),
        _required(2, "exhaustive", Kind.BOOL),
        Field(3, "waitedIndex", Kind.I64),
    ),
)
