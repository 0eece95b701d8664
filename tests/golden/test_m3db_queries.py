"""Queries of M3DB's index: what M3's library makes of matchers, its bytes and texts of queries."""

import pytest
from tests.golden.vectors import Vector, lines

from m3db.read.index_query import (
    IndexMatcher,
    IndexQueryError,
    MatchKind,
    marshal_query,
    query_of,
    query_text,
    unmarshal_query,
)

OPS = dict(zip(("=", "!=", "=~", "!~", "field", "not_field", "all"), MatchKind, strict=True))
VECTORS = [
    pytest.param(vector, id=f"{number}-{vector.get('name') or vector['matchers']}")
    for number, vector in enumerate(lines("m3db/queries.jsonl"), 1)
]


@pytest.mark.parametrize("vector", VECTORS)
def test_queries(vector: Vector) -> None:
    if "matchers" in vector:
        matchers = [IndexMatcher(OPS[op], name.encode(), value.encode()) for name, op, value in vector["matchers"]]
        if "error" in vector:
            with pytest.raises(IndexQueryError) as caught:
                query_of(matchers)
            assert str(caught.value) == vector["error"]
            return
        query = query_of(matchers)
    else:
        query = unmarshal_query(bytes.fromhex(vector["hex"]))
    assert query_text(query) == vector["string"].encode()
    assert marshal_query(query).hex() == vector["hex"]
    assert unmarshal_query(bytes.fromhex(vector["hex"])) == query
