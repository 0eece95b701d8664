"""Queries of M3DB's index: label matchers → tree → the bytes and the text that M3 gives them (docs/m3/m3db_reading.md, index queries)."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import re2  # type: ignore[import-untyped]

from m3db.errors import M3DBError
from m3x.protobuf import Field, Kind, Message, marshal, unmarshal

__all__ = [
    "AllQuery",
    "ConjunctionQuery",
    "DisjunctionQuery",
    "FieldQuery",
    "IndexMatcher",
    "IndexQueryError",
    "MatchKind",
    "NegationQuery",
    "Query",
    "RegexpQuery",
    "TermQuery",
    "conjunction",
    "disjunction",
    "marshal_query",
    "query_of",
    "query_text",
    "unmarshal_query",
]


class IndexQueryError(M3DBError, ValueError):
    """A matcher or bytes of which no query can be made."""


class MatchKind(enum.IntEnum):
    """What a matcher asks of a tag; the first four as numbered in Prometheus' remote read protocol."""

    EQUAL = 0
    NOT_EQUAL = 1
    REGEXP = 2
    NOT_REGEXP = 3
    FIELD = 4
    """Series that have the tag, whatever its value."""
    NOT_FIELD = 5
    ALL = 6
    """All series."""


class IndexMatcher(NamedTuple):
    """A condition on one tag. Regular expressions are RE2 and match whole values."""

    kind: MatchKind
    name: bytes
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class AllQuery:
    """All series."""


@dataclass(frozen=True, slots=True)
class FieldQuery:
    """Series that have a tag."""

    field: bytes


@dataclass(frozen=True, slots=True)
class TermQuery:
    """Series whose tag has exactly this value."""

    field: bytes
    term: bytes


@dataclass(frozen=True, slots=True)
class RegexpQuery:
    """Series that have the tag, with a value that matches."""

    field: bytes
    regexp: bytes


@dataclass(frozen=True, slots=True)
class NegationQuery:
    """What another query does not match."""

    query: "Query"


@dataclass(frozen=True, slots=True)
class ConjunctionQuery:
    """What all of ``queries`` match and none of ``negations``; nothing without ``queries``. Made by ``conjunction``."""

    queries: tuple["Query", ...]
    negations: tuple["Query", ...] = ()


@dataclass(frozen=True, slots=True)
class DisjunctionQuery:
    """What any of ``queries`` matches. Made by ``disjunction``."""

    queries: tuple["Query", ...]


Query = AllQuery | FieldQuery | TermQuery | RegexpQuery | NegationQuery | ConjunctionQuery | DisjunctionQuery


def conjunction(members: Iterable[Query]) -> ConjunctionQuery:
    """In M3's normal form: flat, sorted by text, negations last. Unlike in M3 a conjunction within keeps its own negations."""
    queries: list[Query] = []
    negations: list[Query] = []
    for member in members:
        within: tuple[Query, ...] = (member,)
        if isinstance(member, ConjunctionQuery):
            within = member.queries
            negations += member.negations
        for one in within:
            # The only one of a conjunction may be a negation.
            if isinstance(one, NegationQuery):
                negations.append(one.query)
            else:
                queries.append(one)
    if not queries and negations:
        # Something has to be there that the rest is taken away from.
        queries.append(NegationQuery(negations.pop(0)))
    return ConjunctionQuery(_sorted(queries), _sorted(negations))


def disjunction(members: Iterable[Query]) -> DisjunctionQuery:
    """In M3's normal form: flat, sorted by text."""
    queries: list[Query] = []
    for member in members:
        queries += member.queries if isinstance(member, DisjunctionQuery) else (member,)
    return DisjunctionQuery(_sorted(queries))


def _sorted(queries: list[Query]) -> tuple[Query, ...]:
    return tuple(sorted(queries, key=query_text))


def query_of(matchers: Sequence[IndexMatcher]) -> Query:
    """The query that M3's coordinator makes of PromQL matchers. Raises ``IndexQueryError`` for a bad regular expression.

    As in M3, several matchers that are all ``=~".*"`` make an empty conjunction, which matches nothing.
    """
    queries = [_query_of(matcher) for matcher in matchers]
    kept = [query for query in queries if query is not None]
    if len(matchers) < 2:
        return kept[0] if kept else AllQuery()
    return conjunction(kept)


def _query_of(matcher: IndexMatcher) -> Query | None:
    """None for a matcher that restricts nothing."""
    kind, name, value = matcher
    if kind is MatchKind.ALL:
        return AllQuery()
    if kind is MatchKind.FIELD:
        return FieldQuery(name)
    if kind is MatchKind.NOT_FIELD:
        return NegationQuery(FieldQuery(name))
    negated = kind in (MatchKind.NOT_EQUAL, MatchKind.NOT_REGEXP)
    if not value:
        return _negated(FieldQuery(name), not negated)
    if kind in (MatchKind.EQUAL, MatchKind.NOT_EQUAL):
        return _negated(TermQuery(name, value), negated)
    if value == b".*":
        return NegationQuery(AllQuery()) if negated else None
    if value == b".+":
        return _negated(FieldQuery(name), negated)
    regexp = RegexpQuery(name, value)
    if not _matches_empty(value):
        return _negated(regexp, negated)
    if negated:
        return conjunction((NegationQuery(regexp), FieldQuery(name)))
    return disjunction((regexp, NegationQuery(FieldQuery(name))))


