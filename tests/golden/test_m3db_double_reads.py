"""What a played M3DB node (``lab.m3db``) reads against a real one: the same series, blocks and points, in streams that our reader reads.

Left out of the comparison: the bytes of streams, as the played node knows floats only, and orders that a real node does not promise. The
readable calls ``fetch`` and ``query`` are compared without annotations, which a real node gets wrong.
"""

import functools
import math
import struct
import zlib
from typing import Any

import pytest
from lab.m3db import structs
from lab.m3db.judge import Judge
from lab.m3db.namespaces import HOUR_NS
from lab.m3db.node import Node
from lab.m3db.series import parse_tags
from lab.m3db.storage import Point, Series, Storage
from lab.m3db.thrift import Struct, read
from lab.m3db.wire import Call, Channel, answer
from tests.golden.test_m3db_double import CALLS, NAMESPACES, Answers, frames_of, played_calls
from tests.golden.vectors import Vector, cases, lines

from m3db.m3tsz.plain import read_points

FETCHES = "m3db/fetch.jsonl.gz"
UNITS = {"s": 0, "us": 1, "ms": 2, "ns": 3}
BODY = 51
"""Where the struct of an answer begins: one header, CRC-32."""
Body = dict[str, Any]


def value_bits(value: float | str) -> int:
    """Of a double as the vectors write it."""
    if isinstance(value, str):
        return int(value.removeprefix("bits:"), 16)
    return int.from_bytes(struct.pack(">d", value), "big")


def point_of(row: list[Any]) -> Point:
    """A row of the vectors."""
    time_ns, value, unit, *annotation = row
    return Point(time_ns, value_bits(value), UNITS[unit], bytes.fromhex(annotation[0]) if annotation else b"")


def streams_of(segments: Vector) -> list[Vector]:
    """The streams of a block."""
    return [segments["merged"]] if "merged" in segments else segments["unmerged"]


@functools.cache
def node() -> Node:
    """A node that holds everything that the vectors show of the real one."""
    found = Node(namespaces=NAMESPACES)
    for vector in lines(FETCHES):
        for element in vector.get("decoded", {}).get("elements", ()):
            block_bytes = bytes.fromhex(element["encodedTags_hex"])
            tags, _ = parse_tags(block_bytes)
            series = found.storage.know(element["nameSpace"], element["id"].encode(), block_bytes, tags)
            for segments in element["segments"]:
                streams = streams_of(segments)
                series.blocks[streams[0]["startTime"]] = [[point_of(row) for row in one["points"]] for one in streams]
    return found


def ask(vector: Vector) -> tuple[str, bytes]:
    """The method of a vector and what the played node answers, a frame."""
    request = frames_of(vector, ">")[1]
    assert isinstance(request, bytes)
    (call,) = Channel(Judge(""), "", greeted=True).feed(request)
    assert isinstance(call, Call)
    frames = node().carry_out(call, None)
    assert isinstance(frames, list)
    return call.method.removeprefix("Node::"), joined(frames)


def joined(frames: list[Any]) -> bytes:
    """The frames of an answer as if all of it had fitted into one; lengths and checksums are those of the first."""
    # A continuation has flags, type of the checksum, checksum, and the length of its chunk before the bytes.
    return bytes(frames[0]) + b"".join(frame[16 + 6 + 2 :] for frame in frames[1:])


def body_of(table: Struct, frame: bytes) -> Body:
    """The struct of an answer."""
    found = read(table, frame[16 + BODY :], Judge(""))
    assert found["_rest"] == 0
    success: Body = found["success"]
    return success


def comparable(element: Body) -> Body:
    """An element with its streams decoded."""
    blocks = []
    for segments in element["segments"] or ():
        kind = "unmerged" if segments["merged"] is None else "merged"
        streams = []
        for one in segments["unmerged"] or [segments["merged"]]:
            stream = one["head"] + one["tail"]
            assert one["checksum"] == zlib.adler32(stream)
            points = [(p.time_ns, p.bits, int(p.unit), p.annotation) for p in read_points(stream)]
            streams.append((one["startTime"], one["blockSize"], points))
        blocks.append((kind, streams))
    return {**element, "segments": blocks}


def expected(element: Vector) -> Body:
    """The same of a vector."""
    blocks = []
    for segments in element["segments"]:
        streams = []
        for one in streams_of(segments):
            points = [point_of(row) for row in one["points"]]
            # Numbers of units of the format, not of TimeType.
            rows = [(p.time_ns, p.bits, {0: 1, 1: 3, 2: 2, 3: 4}[p.unit], p.annotation) for p in points]
            streams.append((one["startTime"], one["blockSize"], rows))
        blocks.append(("merged" if "merged" in segments else "unmerged", streams))
    return {
        "iD": element["id"].encode(), "nameSpace": element["nameSpace"].encode(),
        "encodedTags": bytes.fromhex(element["encodedTags_hex"]), "segments": blocks,
    }  # fmt: skip


