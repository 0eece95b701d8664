"""Structs of calls that only vectors and tests of nodes make: readable queries, single writes, batches that clients here do not send."""

from m3db.thrift import METHODS, Field, Kind, ListOf, Method, Struct
from m3db.thrift.structs import DATAPOINT, WRITE_BATCH_RAW_ERRORS

_TAG = Struct("Tag", (Field(1, "name", Kind.BINARY, True), Field(2, "value", Kind.BINARY, True)))
_TERM = Struct("TermQuery", (Field(1, "field", Kind.BINARY, True), Field(2, "term", Kind.BINARY, True)))
_REGEXP = Struct("RegexpQuery", (Field(1, "field", Kind.BINARY, True), Field(2, "regexp", Kind.BINARY, True)))
_FIELD = Struct("FieldQuery", (Field(1, "field", Kind.BINARY, True),))
_NEGATION = Struct("NegationQuery", (Field(1, "query", lambda: QUERY, True),))
_SEVERAL = Struct("ConjunctionQuery", (Field(1, "queries", ListOf(lambda: QUERY), True),))
QUERY = Struct(
    "Query",
    (
        Field(1, "term", _TERM),
        Field(2, "regexp", _REGEXP),
        Field(3, "negation", _NEGATION),
        Field(4, "conjunction", _SEVERAL),
        Field(5, "disjunction", _SEVERAL),
        Field(6, "all", Struct("AllQuery")),
        Field(7, "field", _FIELD),
    ),
)
_QUERY_REQUEST = Struct(
    "QueryRequest",
    (
        Field(1, "query", QUERY, True),
        Field(2, "rangeStart", Kind.I64, True),
        Field(3, "rangeEnd", Kind.I64, True),
        Field(4, "nameSpace", Kind.BINARY, True),
        Field(5, "limit", Kind.I64),
        Field(6, "noData", Kind.BOOL),
        Field(7, "rangeType", Kind.I32, default=0),
        Field(8, "resultTimeType", Kind.I32, default=0),
        Field(9, "source", Kind.BINARY),
    ),
)
_QUERY_RESULT_ELEMENT = Struct(
    "QueryResultElement",
    (
        Field(1, "id", Kind.BINARY, True),
        Field(2, "tags", ListOf(_TAG), True),
        Field(3, "datapoints", ListOf(DATAPOINT), True),
    ),
)
_QUERY_RESULT = Struct(
    "QueryResult",
    (Field(1, "results", ListOf(_QUERY_RESULT_ELEMENT), True), Field(2, "exhaustive", Kind.BOOL, True)),
)
_WRITE_TAGGED = Struct(
    "WriteTaggedRequest",
    (
        Field(1, "nameSpace", Kind.BINARY, True),
        Field(2, "id", Kind.BINARY, True),
        Field(3, "tags", ListOf(_TAG), True),
        Field(4, "datapoint", DATAPOINT, True),
    ),
)


def _batch(name: str, *, tagged: bool, several: bool) -> Struct:
    head = [Field(1, "id", Kind.BINARY, True)]
    if tagged:
        head.append(Field(2, "encodedTags", Kind.BINARY, True))
    head.append(Field(len(head) + 1, "datapoint", DATAPOINT, True))
    if several:
        head.append(Field(len(head) + 1, "nameSpace", Kind.I64, True))
    element = ListOf(Struct(f"{name}Element", tuple(head)))
    namespace = (
        Field(1, "nameSpaces", ListOf(Kind.BINARY), True) if several else Field(1, "nameSpace", Kind.BINARY, True)
    )
    return Struct(name, (namespace, Field(2, "elements", element, True)))


ALL_METHODS = {
    **METHODS,
    "query": Method("query", _QUERY_REQUEST, _QUERY_RESULT),
    "writeTagged": Method("writeTagged", _WRITE_TAGGED),
    "writeBatchRaw": Method(
        "writeBatchRaw",
        _batch("WriteBatchRawRequest", tagged=False, several=False),
        error=WRITE_BATCH_RAW_ERRORS,
    ),
    "writeBatchRawV2": Method(
        "writeBatchRawV2", _batch("WriteBatchRawV2Request", tagged=False, several=True), error=WRITE_BATCH_RAW_ERRORS
    ),
    "writeTaggedBatchRawV2": Method(
        "writeTaggedBatchRawV2",
        _batch("WriteTaggedBatchRawV2Request", tagged=True, several=True),
        error=WRITE_BATCH_RAW_ERRORS,
    ),
}
"""Every method that occurs in vectors, by name."""
