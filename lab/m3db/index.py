"""Queries of the index: their bytes as a test of the tags of a series."""

from collections.abc import Callable
from typing import Any

import re2  # type: ignore[import-untyped]

from m3x.protobuf import GENERATED, DecodeError, Field, Kind, Message, unmarshal

__all__ = ["Matcher", "QueryError", "parse_query", "readable_query"]

Matcher = Callable[[dict[bytes, bytes]], bool]
"""Whether a series of these tags belongs to the answer."""
_MAX_DEPTH = 64
_TERM, _REGEXP, _NEGATION, _CONJUNCTION, _DISJUNCTION, _ALL, _FIELD = range(1, 8)
_GO_WORDS = {
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "no argument for repetition operator": "missing argument to repetition operator",
}
"""What Go says of a regular expression, where it says it in other words."""


def _table(name: str, *fields: str, repeated: bool = False) -> Message:
    numbered = tuple(Field(number, field, Kind.BYTES, repeated=repeated) for number, field in enumerate(fields, 1))
    return Message(f"query.{name}", numbered, GENERATED)


# Queries within queries are read as bytes, one after the other.
_QUERY = _table("Query", "term", "regexp", "negation", "conjunction", "disjunction", "all", "field")
_PAIR = _table("TermQuery", "field", "term")
_ONE = _table("NegationQuery", "query")
_SEVERAL = _table("ConjunctionQuery", "queries", repeated=True)


class QueryError(Exception):
    """A query that a node refuses."""


def parse_query(data: bytes, depth: int = 0) -> Matcher:
    """Raises ``QueryError``."""
    if depth > _MAX_DEPTH:
        raise QueryError("query is nested too deeply")
    members = list(_read(_QUERY, data).items())
    if not members:
        raise QueryError("unknown query: ")
    kind, content = members[-1]
    if kind == "all":
        return lambda _: True
    if kind == "term":
        pair = _read(_PAIR, content)
        name, wanted = pair.get("field", b""), pair.get("term", b"")
        return lambda tags: tags.get(name) == wanted
    if kind == "regexp":
        return _regexp(_read(_PAIR, content))
    if kind == "field":
        name = _read(_PAIR, content).get("field", b"")
        return lambda tags: name in tags
    if kind == "negation":
        inner = parse_query(_read(_ONE, content).get("query", b""), depth + 1)
        return lambda tags: not inner(tags)
    parts = [parse_query(part, depth + 1) for part in _read(_SEVERAL, content).get("queries", ())]
    return _all(parts) if kind == "conjunction" else _any(parts)


def readable_query(query: dict[str, Any]) -> Matcher:
    """A query as the struct of ``query`` has it. Raises ``QueryError``."""
    set_ones: list[tuple[str, Any]] = [(name, value) for name, value in query.items() if value is not None]
    if not set_ones:
        raise QueryError("unknown query: ")
    kind, content = set_ones[0]
    if kind == "term":
        name, wanted = content["field"].encode(), content["term"].encode()
        return lambda tags: tags.get(name) == wanted
    if kind == "regexp":
        return _regexp({"field": content["field"].encode(), "term": content["regexp"].encode()})
    if kind == "negation":
        inner = readable_query(content["query"])
        return lambda tags: not inner(tags)
    if kind in ("conjunction", "disjunction"):
        parts = [readable_query(part) for part in content["queries"]]
        return _all(parts) if kind == "conjunction" else _any(parts)
    if kind == "all":
        return lambda _: True
    name = content["field"].encode()
    return lambda tags: name in tags


def _all(parts: list[Matcher]) -> Matcher:
    return lambda tags: bool(parts) and all(part(tags) for part in parts)


def _any(parts: list[Matcher]) -> Matcher:
    return lambda tags: any(part(tags) for part in parts)


def _read(table: Message, data: bytes) -> dict[str, Any]:
    try:
        return unmarshal(table, data)
    except DecodeError as error:
        raise QueryError(error.reason) from None


def _regexp(pair: dict[str, bytes]) -> Matcher:
    name, pattern = pair.get("field", b""), pair.get("term", b"")
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        words, _, where = _text(error.args[0]).partition(": ")
        raise QueryError(f"error parsing regexp: {_GO_WORDS.get(words, words)}: `{where}`") from None
    return lambda tags: name in tags and compiled.fullmatch(tags[name]) is not None


def _text(words: str | bytes) -> str:
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else words
