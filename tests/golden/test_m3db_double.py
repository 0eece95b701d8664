"""The played M3DB node (``lab.m3db``) against exchanges with a real one: it answers the same bytes, and has no fault to find with M3.

Left out of the comparison: what a real node says of itself in the handshake, and the order in which answers to several calls come.
"""

import asyncio
import base64
import functools
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
from lab.m3db.namespaces import HOUR_NS, MINUTE_NS, Namespace
from lab.m3db.node import Node
from lab.m3db.series import prepend_meta_id, quoted_id
from lab.m3db.wire import Call, Channel
from tests.golden.vectors import Vector, cases, lines

EXCHANGES = "m3db/exchanges.jsonl"
SECOND_NS = 10**9
READS = ("fetchTagged", "aggregateRaw")
CLOSED, NOTHING = "closed", "nothing within the wait"
NAMESPACES = [
    Namespace("default", retention_ns=6 * HOUR_NS),
    Namespace("agg10s", retention_ns=12 * HOUR_NS, resolution_ns=10 * SECOND_NS, block_ns=HOUR_NS),
    Namespace("agg1m", retention_ns=48 * HOUR_NS, resolution_ns=MINUTE_NS, buffer_past_ns=30 * MINUTE_NS),
    Namespace("agg500ms", retention_ns=6 * HOUR_NS, resolution_ns=SECOND_NS // 2),
    Namespace("cold1h", retention_ns=24 * HOUR_NS, resolution_ns=HOUR_NS, block_ns=HOUR_NS, cold_writes=True),
]
PING = struct.pack(">HBBIQ", 16, 0xD0, 0, 0x7FFFFFFF, 0)
PONG = struct.pack(">HBBIQ", 16, 0xD1, 0, 0x7FFFFFFF, 0)
Answers = list[bytes | str]


def frames_of(vector: Vector, direction: str) -> Answers:
    """Frames to (``>``) or from (``<``) the node, and what is said in place of one."""
    found: Answers = []
    for way, frame in vector["frames"]:
        if way == direction:
            found.append(frame if frame in (CLOSED, NOTHING) else base64.b64decode(frame))
    return found


LIMITS = {
    b"past_limit": 10 * MINUTE_NS, b"future_limit": -2 * MINUTE_NS, b"retention_past_limit": 24 * HOUR_NS, b"retention_future_limit": 0,
}  # fmt: skip
"""What a limit that an error names is before the clock; of ``agg10s`` and ``cold1h``, which have all such errors."""


def clock_of(answers: Iterable[bytes | str]) -> int | None:
    """What the clock of the real node was, as far as its answers tell."""
    for frame in answers:
        found = re.search(rb" (\w+)_unix_nanos=(\d+)\0", frame) if isinstance(frame, bytes) else None
        if found:
            return int(found.group(2)) + LIMITS[found.group(1)]
    return None


def make_known(node: Node, answers: Iterable[bytes | str]) -> None:
    """In its default mode a node reports errors of points only for series that it knows: it does know those that it names."""
    for frame in answers:
        for series_id in re.findall(rb"too far in \w+: id=(.*?), off_by", frame if isinstance(frame, bytes) else b""):
            for namespace in node.namespaces:
                node.storage.know(namespace, series_id)


async def exchange(node: Node, vector: Vector) -> Answers:
    """What the played node says to the frames of a vector; a ping behind them shows when it has said all."""
    reader, writer = await asyncio.open_connection(node.host, node.port)
    found: Answers = []
    try:
        sent = frames_of(vector, ">")
        writer.write(b"".join(frame for frame in sent if isinstance(frame, bytes)) + PING)
        while True:
            size = int.from_bytes(await reader.readexactly(2), "big")
            frame = size.to_bytes(2, "big") + await reader.readexactly(size - 2)
            if frame == PONG:
                break
            found.append(frame)
        if NOTHING in frames_of(vector, "<"):
            found.append(NOTHING)
    except (asyncio.IncompleteReadError, ConnectionError):
        found.append(CLOSED)
    finally:
        writer.transport.abort()
    return found


@functools.cache
def played() -> dict[str, tuple[Answers, list[str]]]:
    """Name of a vector → answers and what the node had to find fault with; one node for all of them, in their order."""
    found = {}
    vectors = list(lines(EXCHANGES))
    clock = next(filter(None, (clock_of(frames_of(vector, "<")) for vector in vectors)))

    async def play() -> None:
        async with Node(namespaces=NAMESPACES) as node:
            node.writer.new_series_async = False
            for vector in vectors:
                now = clock_of(frames_of(vector, "<")) or clock
                node.clock = lambda now=now: now
                node.state.database = vector["state"] != "no_placement"
                node.writer.new_series_async |= vector["name"] == "write_new_series_async_too_old"
                if node.writer.new_series_async:
                    make_known(node, frames_of(vector, "<"))
                answers = await exchange(node, vector)
                found[vector["name"]] = answers, node.judge.take()

    asyncio.run(play())
    return found


@pytest.mark.parametrize("vector", cases(EXCHANGES, "name"))
def test_answers_as_a_node(vector: Vector) -> None:
    answers, _ = played()[vector["name"]]
    assert comparable(answers) == comparable(frames_of(vector, "<"))


CALLS = "m3db/coordinator.jsonl.gz"
FAULTS: dict[str, Callable[[Vector], bool]] = {
    "elements of several namespaces that are not grouped": lambda vector: vector["config"] == "v2",
    "namespace 'nosuch', which there is not": lambda vector: "unknown namespace: nosuch" in str(vector["calls"]),
}
"""What the node finds fault with in M3's coordinator, and where."""


@dataclass
class Played:
    """What became of a vector. ``answers``: method, our frames, a real node's."""

    faults: list[str]
    answers: list[tuple[str, Answers, Answers]]


@functools.cache
def played_calls() -> list[Played]:
    """The calls of M3's coordinators, all to one node."""
    vectors = list(lines(CALLS))
    found = []
    now = next(filter(None, (clock_of(received(call)) for vector in vectors for call in vector["calls"])))

    async def play() -> None:
        node = Node(namespaces=NAMESPACES)
        node.writer.new_series_async = False
        for vector in vectors:
            node.writer.scheme = prepend_meta_id if vector["config"] == "static" else quoted_id
            answers = []
            for recorded in vector["calls"]:
                now_or_before.append(clock_of(received(recorded)) or now_or_before[-1])
                node.clock = lambda: now_or_before[-1]
                if recorded["method"] == "health":
                    # What a node says of itself is its state.
                    node.state.bootstrapped = b"\x02\x00\x03\x01" in base64.b64decode(recorded["response_frames"][0])
                channel = Channel(node.judge, "", greeted=True)
                (call,) = channel.feed(b"".join(base64.b64decode(frame) for frame in recorded["request_frames"]))
                assert isinstance(call, Call)
                answer = node.carry_out(call, None)
                frames: Answers = [*answer] if isinstance(answer, list) else [answer or NOTHING]
                answers.append((recorded["method"], frames, received(recorded)))
            found.append(Played(node.judge.take(), answers))

    now_or_before = [now]
    asyncio.run(play())
    return found


def received(recorded: Vector) -> Answers:
    """The frames that a real node answered."""
    return [base64.b64decode(frame) for frame in recorded["response_frames"]]


@pytest.mark.parametrize(("number", "vector"), [(n, case.values[0]) for n, case in enumerate(cases(CALLS))])
def test_finds_no_fault_with_m3(number: int, vector: Vector) -> None:
    allowed = [fault for fault, where in FAULTS.items() if where(vector)]
    wrong = [text for text in played_calls()[number].faults if not text.startswith(tuple(allowed))]
    assert wrong == []


@pytest.mark.parametrize(("number", "vector"), [(n, case.values[0]) for n, case in enumerate(cases(CALLS))])
def test_answers_writes_of_m3_as_a_node(number: int, vector: Vector) -> None:
    answers = [
        (ours, theirs) for method, ours, theirs in played_calls()[number].answers if not method.startswith(READS)
    ]
    assert [ours for ours, _ in answers] == [theirs for _, theirs in answers]
    assert vector["calls"] or vector["phase"] in ("unknown_policy", "read_only")


def comparable(answers: Answers) -> Answers:
    """Frames in order of their ids; of an init response what does not depend on the node's name and version."""
    kept: Answers = [init_response(frame) if isinstance(frame, bytes) and frame[2] == 2 else frame for frame in answers]
    return sorted(kept, key=lambda frame: frame[4:8] if isinstance(frame, bytes) else b"\xff" * 4)


def init_response(frame: bytes) -> bytes:
    """Id, version and the names of the headers."""
    version, count = struct.unpack_from(">HH", frame, 16)
    at, names = 20, []
    for index in range(2 * count):
        size = int.from_bytes(frame[at : at + 2], "big")
        if index % 2 == 0:
            names.append(frame[at + 2 : at + 2 + size])
        at += 2 + size
    assert at == len(frame)
    return frame[2:8] + struct.pack(">H", version) + b",".join(sorted(names))
