"""What a real node answers to frames of every kind: all of them are read, written again byte for byte, and understood."""

import base64
import re
from typing import Any

import pytest
from tests.golden.m3db_structs import ALL_METHODS
from tests.golden.vectors import Vector, cases

from m3db.errors import ProtocolError, ThriftError
from m3db.tchannel import Answered, Call, Ended, Event, Failed, Frame, FrameReader, FrameType, Inbound
from m3db.tchannel.calls import TRANSPORT_HEADERS, Assembly, fragment_frames
from m3db.tchannel.fragments import Checksum, RequestHead, read_fragment, write_fragment
from m3db.tchannel.frames import HEADER_BYTES, failure_of, frame_bytes, read_error
from m3db.tchannel.handshake import INIT_ID, check_answer, read_init, write_init
from m3db.thrift import StructValue, marshal, unmarshal
from m3metrics.errors import IdError
from m3metrics.ids import decode_tags

SILENT = ("closed", "nothing within the wait")
CALLS = (FrameType.CALL_REQ, FrameType.CALL_REQ_CONTINUE, FrameType.CALL_RES, FrameType.CALL_RES_CONTINUE)
EXCHANGES = cases("m3db/exchanges.jsonl", "state", "name")
ANY_ID = range(1 << 32)


def sent(vector: Vector, direction: str) -> list[bytes]:
    """The frames of one direction, in their order."""
    return [base64.b64decode(data) for side, data in vector["frames"] if side == direction and data not in SILENT]


def silent(vector: Vector) -> bool:
    """Whether the node had nothing to say to the last frame."""
    return any(data == SILENT[1] for _, data in vector["frames"])


def checksum_type(data: bytes) -> int:
    """Of a frame of a call, by its place alone."""
    at = HEADER_BYTES + 1
    if data[2] in (FrameType.CALL_REQ, FrameType.CALL_RES):
        at += 25 + (4 if data[2] == FrameType.CALL_REQ else 1)
        if data[2] == FrameType.CALL_REQ:
            at += 1 + data[at]
        count, at = data[at], at + 1
        for _ in range(2 * count):
            at += 1 + data[at]
    return data[at]


def written_again(frame: Frame) -> bytes:
    """The payload, out of what was read of it."""
    if frame.type in (FrameType.INIT_REQ, FrameType.INIT_RES):
        return write_init(read_init(frame.payload))
    if frame.type in CALLS:
        return write_fragment(read_fragment(frame))
    if frame.type == FrameType.ERROR:
        code, text = read_error(frame.payload)
        return bytes([code]) + frame.payload[1:26] + len(text.encode()).to_bytes(2, "big") + text.encode()
    return frame.payload


@pytest.mark.parametrize("vector", EXCHANGES)
def test_frames_are_read_and_written_again(vector: Vector) -> None:
    for data in sent(vector, ">") + sent(vector, "<"):
        if int.from_bytes(data[:2], "big") < HEADER_BYTES:
            with pytest.raises(ProtocolError):
                list(FrameReader().feed(data))
            continue
        (frame,) = FrameReader().feed(data)
        assert frame_bytes(frame) == data
        if frame.type in CALLS and len(data) > HEADER_BYTES and checksum_type(data) not in iter(Checksum):
            with pytest.raises(ProtocolError, match="a checksum of type"):
                read_fragment(frame)
        elif len(data) > HEADER_BYTES:
            assert written_again(frame) == frame.payload


def calls(vector: Vector) -> dict[int, Assembly]:
    """What a client sent as calls, by message id, as far as it can be read: broken ones are left out."""
    found: dict[int, Assembly] = {}
    for data in sent(vector, ">"):
        if data[2] not in (FrameType.CALL_REQ, FrameType.CALL_REQ_CONTINUE) or len(data) <= HEADER_BYTES:
            continue
        try:
            (frame,) = FrameReader().feed(data)
            fragment = read_fragment(frame)
            if frame.type == FrameType.CALL_REQ:
                found[frame.id] = Assembly(fragment)
            elif frame.id in found:
                found[frame.id].add(fragment)
        except ProtocolError:
            found.pop(int.from_bytes(data[4:8], "big"), None)
    return {message_id: call for message_id, call in found.items() if call.complete}


def method_of(call: Assembly) -> str:
    return bytes(call.arguments[0]).decode().removeprefix("Node::")


@pytest.mark.parametrize("vector", EXCHANGES)
def test_requests_are_made_of_their_fields(vector: Vector) -> None:
    stream = b"".join(sent(vector, ">"))
    for message_id, call in calls(vector).items():
        (arg1, arg2, body), head = map(bytes, call.arguments), call.head
        assert isinstance(head, RequestHead)
        checksum = call.checksum
        frames = fragment_frames(message_id, head, (arg1, arg2, body), checksum)
        whole = stream.count(bytes([FrameType.CALL_REQ_CONTINUE]) + bytes(1) + message_id.to_bytes(4, "big")) == 0
        if whole:
            assert b"".join(map(frame_bytes, frames)) in stream
        if whole and head.headers == TRANSPORT_HEADERS and head.service == b"Node" and arg2 == b"\0\0":
            made = Call(message_id, arg1.removeprefix(b"Node::"), body, head.ttl_ms, checksum)
            assert made.frames() in stream or not arg1.startswith(b"Node::")
        if arg1.startswith(b"Node::") and method_of(call) in ALL_METHODS:
            _check_arguments(vector, method_of(call), body)