def _negated(query: Query, negate: bool) -> Query:
    return NegationQuery(query) if negate else query


_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_GO_TEXTS = {
    b"missing )": "missing closing )",
    b"missing ]": "missing closing ]",
    b"trailing \\": "trailing backslash at end of expression",
    b"no argument for repetition operator": "missing argument to repetition operator",
    b"bad repetition operator": "invalid nested repetition operator",
    b"invalid repetition size": "invalid repeat count",
    b"invalid perl operator": "invalid or unsupported Perl syntax",
    b"invalid named capture group": "invalid named capture",
}
"""Texts of RE2 that are others in Go."""


def _matches_empty(regexp: bytes) -> bool:
    try:
        return re2.compile(regexp, _OPTIONS).fullmatch(b"") is not None
    except re2.error as error:
        reason, _, argument = bytes(error.args[0]).partition(b": ")
        text = _GO_TEXTS.get(reason, reason.decode(errors="replace"))
        raise IndexQueryError(
            f"regex error: error parsing regexp: {text}: `{argument.decode(errors='replace')}`"
        ) from None


def query_text(query: Query) -> bytes:
    """As M3 writes it in logs, and sorts by."""
    match query:
        case AllQuery():
            return b"all()"
        case FieldQuery(field):
            return b"field(%b)" % field
        case TermQuery(field, term):
            return b"term(%b,%b)" % (field, term)
        case RegexpQuery(field, regexp):
            return b"regexp(%b,%b)" % (field, regexp)
        case NegationQuery(inner):
            return b"negation(%b)" % query_text(inner)
        case DisjunctionQuery(queries):
            return b"disjunction(%b)" % b", ".join(map(query_text, queries))
        case ConjunctionQuery(queries, negations):
            text = b", ".join(map(query_text, queries))
            if negations:
                text += b"," + b", ".join(b"negation(%b)" % query_text(negation) for negation in negations)
            return b"conjunction(%b)" % text


# Queries within queries are read as bytes, one level at a time.
_TERM = Message("query.TermQuery", (Field(1, "field", Kind.BYTES), Field(2, "term", Kind.BYTES)))
_REGEXP = Message("query.RegexpQuery", (Field(1, "field", Kind.BYTES), Field(2, "regexp", Kind.BYTES)))
_NEGATION = Message("query.NegationQuery", (Field(1, "query", Kind.BYTES),))
_CONJUNCTION = Message("query.ConjunctionQuery", (Field(1, "queries", Kind.BYTES, repeated=True),))
_DISJUNCTION = Message("query.DisjunctionQuery", (Field(1, "queries", Kind.BYTES, repeated=True),))
_ALL = Message("query.AllQuery", ())
_FIELD = Message("query.FieldQuery", (Field(1, "field", Kind.BYTES),))
_QUERY = Message(
    "query.Query",
    (
        Field(1, "term", Kind.MESSAGE, _TERM),
        Field(2, "regexp", Kind.MESSAGE, _REGEXP),
        Field(3, "negation", Kind.MESSAGE, _NEGATION),
        Field(4, "conjunction", Kind.MESSAGE, _CONJUNCTION),
        Field(5, "disjunction", Kind.MESSAGE, _DISJUNCTION),
        Field(6, "all", Kind.MESSAGE, _ALL),
        Field(7, "field", Kind.MESSAGE, _FIELD),
    ),
)
_MAX_DEPTH = 32


def marshal_query(query: Query) -> bytes:
    """The bytes of a query, as in requests."""
    match query:
        case AllQuery():
            value: dict[str, object] = {"all": {}}
        case FieldQuery(field):
            value = {"field": {"field": field}}
        case TermQuery(field, term):
            value = {"term": {"field": field, "term": term}}
        case RegexpQuery(field, regexp):
            value = {"regexp": {"field": field, "regexp": regexp}}
        case NegationQuery(inner):
            value = {"negation": {"query": marshal_query(inner)}}
        case DisjunctionQuery(queries):
            value = {"disjunction": {"queries": [marshal_query(member) for member in queries]}}
        case ConjunctionQuery(queries, negations):
            members = [*queries, *map(NegationQuery, negations)]
            value = {"conjunction": {"queries": [marshal_query(member) for member in members]}}
    return marshal(_QUERY, value)


def unmarshal_query(data: bytes) -> Query:
    """The query of some bytes, in normal form. Raises ``IndexQueryError``."""
    return _unmarshal(data, 0)


def _unmarshal(data: bytes, depth: int) -> Query:
    if depth > _MAX_DEPTH:
        raise IndexQueryError(f"a query nested more than {_MAX_DEPTH} deep")
    try:
        parts = [(name, value) for name, value in unmarshal(_QUERY, data).items() if value is not None]
    except ValueError as error:
        raise IndexQueryError(str(error)) from error
    if len(parts) != 1:
        raise IndexQueryError(f"a query of {len(parts)} kinds, expected one")
    ((name, value),) = parts
    match name:
        case "term":
            return TermQuery(value["field"], value["term"])
        case "regexp":
            return RegexpQuery(value["field"], value["regexp"])
        case "field":
            return FieldQuery(value["field"])
        case "negation":
            return NegationQuery(_unmarshal(value["query"], depth + 1))
        case "conjunction":
            return conjunction(_unmarshal(member, depth + 1) for member in value["queries"])
        case "disjunction":
            return disjunction(_unmarshal(member, depth + 1) for member in value["queries"])
    return AllQuery()
