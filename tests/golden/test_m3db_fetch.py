"""What real nodes have answered to tagged reads: segments, checksums, points, and what becomes of them when they are merged."""

import itertools
from base64 import b64decode
from struct import pack, unpack
from typing import Any

import pytest
from tests.golden.vectors import Vector, cases, from_bits

from m3db.errors import NodeError
from m3db.m3tsz import Encoder, Unit, read_points
from m3db.read import aggregate, fetch
from m3db.read.fetch import TaggedAnswer, read_answer
from m3db.read.index_query import marshal_query, unmarshal_query
from m3db.read.merge import merge
from m3db.tchannel import Answered, Inbound
from m3db.tchannel.calls import Assembly
from m3db.tchannel.fragments import RequestHead, read_fragment
from m3db.tchannel.frames import FrameReader
from m3db.thrift import METHODS, StructValue, unmarshal

UNITS = {unit.short: int(unit) for unit in Unit}
EVER = (-(1 << 63), (1 << 63) - 1)
BAD_QUERIES = {"query_empty", "query_garbage"}
"""Queries that the test client has not made of anything."""
Row = tuple[int, int, int, bytes]


def bits_of(written: Any) -> int:
    """Of a value as the vectors write it."""
    value = from_bits(written.removeprefix("bits:")) if isinstance(written, str) else float(written)
    bits: int = unpack(">Q", pack(">d", value))[0]
    return bits


def row_of(time_ns: int, value: Any, unit: str, annotation: str = "") -> Row:
    return time_ns, bits_of(value), UNITS[unit], bytes.fromhex(annotation)


def frames_of(vector: Vector, direction: str) -> bytes:
    """The frames of one side behind the handshake."""
    return b"".join([b64decode(frame) for way, frame in vector["frames"] if way == direction][1:])


def answer_of(vector: Vector) -> Answered:
    """What the node answered."""
    data = frames_of(vector, "<")
    (event,) = Inbound({int.from_bytes(data[4:8], "big"): None}).feed(data)
    assert isinstance(event, Answered)
    return event


def request_of(vector: Vector) -> tuple[str, bytes]:
    """Method and argument bytes of the call."""
    first, *rest = FrameReader().feed(frames_of(vector, ">"))
    assembly = Assembly(read_fragment(first))
    for frame in rest:
        assembly.add(read_fragment(frame))
    assert isinstance(assembly.head, RequestHead)
    return bytes(assembly.arguments[0]).decode().removeprefix("Node::"), bytes(assembly.arguments[2])


def vectors_of(*methods: str) -> list[Any]:
    found = cases("m3db/fetch.jsonl.gz", "name")
    return [case for case in found if request_of(case.values[0])[0] in methods]


