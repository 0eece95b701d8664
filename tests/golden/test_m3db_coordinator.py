"""What the Go coordinator writes to a node: the same elements out of the same values, and the same bytes.

How values are put together into calls is a matter of timing there, so sets of elements are compared, and the bytes of calls of the same
elements. ``writeTaggedBatchRawV2`` is not spoken here; its elements are the same but for the index of their namespace.
"""

import base64
from collections import Counter
from typing import Any

import numpy as np
import pytest
from tests.golden.m3db_structs import ALL_METHODS
from tests.golden.vectors import Vector, from_bits, lines, raw
from tests.m3db.node import Calls as Received
from tests.m3db.write.series import Point, rows_of

from m3db.connection import MessageIds
from m3db.tchannel import Answered, Failed, Frame, FrameReader, Inbound
from m3db.tchannel.calls import Assembly, fragment_frames
from m3db.tchannel.fragments import read_fragment
from m3db.tchannel.frames import frame_bytes
from m3db.tchannel.handshake import INIT_ID, check_answer, read_init
from m3db.thrift import StructValue, unmarshal
from m3db.thrift.structs import TimeType
from m3db.write import FormRules, element_errors, encode_calls
from m3db.write.requests import WRITE
from m3metrics.ids import encode_tags

SECOND, HOUR = 1_000_000_000, 3600 * 1_000_000_000
DYNAMIC = {
    (10 * SECOND, 12 * HOUR): b"agg10s",
    (60 * SECOND, 48 * HOUR): b"agg1m",
    (SECOND // 2, 6 * HOUR): b"agg500ms",
    (3600 * SECOND, 24 * HOUR): b"cold1h",
}
STATIC = {(10 * SECOND, 12 * HOUR): b"agg10s", (SECOND // 2, 6 * HOUR): b"nosuch"}
"""Resolution and retention → the namespace that may be written: README of the vectors."""
UNITS = {SECOND: TimeType.SECONDS, 1_000_000: TimeType.MILLISECONDS}
RULES = {
    "v1": FormRules(16),
    "v2": FormRules(16),
    "static": FormRules(16, id_scheme="prepend_meta"),
}
OFFSET_NS = {"v1": 0, "v2": 0, "static": 15 * SECOND}

Element = tuple[bytes, bytes, bytes, int, bytes, bytes, int]


def vectors(*, writes: bool) -> list[Any]:
    """Those with calls; ``writes``: only such with values."""
    return [
        pytest.param(vector, id=f"{number}-{vector['config']}-{vector['phase']}")
        for number, vector in enumerate(lines("m3db/coordinator.jsonl.gz"), 1)
        if not writes or isinstance(vector.get("input"), list)
    ]


def point_of(value: Vector, config: str) -> Point | None:
    """A value as it is written; None: its policy has no namespace that may be."""
    namespaces = STATIC if config == "static" else DYNAMIC
    namespace = namespaces.get((value["resolution_ns"], value["retention_ns"]))
    if namespace is None:
        return None
    written = value["value"]
    return Point(
        encode_tags([(raw(name), raw(content)) for name, content in value["tags"]]),
        (value["time_nanos"] - OFFSET_NS[config]) // value["precision_ns"],
        from_bits(written.removeprefix("bits:")) if isinstance(written, str) else float(written),
        namespace,
        UNITS[value["precision_ns"]],
        bytes.fromhex(value["annotation"]),
    )


def elements_of(request: StructValue) -> list[Element]:
    """The elements of a request of either version, with all that is said of them."""
    found = []
    for element in request["elements"]:
        namespace = request["nameSpaces"][element["nameSpace"]] if "nameSpaces" in request else request["nameSpace"]
        point = element["datapoint"]
        value, annotation = np.float64(point["value"]).tobytes(), point.get("annotation", b"")
        unit = point["timestampTimeType"]
        found.append((namespace, element["id"], element["encodedTags"], point["timestamp"], value, annotation, unit))
    return found


def frames(texts: list[str]) -> list[Frame]:
    return [frame for text in texts for frame in FrameReader().feed(base64.b64decode(text))]


def assembled(texts: list[str]) -> Assembly:
    """A call or an answer out of its frames."""
    first, *rest = map(read_fragment, frames(texts))
    assembly = Assembly(first)
    for fragment in rest:
        assembly.add(fragment)
    assert assembly.complete
    return assembly


def request_of(call: Vector) -> StructValue:
    values: StructValue = unmarshal(ALL_METHODS[call["method"]].args, assembled(call["request_frames"]).arguments[2])
    return values.get("req", {})


@pytest.mark.parametrize("vector", vectors(writes=True))
def test_values_become_the_same_elements(vector: Vector) -> None:
    points = [point_of(value, vector["config"]) for value in vector["input"]]
    rows = rows_of([point for point in points if point is not None], RULES[vector["config"]])
    mine: Counter[Element] = Counter()
    for call in Received().feed(bytes(encode_calls(rows, None, MessageIds().reserve, 9999).frames)):
        mine.update(elements_of(unmarshal(WRITE.args, call.body)["req"]))
    theirs: Counter[Element] = Counter()
    for call in vector["calls"]:
        theirs.update(elements_of(request_of(call)))
    # What fails is sent again, all of it.
    attempts = max(1, theirs.total() // max(1, mine.total()))
    assert {element: count * attempts for element, count in mine.items()} == dict(theirs)


@pytest.mark.parametrize("vector", vectors(writes=False))
def test_calls_of_the_same_elements_have_the_same_bytes(vector: Vector) -> None:
    for call in vector["calls"]:
        if call["method"] != WRITE.name:
            continue
        points = [
            Point(tags, timestamp, float(np.frombuffer(value, np.float64)[0]), namespace, unit, annotation)
            for namespace, _, tags, timestamp, value, annotation, unit in elements_of(request_of(call))
        ]
        calls = encode_calls(rows_of(points, RULES[vector["config"]]), None, MessageIds().reserve, 1)
        (mine,) = Received().feed(bytes(calls.frames))
        assert mine.body == assembled(call["request_frames"]).arguments[2]


@pytest.mark.parametrize("vector", vectors(writes=False))
def test_frames_are_cut_in_the_same_places(vector: Vector) -> None:
    for call in vector["calls"]:
        for sent in (call["request_frames"], call.get("response_frames", [])):
            whole = [base64.b64decode(text) for text in sent]
            if not whole or ("system_error" in call and sent is not call["request_frames"]):
                continue
            made = assembled(sent)
            arguments = tuple(map(bytes, made.arguments))
            again = fragment_frames(call["message_id"], made.head, arguments, made.checksum)  # type: ignore[arg-type]
            assert list(map(frame_bytes, again)) == whole


@pytest.mark.parametrize("vector", vectors(writes=False))
def test_answers_are_understood(vector: Vector) -> None:
    if vector["phase"] == "connect":
        (answer,) = frames([vector["init_response"]])
        assert check_answer(Frame(answer.type, INIT_ID, answer.payload)).version == 2
        (asked,) = frames([vector["init_request"]])
        assert {b"host_port", b"process_name"} <= read_init(asked.payload).parameters.keys()
    for call in vector["calls"]:
        stream = b"".join(map(base64.b64decode, call["response_frames"]))
        (event,) = Inbound([call["message_id"]]).feed(stream)
        if "system_error" in call:
            assert isinstance(event, Failed)
            assert event.error.text == call["system_error"]["message"]
            continue
        assert isinstance(event, Answered)
        if "errors" not in call.get("response", {}):
            continue
        assert event.code == call["response"]["code"]
        found = element_errors(event.code, event.body, len(request_of(call)["elements"]))
        assert [
            {"index": row["index"], "err": {"type": row["type"], "message": found.text(k), "flags": row["flags"]}}
            for k, row in enumerate(found.errors)
        ] == call["response"]["errors"]
