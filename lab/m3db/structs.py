"""The structs of the methods that a node plays. Numbers and names are facts of the wire format."""

from lab.m3db.thrift import BINARY, BOOL, DOUBLE, I32, I64, STRING, Field, ListOf, MapOf, Struct

__all__ = [
    "AGGREGATE_RAW", "AGGREGATE_RESULT", "BATCH_ERRORS", "EMPTY_RESULT", "ERROR_RESULT", "FETCH", "FETCH_RESULT", "FETCH_TAGGED",
    "FETCH_TAGGED_RESULT", "HEALTH_RESULT", "QUERY", "QUERY_RESULT", "SECONDS", "SET_NEW_SERIES_ASYNC", "TIME_UNITS",
    "VOID_RESULT", "WRITE_BATCH_RAW", "WRITE_TAGGED", "WRITE_TAGGED_BATCH_RAW", "WRITE_TAGGED_BATCH_RAW_V2", "arguments",
]  # fmt: skip

SECONDS = 0
TIME_UNITS = {0: 10**9, 1: 10**3, 2: 10**6, 3: 1}
"""TimeType (s, us, ms, ns) → nanoseconds."""


def arguments(method: str, request: Struct | None = None) -> Struct:
    """The arguments of a method: its request, or nothing."""
    fields = () if request is None else (Field(1, "req", request, required=False),)
    return Struct(f"Node{method[:1].upper()}{method[1:]}Args", fields)


_ERROR = Struct("Error", (Field(1, "type", I32), Field(2, "message", STRING), Field(3, "flags", I64, False, 0)))
_DATAPOINT = Struct(
    "Datapoint",
    (
        Field(1, "timestamp", I64),
        Field(2, "value", DOUBLE),
        Field(3, "annotation", BINARY, False),
        Field(4, "timestampTimeType", I32, False, SECONDS),
    ),
)
_TAG = Struct("Tag", (Field(1, "name", STRING), Field(2, "value", STRING)))

# What most methods answer: nothing, or an exception

VOID_RESULT = Struct("VoidResult", ())
ERROR_RESULT = Struct("ErrorResult", (Field(1, "err", _ERROR),))
EMPTY_RESULT = Struct("EmptyResult", (Field(0, "success", Struct("Empty", ())),))
BATCH_ERRORS = Struct(
    "BatchErrorsResult",
    (
        Field(
            1,
            "err",
            Struct(
                "WriteBatchRawErrors",
                (
                    Field(
                        1, "errors", ListOf(Struct("WriteBatchRawError", (Field(1, "index", I64), Field(2, "err", _ERROR))))
                    ),
                ),
            ),
        ),
    ),
)  # fmt: skip
HEALTH_RESULT = Struct(
    "HealthResult",
    (
        Field(
            0,
            "success",
            Struct(
                "NodeHealthResult_",
                (Field(1, "ok", BOOL), Field(2, "status", STRING), Field(3, "bootstrapped", BOOL), Field(4, "metadata", MapOf(), False)),
            ),
        ),
    ),
)  # fmt: skip

# Writes

_ELEMENT = (Field(1, "iD", BINARY), Field(2, "encodedTags", BINARY), Field(3, "datapoint", _DATAPOINT))
WRITE_TAGGED_BATCH_RAW = arguments(
    "writeTaggedBatchRaw",
    Struct(
        "WriteTaggedBatchRawRequest",
        (
            Field(1, "nameSpace", BINARY),
            Field(2, "elements", ListOf(Struct("WriteTaggedBatchRawRequestElement", _ELEMENT))),
        ),
    ),
)
WRITE_TAGGED_BATCH_RAW_V2 = arguments(
    "writeTaggedBatchRawV2",
    Struct(
        "WriteTaggedBatchRawV2Request",
        (
            Field(1, "nameSpaces", ListOf(BINARY)),
            Field(
                2,
                "elements",
                ListOf(Struct("WriteTaggedBatchRawV2RequestElement", (*_ELEMENT, Field(4, "nameSpace", I64)))),
            ),
        ),
    ),
)
WRITE_BATCH_RAW = arguments(
    "writeBatchRaw",
    Struct(
        "WriteBatchRawRequest",
        (
            Field(1, "nameSpace", BINARY),
            Field(
                2,
                "elements",
                ListOf(Struct("WriteBatchRawRequestElement", (Field(1, "iD", BINARY), Field(2, "datapoint", _DATAPOINT)))),
            ),
        ),
    ),
)  # fmt: skip
WRITE_TAGGED = arguments(
    "writeTagged",
    Struct(
        "WriteTaggedRequest",
        (
            Field(1, "nameSpace", STRING),
            Field(2, "iD", STRING),
            Field(3, "tags", ListOf(_TAG)),
            Field(4, "datapoint", _DATAPOINT),
        ),
    ),
)
SET_NEW_SERIES_ASYNC = arguments(
    "setWriteNewSeriesAsync", Struct("NodeSetWriteNewSeriesAsyncRequest", (Field(1, "writeNewSeriesAsync", BOOL),))
)

# Reads