def segments_of(decoded: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The segments of each element, in their order."""
    return [
        [
            segment
            for block in element["segments"]
            for segment in ([block["merged"]] if "merged" in block else block["unmerged"])
        ]
        for element in decoded["elements"]
    ]


def points_of(answer: TaggedAnswer) -> list[list[Row]]:
    """The points of each stream."""
    points = answer.points
    notes = {int(row): points.annotation(note, answer.arena) for note, row in enumerate(points.notes[:, 0])}
    columns = zip(points.time_ns.tolist(), points.bits.tolist(), points.unit.tolist(), strict=True)
    rows = [(*row, notes.get(number, b"")) for number, row in enumerate(columns)]
    stops = points.stops.tolist()
    return [rows[begin:stop] for begin, stop in zip([0, *stops], stops, strict=False)]


def check_answer(answer: TaggedAnswer, decoded: dict[str, Any]) -> None:
    assert answer.exhaustive == decoded["exhaustive"]
    assert [answer.ident(n).decode() for n in range(len(answer))] == [one["id"] for one in decoded["elements"]]
    assert [answer.tags(n).hex() for n in range(len(answer))] == [one["encodedTags_hex"] for one in decoded["elements"]]
    segments = segments_of(decoded)
    assert [int(n) for n in answer.elements["streams"]] == [
        sum(map(len, segments[: n + 1])) for n in range(len(segments))
    ]
    flat = [segment for some in segments for segment in some]
    for name, column in (("startTime", "start_ns"), ("blockSize", "block_ns"), ("checksum", "checksum")):
        assert answer.streams[column].tolist() == [segment[name] for segment in flat]
    expected = [[row_of(*row) for row in segment["points"]] for segment in flat]
    assert points_of(answer) == expected
    plainly = [list(read_points(b64decode(one["head_b64"]) + b64decode(one["tail_b64"]))) for one in flat]
    assert plainly == expected


@pytest.mark.parametrize("vector", vectors_of("fetchTagged"))
def test_answers(vector: Vector) -> None:
    answered = answer_of(vector)
    if "decoded" in vector:
        assert answered.code == 0
        check_answer(read_answer(answered.body), vector["decoded"])
        return
    assert answered.code == 1
    with pytest.raises(NodeError) as caught:
        read_answer(answered.body)
    assert caught.value.bad_request
    error = unmarshal(METHODS["fetchTagged"].result, answered.body)["err"]
    assert caught.value.text == error["message"].decode()
    assert caught.value.flags == error["flags"]


def stored_bits(value: Any) -> int:
    """What a value is once a node has stored it."""
    encoder = Encoder(0)
    encoder.add(10**9, unpack(">d", pack(">Q", bits_of(value)))[0])
    return next(read_points(encoder.stream())).bits


@pytest.mark.parametrize("vector", [case for case in vectors_of("fetchTagged") if "fetch_rpc" in case.values[0]])
@pytest.mark.parametrize("replicas", [1, 3])
def test_merged(vector: Vector, replicas: int) -> None:
    answer = read_answer(answer_of(vector).body)
    fetched = merge([answer] * replicas, *EVER)
    points = list(zip(fetched.time_ns.tolist(), fetched.bits.tolist(), strict=True))
    stops = fetched.offsets.tolist()
    series = [points[begin:stop] for begin, stop in itertools.pairwise(stops)]
    assert [(time_ns, bits_of(value)) for time_ns, value, *_ in vector["fetch_rpc"]] in series
    last = {time_ns: stored_bits(value) for time_ns, value, *_ in vector["written"]}
    assert any(last.items() <= set(some) for some in series)


@pytest.mark.parametrize(
    "vector", [case for case in vectors_of("fetchTagged", "aggregateRaw") if case.values[0]["name"] not in BAD_QUERIES]
)
def test_requests(vector: Vector) -> None:
    method, body = request_of(vector)
    request: StructValue = unmarshal(METHODS[method].args, body)["req"]
    query = unmarshal_query(request["query"])
    assert unmarshal_query(marshal_query(query)) == query
    limits = {"series_limit": request.get("seriesLimit", 0), "docs_limit": request.get("docsLimit", 0)}
    where = (request["nameSpace"], request["query"], request["rangeStart"], request["rangeEnd"])
    if method == "fetchTagged":
        written = fetch.request_body(
            *where, **limits, require_exhaustive=request["requireExhaustive"], fetch_data=request["fetchData"]
        )
    else:
        written = aggregate.request_body(
            *where,
            **limits,
            names=request.get("tagNameFilter", []),
            names_only=not request["aggregateQueryType"],
            require_exhaustive=request.get("requireExhaustive", False),
        )
    again = unmarshal(METHODS[method].args, written)["req"]
    others = ("rangeTimeType", "requireNoWait", "source", "tagNameFilter")  # some of which this client never sets
    assert request.get("tagNameFilter", []) == again.get("tagNameFilter", [])
    for fields in (request, again):
        for name in others:
            fields.pop(name, None)
    assert again == request


@pytest.mark.parametrize("vector", vectors_of("aggregateRaw"))
def test_aggregated(vector: Vector) -> None:
    body = answer_of(vector).body
    result = METHODS["aggregateRaw"].outcome(body)
    found = aggregate.read_aggregated(body)
    assert found.exhaustive == result["exhaustive"]
    assert found.tags == {
        one["tagName"]: sorted(value["tagValue"] for value in one.get("tagValues", [])) for one in result["results"]
    }
    assert aggregate.merge_aggregated([found, found]) == found
