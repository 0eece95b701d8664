"""Queries of the index as a played node understands them."""

import pytest
from lab.m3db.index import QueryError, parse_query

SERIES = {b"__name__": b"up", b"host": b"web1", b"empty": b""}


def part(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def pair(number: int, name: bytes, value: bytes) -> bytes:
    return part(number, part(1, name) + (part(2, value) if value else b""))


TERM, OTHER = pair(1, b"host", b"web1"), pair(1, b"host", b"web2")
ALL = part(6, b"")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (ALL, True),
        (TERM, True),
        (OTHER, False),
        (pair(1, b"empty", b""), True),
        (pair(1, b"none", b""), False),
        (pair(2, b"host", b"web[0-9]"), True),
        (pair(2, b"host", b"web"), False),
        (pair(2, b"none", b".*"), False),
        (part(3, part(1, OTHER)), True),
        (part(4, b""), False),
        (part(4, part(1, TERM) + part(1, part(3, part(1, OTHER)))), True),
        (part(4, part(1, TERM) + part(1, OTHER)), False),
        (part(5, b""), False),
        (part(5, part(1, OTHER) + part(1, TERM)), True),
        (part(7, part(1, b"host")), True),
        (part(7, part(1, b"none")), False),
    ],
)
def test_queries(query: bytes, found: bool) -> None:
    assert parse_query(query)(SERIES) is found


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (b"", "unknown query: "),
        (part(3, part(1, b"")), "unknown query: "),
        (b"\xff\xff\xff", "unexpected EOF"),
        (pair(2, b"host", b"("), "error parsing regexp: missing closing ): `(`"),
        (pair(2, b"host", b"["), "error parsing regexp: missing closing ]: `[`"),
        (pair(2, b"host", b"*"), "error parsing regexp: missing argument to repetition operator: `*`"),
    ],
)
def test_queries_that_are_refused(query: bytes, text: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_query(query)
    assert str(caught.value) == text