FETCH_TAGGED = arguments(
    "fetchTagged",
    Struct(
        "FetchTaggedRequest",
        (
            Field(1, "nameSpace", BINARY),
            Field(2, "query", BINARY),
            Field(3, "rangeStart", I64),
            Field(4, "rangeEnd", I64),
            Field(5, "fetchData", BOOL),
            Field(6, "seriesLimit", I64, False),
            Field(7, "rangeTimeType", I32, False, SECONDS),
            Field(8, "requireExhaustive", BOOL, False, True),
            Field(9, "docsLimit", I64, False),
            Field(10, "source", BINARY, False),
            Field(11, "requireNoWait", BOOL, False, False),
        ),
    ),
)
_SEGMENT = Struct(
    "Segment",
    (
        Field(1, "head", BINARY),
        Field(2, "tail", BINARY),
        Field(3, "startTime", I64, False),
        Field(4, "blockSize", I64, False),
        Field(5, "checksum", I64, False),
    ),
)
_SEGMENTS = Struct("Segments", (Field(1, "merged", _SEGMENT, False), Field(2, "unmerged", ListOf(_SEGMENT), False)))
FETCH_TAGGED_RESULT = Struct(
    "FetchTaggedResult",
    (
        Field(
            0,
            "success",
            Struct(
                "FetchTaggedResult_",
                (
                    Field(
                        1,
                        "elements",
                        ListOf(
                            Struct(
                                "FetchTaggedIDResult_",
                                (
                                    Field(1, "iD", BINARY),
                                    Field(2, "nameSpace", BINARY),
                                    Field(3, "encodedTags", BINARY),
                                    Field(4, "segments", ListOf(_SEGMENTS), False),
                                ),
                            )
                        ),
                    ),
                    Field(2, "exhaustive", BOOL),
                ),
            ),
        ),
    ),
)
AGGREGATE_RAW = arguments(
    "aggregateRaw",
    Struct(
        "AggregateQueryRawRequest",
        (
            Field(1, "query", BINARY),
            Field(2, "rangeStart", I64),
            Field(3, "rangeEnd", I64),
            Field(4, "nameSpace", BINARY),
            Field(5, "seriesLimit", I64, False),
            Field(6, "tagNameFilter", ListOf(BINARY), False),
            Field(7, "aggregateQueryType", I32, False, 1),
            Field(8, "rangeType", I32, False, SECONDS),
            Field(9, "source", BINARY, False),
            Field(10, "docsLimit", I64, False),
            Field(11, "requireExhaustive", BOOL, False),
            Field(12, "requireNoWait", BOOL, False),
        ),
    ),
)
AGGREGATE_RESULT = Struct(
    "AggregateResult",
    (
        Field(
            0,
            "success",
            Struct(
                "AggregateQueryRawResult_",
                (
                    Field(
                        1,
                        "results",
                        ListOf(
                            Struct(
                                "AggregateQueryRawResultTagNameElement",
                                (
                                    Field(1, "tagName", BINARY),
                                    Field(
                                        2,
                                        "tagValues",
                                        ListOf(Struct("AggregateQueryRawResultTagValueElement", (Field(1, "tagValue", BINARY),))),
                                        False,
                                    ),
                                ),
                            )
                        ),
                    ),
                    Field(2, "exhaustive", BOOL),
                ),
            ),
        ),
    ),
)  # fmt: skip
FETCH = arguments(
    "fetch",
    Struct(
        "FetchRequest",
        (
            Field(1, "rangeStart", I64),
            Field(2, "rangeEnd", I64),
            Field(3, "nameSpace", STRING),
            Field(4, "iD", STRING),
            Field(5, "rangeType", I32, False, SECONDS),
            Field(6, "resultTimeType", I32, False, SECONDS),
            Field(7, "source", BINARY, False),
        ),
    ),
)
FETCH_RESULT = Struct(
    "FetchResult", (Field(0, "success", Struct("FetchResult_", (Field(1, "datapoints", ListOf(_DATAPOINT)),))),)
)


def _query() -> Struct:
    """A query contains queries."""
    query = Struct("Query", ())
    several = (Field(1, "queries", ListOf(query)),)
    members = (
        Struct("TermQuery", (Field(1, "field", STRING), Field(2, "term", STRING))),
        Struct("RegexpQuery", (Field(1, "field", STRING), Field(2, "regexp", STRING))),
        Struct("NegationQuery", (Field(1, "query", query),)),
        Struct("ConjunctionQuery", several),
        Struct("DisjunctionQuery", several),
        Struct("AllQuery", ()),
        Struct("FieldQuery", (Field(1, "field", STRING),)),
    )
    fields = tuple(
        Field(number, one.name.removesuffix("Query").lower(), one, False) for number, one in enumerate(members, 1)
    )
    object.__setattr__(query, "fields", fields)
    object.__setattr__(query, "by_id", {one.id: one for one in fields})
    return query


QUERY = arguments(
    "query",
    Struct(
        "QueryRequest",
        (
            Field(1, "query", _query()),
            Field(2, "rangeStart", I64),
            Field(3, "rangeEnd", I64),
            Field(4, "nameSpace", STRING),
            Field(5, "limit", I64, False),
            Field(6, "noData", BOOL, False),
            Field(7, "rangeType", I32, False, SECONDS),
            Field(8, "resultTimeType", I32, False, SECONDS),
            Field(9, "source", BINARY, False),
        ),
    ),
)
QUERY_RESULT = Struct(
    "QueryResult",
    (
        Field(
            0,
            "success",
            Struct(
                "QueryResult_",
                (
                    Field(
                        1,
                        "results",
                        ListOf(
                            Struct(
                                "QueryResultElement",
                                (
                                    Field(1, "iD", STRING),
                                    Field(2, "tags", ListOf(_TAG)),
                                    Field(3, "datapoints", ListOf(_DATAPOINT)),
                                ),
                            )
                        ),
                    ),
                    Field(2, "exhaustive", BOOL),
                ),
            ),
        ),
    ),
)
