"""Names and values of tags: the compiled reader against the plain codec, several answers, limits."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3db.errors import M3DBError, NodeError
from m3db.read.aggregate import Aggregated, merge_aggregated, read_aggregated, request_body
from m3db.thrift import METHODS, marshal, unmarshal

METHOD = METHODS["aggregateRaw"]
Names = Sequence[tuple[bytes, Sequence[bytes] | None]]
words = st.binary(max_size=6)
names = st.lists(st.tuples(words, st.none() | st.lists(words, max_size=4)), max_size=4)


def body_of(found: Names, exhaustive: bool = True) -> bytes:
    results = [
        {"tagName": name} | ({} if values is None else {"tagValues": [{"tagValue": value} for value in values]})
        for name, values in found
    ]
    return marshal(METHOD.result, {"success": {"results": results, "exhaustive": exhaustive}})


def plainly(body: bytes) -> Aggregated:
    result = METHOD.outcome(body)
    tags: dict[bytes, set[bytes]] = {}
    for one in result["results"]:
        tags.setdefault(one["tagName"], set()).update(value["tagValue"] for value in one.get("tagValues", []))
    return Aggregated({name: sorted(tags[name]) for name in sorted(tags)}, result["exhaustive"])


@given(names, st.booleans())
def test_answers(found: Names, exhaustive: bool) -> None:
    body = body_of(found, exhaustive)
    assert read_aggregated(body) == plainly(body)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    body = bytearray(body_of(draw(names)))
    for _ in range(draw(st.integers(1, 3))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.one_of(st.integers(0, 15), st.integers(0, 255)))
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)


@given(damaged())
def test_damaged_answers(body: bytes) -> None:
    try:
        expected = plainly(body)
    except M3DBError:
        with pytest.raises(M3DBError):
            read_aggregated(body)
    else:
        assert read_aggregated(body) == expected


def test_more_rows_than_expected() -> None:
    body = body_of([(b"", [b""] * 1000)] * 50)
    assert read_aggregated(body) == Aggregated({b"": [b""]}, True)


def test_errors_of_the_node() -> None:
    with pytest.raises(NodeError, match="^unknown namespace: x$"):
        read_aggregated(marshal(METHOD.result, {"err": {"type": 1, "message": b"unknown namespace: x"}}))


def test_several_answers() -> None:
    one = Aggregated({b"b": [b"1", b"3"], b"c": []}, True)
    other = Aggregated({b"a": [b"x"], b"b": [b"2", b"3"]}, True)
    both = merge_aggregated([one, other])
    assert both == Aggregated({b"a": [b"x"], b"b": [b"1", b"2", b"3"], b"c": []}, True)
    assert list(both.tags) == [b"a", b"b", b"c"]
    assert not merge_aggregated([one, Aggregated({}, False)]).exhaustive
    assert merge_aggregated([one, other], limit=1) == Aggregated({b"a": [b"x"]}, False)
    assert merge_aggregated([one, other], limit=3) == Aggregated({b"a": [b"x"], b"b": [b"1", b"2", b"3"]}, False)
    assert merge_aggregated([one, other], limit=5) == both


def test_requests() -> None:
    where = (b"ns", b"\x32\0", 1, 2)
    assert unmarshal(METHOD.args, request_body(*where))["req"] == {
        "query": b"\x32\0",
        "rangeStart": 1,
        "rangeEnd": 2,
        "nameSpace": b"ns",
        "tagNameFilter": [],
        "aggregateQueryType": 1,
        "rangeType": 0,
        "requireExhaustive": True,
    }
    body = request_body(*where, names=[b"a"], names_only=True, series_limit=3, docs_limit=4, require_exhaustive=False)
    assert unmarshal(METHOD.args, body)["req"] == {
        "query": b"\x32\0",
        "rangeStart": 1,
        "rangeEnd": 2,
        "nameSpace": b"ns",
        "seriesLimit": 3,
        "tagNameFilter": [b"a"],
        "aggregateQueryType": 0,
        "rangeType": 0,
        "docsLimit": 4,
    }
