"""Answers to tagged reads: the compiled reader against the plain codec, errors, bounds."""

import zlib
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.m3db.read.tagged import METHOD, answers, body_of, element_of, segment_of

from m3db.errors import M3DBError, NodeError, ThriftError
from m3db.m3tsz import StreamError, TooManyPointsError, read_points
from m3db.read.fetch import ChecksumError, read_answer, request_body
from m3db.thrift import marshal, unmarshal

Series = tuple[bytes, bytes, list[tuple[int, int, list[tuple[int, int]]]]]
"""Id, tags; of each stream start and size of its block, and its points."""


def compiled(body: bytes) -> tuple[list[Series], bool]:
    answer = read_answer(body)
    columns = list(zip(answer.points.time_ns.tolist(), answer.points.bits.tolist(), strict=True))
    stops = [0, *answer.points.stops.tolist()]
    streams = [
        (start, block, columns[begin:stop])
        for start, block, begin, stop in zip(
            answer.streams["start_ns"].tolist(), answer.streams["block_ns"].tolist(), stops, stops[1:], strict=False
        )
    ]
    ends = [0, *answer.elements["streams"].tolist()]
    found = [(answer.ident(n), answer.tags(n), streams[ends[n] : ends[n + 1]]) for n in range(len(answer))]
    return found, answer.exhaustive


def plainly(body: bytes) -> tuple[list[Series], bool]:
    """The same, from the plain codec and the plain reader of streams."""
    result = METHOD.outcome(body)
    return [_series(element) for element in result["elements"]], result["exhaustive"]


def _series(element: dict[str, Any]) -> Series:
    if "err" in element:
        raise ThriftError("an element that is an error")
    streams = []
    for segments in element.get("segments", []):
        for segment in [segments["merged"]] if "merged" in segments else segments.get("unmerged", []):
            stream = segment["head"] + segment["tail"]
            if segment.get("checksum", zlib.adler32(stream)) != zlib.adler32(stream):
                raise ChecksumError("")
            rows = [(point.time_ns, point.bits) for point in read_points(stream)] if stream else []
            streams.append((segment.get("startTime", 0), segment.get("blockSize", 0), rows))
    return element["id"], element["encodedTags"], streams


@given(answers, st.booleans())
def test_answers(found: list[dict[str, Any]], exhaustive: bool) -> None:
    body = body_of(found, exhaustive=exhaustive)
    assert compiled(body) == plainly(body)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    body = bytearray(body_of(draw(answers)))
    for _ in range(draw(st.integers(1, 3))):
        # Most bytes are zeros, types and numbers: small ones hit more.
        body[draw(st.integers(0, len(body) - 1))] = draw(st.one_of(st.integers(0, 15), st.integers(0, 255)))
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)


@given(damaged())
def test_damaged_answers(body: bytes) -> None:
    try:
        expected: Any = plainly(body)
    except M3DBError:
        with pytest.raises(M3DBError):
            compiled(body)
    else:
        assert compiled(body) == expected


def test_fields_that_occur_again_or_are_unknown() -> None:
    one, other = element_of(b"one", [[[(0, 1.0)]]]), element_of(b"other", [[[(0, 2.0)], [(1, 2.0)]]])
    first, second = body_of([one, one]), body_of([other], exhaustive=False)
    body = first[:3] + first[3:-2] + second[3:-2] + pack(">bhbi", 15, 99, 2, 1) + b"\1" + b"\0\0"
    assert compiled(body) == plainly(body)
    assert [ident for ident, _, _ in compiled(body)[0]] == [b"other"]


def test_a_merged_stream_counts_alone() -> None:
    both = {"unmerged": [segment_of([(1, 1.0)])] * 3, "merged": segment_of([(2, 2.0)])}
    element = element_of(b"a", []) | {"segments": [both]}
    ((_, _, streams),), _ = compiled(body_of([element]))
    assert [len(rows) for _, _, rows in streams] == [1]
    assert compiled(body_of([element])) == plainly(body_of([element]))


def test_more_rows_than_expected() -> None:
    body = body_of([element_of(b"", [], tags=b"")] * 1000 + [element_of(b"x", [[[]] * 40] * 40)])
    assert compiled(body) == plainly(body)


@pytest.mark.parametrize(
    ("segment", "error"),
    [
        (segment_of([(1, 1.0)], checksum=7), ChecksumError),
        (segment_of([(1, 1.0)], tail=b"", checksum=None), StreamError),
        (segment_of([(1, 1.0)], head=None), None),
    ],
)
def test_bad_streams(segment: dict[str, Any], error: type[Exception] | None) -> None:
    element = element_of(b"a", []) | {"segments": [{"merged": segment}]}
    if error is None:
        with pytest.raises(ThriftError, match="head is required"):
            body_of([element])
    else:
        with pytest.raises(error):
            read_answer(body_of([element]))


def test_errors_of_the_node() -> None:
    body = marshal(METHOD.result, {"err": {"type": 1, "message": b"query exceeded limit: \xff", "flags": 1}})
    with pytest.raises(NodeError, match=r"^query exceeded limit: \\xff$") as caught:
        read_answer(body)
    assert caught.value.bad_request
    for empty in (b"", b"\0"):
        with pytest.raises(ThriftError):
            read_answer(empty)
    with pytest.raises(ThriftError, match="^cannot read the 1048577 bytes that fetchTagged has answered$"):
        read_answer(bytes([11]) * ((1 << 20) + 1))


def test_too_many_points() -> None:
    body = body_of([element_of(b"a", [[[(second, 1.0) for second in range(100)]]])])
    assert len(read_answer(body, max_points=100).points.time_ns) == 100
    with pytest.raises(TooManyPointsError):
        read_answer(body, max_points=99)


def test_requests() -> None:
    body = request_body(
        b"ns", b"\x32\0", 1, 2, series_limit=3, docs_limit=4, require_exhaustive=False, fetch_data=False
    )
    assert unmarshal(METHOD.args, body)["req"] == {
        "nameSpace": b"ns",
        "query": b"\x32\0",
        "rangeStart": 1,
        "rangeEnd": 2,
        "fetchData": False,
        "seriesLimit": 3,
        "rangeTimeType": 0,
        "requireExhaustive": False,
        "docsLimit": 4,
        "requireNoWait": False,
    }
    assert "seriesLimit" not in unmarshal(METHOD.args, request_body(b"ns", b"", 1, 2))["req"]