def compare_fetched(vector: Vector, frame: bytes) -> None:
    found = body_of(structs.FETCH_TAGGED_RESULT, frame)
    ours = {element["iD"]: comparable(element) for element in found["elements"]}
    theirs = {element["id"].encode(): expected(element) for element in vector["decoded"]["elements"]}
    assert found["exhaustive"] == vector["decoded"]["exhaustive"]
    if not found["exhaustive"]:
        assert len(ours) == len(theirs)
        return
    # Where all of a series was written late a real node may not have it in its index of that block.
    late = {series_id for series_id, element in ours.items() if element["nameSpace"] == b"cold1h"}
    assert theirs.keys() <= ours.keys() <= theirs.keys() | late
    assert {series_id: ours[series_id] for series_id in theirs} == theirs


def aggregated(frame: bytes) -> Body:
    found = body_of(structs.AGGREGATE_RESULT, frame)
    names = {one["tagName"]: {value["tagValue"] for value in one["tagValues"]} for one in found["results"]}
    assert len(names) == len(found["results"])
    return {**found, "results": names}


def without_annotations(table: Struct, frame: bytes) -> Body:
    found = body_of(table, frame)
    for result in found.get("results", [found]):
        for datapoint in result["datapoints"]:
            datapoint["annotation"] = None
    return found


@pytest.mark.parametrize("vector", cases(FETCHES, "name"))
def test_reads_as_a_node(vector: Vector) -> None:
    (theirs,) = [joined(frames_of(vector, "<")[1:])]
    method, ours = ask(vector)
    if theirs[17] == 1:
        assert ours == theirs
    elif method == "fetchTagged":
        compare_fetched(vector, ours)
    elif method == "aggregateRaw":
        assert aggregated(ours) == aggregated(theirs)
    else:
        table = structs.FETCH_RESULT if method == "fetch" else structs.QUERY_RESULT
        assert without_annotations(table, ours) == without_annotations(table, theirs)


def same(first: float, second: float) -> bool:
    """A real node keeps numbers that are nearly whole as whole ones."""
    return math.isclose(first, second, rel_tol=1e-15, abs_tol=5e-324) or math.isnan(first) == math.isnan(second) is True


def held_by_the_real_node(vector: Vector, times: set[int]) -> Series:
    """The series of a vector that has points of all these times."""
    for element in vector["decoded"]["elements"]:
        series = Series(b"", b"", [])
        for segments in element["segments"]:
            streams = streams_of(segments)
            assert {one["blockSize"] for one in streams} == {HOUR_NS}
            series.blocks[streams[0]["startTime"]] = [[point_of(row) for row in one["points"]] for one in streams]
        if times <= {point.time_ns for point in series.points()}:
            return series
    raise AssertionError("the real node has not kept all that was written")


@pytest.mark.parametrize("vector", [case for case in cases(FETCHES, "name") if "written" in case.values[0]])
def test_points_are_kept_as_a_node_keeps_them(vector: Vector) -> None:
    points = [point_of(row) for row in vector["written"]]
    theirs = held_by_the_real_node(vector, {point.time_ns for point in points})
    storage = Storage()
    for point in points:
        storage.write("x", b"", b"", [], point, HOUR_NS)
    (series,) = storage.series("x")
    times = {point.time_ns for point in series.points()}
    kept = [point for point in theirs.points() if point.time_ns in times]
    assert [point.time_ns for point in kept] == [point.time_ns for point in series.points()]
    assert all(same(a.value, b.value) for a, b in zip(kept, series.points(), strict=True))
    if sum(len(run) for runs in theirs.blocks.values() for run in runs) == len(points):
        # Nothing else was written to the series: the runs are the same, too.
        assert [[[p.time_ns for p in run] for run in runs] for runs in series.blocks.values()] == [
            [[p.time_ns for p in run] for run in runs] for runs in theirs.blocks.values()
        ]


def read_points_of(frames: Answers) -> dict[tuple[bytes, bytes], dict[int, int]]:
    """Namespace and id → time → bits of what a reader makes of an answer to ``fetchTagged``."""
    found: dict[tuple[bytes, bytes], dict[int, int]] = {}
    for element in body_of(structs.FETCH_TAGGED_RESULT, joined(frames))["elements"]:
        known = found.setdefault((element["nameSpace"], element["iD"]), {})
        for _, streams in comparable(element)["segments"]:
            for _, _, points in streams:
                known.update({time_ns: bits for time_ns, bits, _, _ in points})
    return found


@pytest.mark.parametrize(("number", "vector"), [(n, case.values[0]) for n, case in enumerate(cases(CALLS))])
def test_answers_reads_of_m3_as_a_node(number: int, vector: Vector) -> None:
    del vector
    for method, ours, theirs in played_calls()[number].answers:
        if method == "aggregateRaw":
            assert aggregated(joined(ours)) == aggregated(joined(theirs))
        elif method == "fetchTagged":
            assert read_points_of(ours) == read_points_of(theirs)


@pytest.mark.parametrize(("number", "vector"), [(n, case.values[0]) for n, case in enumerate(cases(CALLS))])
def test_long_answers_are_cut_as_a_node_cuts_them(number: int, vector: Vector) -> None:
    for played, recorded in zip(played_calls()[number].answers, vector["calls"], strict=True):
        _, _, theirs = played
        if isinstance(theirs[0], bytes) and theirs[0][2] == 4:
            whole = joined(theirs)
            call = Call(recorded["message_id"], 1, "Node", {"as": "thrift"}, 1, "", b"", b"")
            assert answer(call, whole[17], whole[16 + BODY :]) == theirs
