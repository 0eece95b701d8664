"""Records of raw TCP in compiled loops, against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aggregator.front.test_kernels import exact, framed, metric_id, metrics, varint

from aggregator.front import kernels, records
from m3metrics.codec.stream import MAX_MESSAGE_BYTES
from m3msg.frames import decode_message

LIMIT = 4096
FIRST_ID = 1 << 39


def record(body: bytes) -> bytes:
    return varint(len(body) << 1) + body


def plain_size(stream: bytes, limit: int) -> tuple[int, int, int]:
    """``size_at`` in plain Python."""
    value = 0
    for k in range(10):
        if k == len(stream):
            return 0, k, kernels.MORE
        if k == 9 and stream[k] > 1:
            return 0, k + 1, kernels.MALFORMED
        value |= (stream[k] & 0x7F) << 7 * k
        if stream[k] < 0x80:
            size = value >> 1 if value & 1 == 0 else 0
            status = kernels.OVERSIZE if size > limit else kernels.MORE if size else kernels.MALFORMED
            return size, k + 1, status
    raise AssertionError("ten bytes decide it")


def plain_records(stream: bytes, limit: int) -> tuple[int, int, list[bytes]]:
    """``reframe`` in plain Python: where it stops, why, and the records before."""
    at, found = 0, []
    while True:
        size, head, status = plain_size(stream[at:], limit)
        body = stream[at + head : at + head + size]
        if status != kernels.MORE or not size or len(body) < size:
            return at, status, found
        if metric_id(body) is None:
            return at, records.NO_METRIC, found
        found.append(body)
        at += head + size


def values_of(frames: bytes) -> list[tuple[int, bytes]]:
    """Ids and values of m3msg frames."""
    found = []
    while frames:
        size = int.from_bytes(frames[:4], "big")
        message = decode_message(frames[4 : 4 + size])
        found.append((message.metadata.id, message.value))
        frames = frames[4 + size :]
    return found


streams = st.one_of(
    st.lists(metrics(), max_size=6).map(lambda bodies: b"".join(map(record, bodies))),
    st.builds(lambda bodies, rest: b"".join(map(record, bodies)) + rest, st.lists(metrics()), st.binary(max_size=12)),
    st.binary(max_size=40),
    st.binary(min_size=9, max_size=11).map(lambda data: bytes(byte | 0x80 for byte in data)),
    st.binary(max_size=40).map(record),
)


@settings(deadline=None, max_examples=400)
@given(streams)
def test_records_become_frames(stream: bytes) -> None:
    at, status, bodies = plain_records(stream, LIMIT)
    out = np.full(len(stream) + 64 * records.HEAD_BOUND, 0xEE, np.uint8)
    got = records.reframe(exact(stream), 0, len(stream), LIMIT, FIRST_ID, out, 3)
    assert got[:3] == (at, len(bodies), status)
    assert values_of(out[3 : got[3]].tobytes()) == [(FIRST_ID + k, body) for k, body in enumerate(bodies)]
    assert (out[:3] == 0xEE).all(), "nothing is written before"
    assert (out[got[3] :] == 0xEE).all(), "nothing is written behind"
    assert records.size_at(exact(stream), at, len(stream), LIMIT)[2] in (status, kernels.MORE)
    size, head, said = plain_size(stream, LIMIT)
    assert records.size_at(exact(stream), 0, len(stream), LIMIT) == (size, head, said)
    scanned = kernels.scan(out, 3, got[3], LIMIT + records.HEAD_BOUND)
    assert scanned[:3] == (got[3], len(bodies), kernels.MORE)


@settings(deadline=None)
@given(st.lists(metrics(), min_size=1, max_size=5))
def test_a_full_buffer_is_emptied_and_gone_on_with(bodies: list[bytes]) -> None:
    stream = b"".join(map(record, bodies))
    _, _, good = plain_records(stream, LIMIT)
    out = np.empty(max(map(len, bodies)) + records.HEAD_BOUND, np.uint8)
    at, number, frames = 0, 0, b""
    while True:
        at, count, status, after = records.reframe(exact(stream), at, len(stream), LIMIT, number, out, 0)
        frames += out[:after].tobytes()
        number += count
        if status != kernels.FULL:
            break
        assert count
    assert values_of(frames) == list(enumerate(good))


@pytest.mark.parametrize("ident", [0, 1, 127, 128, (1 << 41) - 1, (1 << 63) - 1])
@pytest.mark.parametrize("size", [1, 127, 128, 70_000, MAX_MESSAGE_BYTES])
def test_heads_are_shorter_than_their_bound(size: int, ident: int) -> None:
    head = records.head_of(size, ident)
    assert len(head) < records.HEAD_BOUND
    assert int.from_bytes(head[:4], "big") == len(head) - 4 + size
    if size < 100_000:
        assert values_of(head + b"x" * size) == [(ident, b"x" * size)]


@settings(deadline=None)
@given(st.one_of(metrics(), st.binary(max_size=30)))
def test_whether_a_frame_has_a_metric(body: bytes) -> None:
    head = records.head_of(len(body), 5) if body else framed(b"\x12\x00")
    assert records.is_metric(exact(head + body)) == (metric_id(body) is not None)