def _check_arguments(vector: Vector, name: str, body: bytes) -> None:
    """What the node reads, this side reads; what it does not, neither."""
    method = ALL_METHODS[name]
    events = answers(vector)
    refused = silent(vector) or any(isinstance(event, Failed | Ended) for event in events)
    try:
        values = unmarshal(method.args, body)
    except ThriftError:
        assert refused
        return
    written = marshal(method.args, values)
    assert written == body or len(written) < len(body)  # unknown fields are lost
    assert unmarshal(method.args, written) == values


def answers(vector: Vector) -> list[Event]:
    """What is made of the node's frames behind its answer of the handshake."""
    first, *rest = sent(vector, "<")
    return [event for data in rest for event in Inbound(ANY_ID).feed(data)] if first else []


@pytest.mark.parametrize("vector", EXCHANGES)
def test_handshakes_are_understood(vector: Vector) -> None:
    asked, answered = sent(vector, ">")[0], sent(vector, "<")[0]
    (frame,) = FrameReader().feed(answered)
    assert frame.id == int.from_bytes(asked[4:8], "big")
    frame = Frame(frame.type, INIT_ID, frame.payload)
    if frame.type == FrameType.ERROR:
        with pytest.raises(ProtocolError, match=r"0xff: tchannel error ErrCodeProtocol: "):
            check_answer(frame)
        assert vector["frames"][-1] == ["<", "closed"]
    else:
        assert check_answer(frame).parameters[b"tchannel_language"] == b"go"


@pytest.mark.parametrize("vector", EXCHANGES)
def test_answers_are_understood(vector: Vector) -> None:
    made = calls(vector)
    for data in sent(vector, "<")[1:]:
        event = next(iter(Inbound(ANY_ID).feed(data)), None)
        if data[2] == FrameType.ERROR:
            assert isinstance(event, Failed | Ended)
            code, text = data[HEADER_BYTES], data[HEADER_BYTES + 28 :].decode()
            assert (event.error.kind, event.error.text) == (failure_of(code, "").kind, text)
            assert isinstance(event, Ended) == (code == 0xFF)
            continue
        if data[2] not in (FrameType.CALL_RES, FrameType.CALL_RES_CONTINUE):
            continue
        assert isinstance(event, Answered)
        name = method_of(made[event.id])
        result = unmarshal(ALL_METHODS[name].result, event.body)
        assert marshal(ALL_METHODS[name].result, result) == event.body
        assert event.code == (1 if "err" in result else 0)
        if name.startswith(("writeTaggedBatch", "writeBatch")):
            request = unmarshal(ALL_METHODS[name].args, bytes(made[event.id].arguments[2]))["req"]
            _check_errors(vector, request, result)
        elif "err" in result:
            assert result["err"]["message"]


RESERVED = b"_m3ninx_id"
TOO_FAR = re.compile(
    rb"datapoint too far in (past|future).*: id=(.*), off_by=.* timestamp_unix_nanos=(\d+), \w+_unix_nanos=(\d+)"
)
UNITS = {0: 1_000_000_000, 1: 1000, 2: 1_000_000, 3: 1}


def expected(element: StructValue) -> tuple[int, str] | None:
    """The error that a node has for an element, whatever its time: type and how its text begins."""
    if element["datapoint"]["timestampTimeType"] not in UNITS:
        return 1, "unknown time type"
    if not element.get("encodedTags"):
        return None
    try:
        tags = decode_tags(element["encodedTags"])
    except IdError as error:
        return (1 if "empty" in str(error) else 0), str(error)
    for literal in (literal for tag in tags for literal in tag):
        if literal == RESERVED:
            return 0, "unable to parse metric using reserved field name: _m3ninx_id"
        if literal.decode(errors="ignore").encode() != literal:
            return 0, "document has invalid non-UTF8 field value"
    return None


def _check_errors(vector: Vector, request: StructValue, result: Any) -> None:
    """Each error is that of its element, in the order in which the node looks at them; elements without one are right."""
    elements = request["elements"]
    if "nameSpaces" in request:
        elements = sorted(elements, key=lambda element: element["nameSpace"])
    errors = {error["index"]: error["err"] for error in result.get("err", {}).get("errors", [])}
    assert errors.keys() <= set(range(len(elements)))
    for index, element in enumerate(elements):
        wanted = expected(element)
        error = errors.get(index)
        if wanted is not None:
            assert error is not None
            assert (error["type"], error["message"].decode()[: len(wanted[1])]) == wanted
        elif error is not None:
            datapoint = element["datapoint"]
            found = TOO_FAR.match(error["message"])
            assert found, error
            where, series_id, time_ns, limit_ns = found.groups()
            assert (error["type"], series_id) == (1, element["id"])
            assert int(time_ns) == datapoint["timestamp"] * UNITS[datapoint["timestampTimeType"]]
            assert (int(time_ns) < int(limit_ns)) == (where == b"past")
