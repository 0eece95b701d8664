"""m3msg: frames of messages and of acks, by the kernels of consumer and producer; the cores around them; the loops of the front."""

from functools import cache
from typing import Any

import numpy as np
from tests.aggregator.front.test_kernels import LIMIT, SHARDS, owner, reference
from tests.aggregator.front.test_records import plain_records, plain_size, record, values_of
from tests.fuzz.cliff import laid, room, rows
from tests.fuzz.parser import Parser
from tests.fuzz.rows_metrics import METRICS, shaped_messages

from aggregator.front import ids, records
from aggregator.front import kernels as front
from m3msg.consumer.core import ConsumerCore
from m3msg.frames import FrameError, Message, Metadata, decode_ack, decode_message, encode_ack, encode_message
from m3msg.kernels import ack_size_bound, build_acks, scan_acks, scan_frames
from m3msg.rows import ACK_ROW, FRAME_ROW, SCAN_MALFORMED, SCAN_MORE, SCAN_OVERSIZE

__all__ = ["PARSERS"]

_SENT_NS = 1_600_000_000_000_000_000
_OWNERS = np.array([shard % 3 - 1 for shard in range(SHARDS)], np.int32)
_ACK_LIMIT = 64
"""Small enough that acks of one input take several frames."""


def _frames() -> list[bytes]:
    metadatas = [Metadata(), Metadata(1, 2), Metadata(100, 200, _SENT_NS), Metadata(1 << 40, 1 << 63, (1 << 64) - 1)]
    messages = [Message(metadata, value) for metadata in metadatas for value in (b"", b"value", b"x" * 200)]
    several = b"".join(map(encode_message, messages))
    odd = [
        "12036162630a0208050a021007", "0a0410070801120161", "0a0408010802120161120162", "0a02080a1a0178120161",
        "0a040801280112016123080124", "0a0b08ffffffffffffffffff01120161",
    ]  # fmt: skip
    shapes = [len(payload).to_bytes(4, "big") + payload for payload in map(bytes.fromhex, odd)]
    metrics = [encode_message(Message(Metadata(3, k + 1, _SENT_NS), one)) for k, one in enumerate(METRICS())]
    return [several, *map(encode_message, messages), *shapes, *metrics, b"".join(metrics)]


def _acks() -> list[bytes]:
    some = [Metadata(), Metadata(100, 200), Metadata(1, 2, _SENT_NS), Metadata(1 << 40, 1 << 63, 1)]
    return [encode_ack(some), encode_ack([]), encode_ack(some) * 3, *(encode_ack([one]) for one in some)]


def _payloads(data: bytes) -> tuple[list[bytes], int, int]:
    """The payloads of complete frames, where what follows begins, and how the scan ends there if all of them are good."""
    payloads, at = [], 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size > LIMIT:
            return payloads, at, SCAN_OVERSIZE
        if at + 4 + size > len(data):
            break
        payloads.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return payloads, at, SCAN_MORE


def _read_frames(data: bytes) -> Any:
    buf = laid(data)
    table = rows(len(data) // 4 + 1, FRAME_ROW)
    count, at, status = scan_frames(buf, 0, len(buf), LIMIT, table)
    found = []
    for row in table[:count]:
        begin, size = int(row["value_at"]), int(row["value_size"])
        found.append((int(row["shard"]), int(row["id"]), int(row["sent_at"]), data[begin : begin + size]))
    return found, int(at), int(status), _acked(buf, table[:count])


def _acked(buf: Any, table: Any) -> list[tuple[int, ...]]:
    """What the acks of the rows say, written with exactly the room that is asked for."""
    out = room(ack_size_bound(len(table), _ACK_LIMIT))
    size = build_acks(buf, table, len(table), out, 0, _ACK_LIMIT)
    payloads, _, _ = _payloads(out[:size].tobytes())
    return [tuple(metadata) for payload in payloads for metadata in decode_ack(payload)]


def _plain_frames(data: bytes) -> Any:
    payloads, at, status = _payloads(data)
    found: list[tuple[int, int, int, bytes]] = []
    begin = 0
    for payload in payloads:
        try:
            message = decode_message(payload)
        except FrameError:
            at, status = begin, SCAN_MALFORMED
            break
        found.append((*message.metadata, message.value))
        begin += 4 + len(payload)
    return found, at, status, [one[:3] for one in found]


def _read_acks(data: bytes) -> Any:
    buf = laid(data)
    table = rows(len(data) // 2 + 1, ACK_ROW)
    count, at, status = scan_acks(buf, 0, len(buf), LIMIT, table)
    return [(int(row["shard"]), int(row["id"])) for row in table[:count]], int(at), int(status)


def _plain_acks(data: bytes) -> Any:
    payloads, at, status = _payloads(data)
    found: list[tuple[int, int]] = []
    begin = 0
    for payload in payloads:
        try:
            found += [(one.shard, one.id) for one in decode_ack(payload)]
        except FrameError:
            return found, begin, SCAN_MALFORMED
        begin += 4 + len(payload)
    return found, at, status


def _read_consumer(data: bytes) -> Any:
    """The same stream in one piece and in small ones."""
    core = ConsumerCore(max_frame=LIMIT, max_ack_frame=_ACK_LIMIT)
    found = []
    for batch in core.feed(data):
        found += [batch.value(i) for i in range(len(batch))]
        batch.ack()
    core.take_acks()
    return found, core.error, core.unfinished


def _pieces_consumer(data: bytes) -> Any:
    core = ConsumerCore(max_frame=LIMIT, max_ack_frame=_ACK_LIMIT)
    found = []
    for at in range(0, len(data), 7):
        for batch in core.feed(data[at : at + 7]):
            found += [batch.value(i) for i in range(len(batch))]
            batch.ack()
    core.take_acks()
    return found, core.error, core.unfinished


def _front_frames() -> list[bytes]:
    return [*_frames(), *shaped_messages(), b"".join(shaped_messages())]


def _route(data: bytes, shapes: Any) -> tuple[Any, list[bytes]]:
    """What ``front.route`` says, and what each of three workers gets."""
    staged = [room(len(data), f"staging {worker}") for worker in range(3)]
    table = np.zeros((3, front.COLUMNS), np.int64)
    table[:, front.ADDRESS] = [one.ctypes.data for one in staged]
    table[:, front.CAPACITY] = len(data)
    routed = front.route(laid(data), 0, len(data), LIMIT, _OWNERS, table, shapes)
    return tuple(map(int, routed)), [
        one[:used].tobytes() for one, used in zip(staged, table[:, front.USED], strict=True)
    ]


@cache
def _shapes() -> Any:
    """What was learnt of ``shaped_messages``."""
    table = np.zeros(ids.SHAPES, ids.SHAPE)
    for data in shaped_messages():
        _route(data, table)
    assert np.count_nonzero(table["word"]) == len(shaped_messages())
    return table


def _read_front(data: bytes) -> Any:
    scanned = front.scan(laid(data), 0, len(data), LIMIT)
    for frame in reference(data)[3]:
        assert front.owner_of(laid(frame), 0, len(frame), _OWNERS) == max(owner(frame, _OWNERS.tolist()), 0)
    # Of a copy: whether an input is read rightly does not depend on those before it.
    return tuple(map(int, scanned)), *_route(data, _shapes().copy())


def _plain_front(data: bytes) -> Any:
    at, status, need, frames = reference(data)
    owners = _OWNERS.tolist()
    parts = [b"".join(frame for frame in frames if owner(frame, owners) == worker) for worker in range(3)]
    result = (at, len(frames), status, need)
    return result, result, parts


def _records() -> list[bytes]:
    each = [record(one) for one in METRICS()]
    odd = [b"\x00", b"\x03ab", b"\xff" * 9 + b"\x01", b"\x80\x00", record(b"\x08\x01"), b"\x82\x80\x00x"]
    return [*each, b"".join(each), *odd, *(each[0] + one for one in odd)]


def _read_records(data: bytes) -> Any:
    """Into room for so many frames as there may be, and what the first of them are in their own."""
    bound = len(data) + records.HEAD_BOUND * (len(data) // 2 + 2)
    out = room(bound)
    at, count, status, after = records.reframe(laid(data), 0, len(data), LIMIT, 1, out, 0)
    frames = out[:after].tobytes()
    for frame in reference(frames)[3]:
        assert records.is_metric(laid(frame))
    sizes = records.size_at(laid(data), int(at), len(data), LIMIT)
    return int(at), int(status), [value for _, value in values_of(frames)], tuple(map(int, sizes)), int(count)


def _plain_records(data: bytes) -> Any:
    at, status, bodies = plain_records(data, LIMIT)
    size, head, said = plain_size(data[at:], LIMIT)
    return at, status, bodies, (size, at + head, said), len(bodies)


PARSERS = (
    Parser("m3msg-frames", _frames, _read_frames, plain=_plain_frames, kernel=True),
    Parser("m3msg-acks", _acks, _read_acks, plain=_plain_acks, kernel=True),
    Parser("m3msg-consumer", _frames, _read_consumer, plain=_pieces_consumer),
    Parser("raw-tcp-records", _records, _read_records, plain=_plain_records, kernel=True),
    Parser("front", _front_frames, _read_front, plain=_plain_front, kernel=True),
)
