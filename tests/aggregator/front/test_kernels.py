"""Frames and routing in compiled loops, against plain Python."""

import mmh3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.front import ids, kernels

LIMIT = 4096
SHARDS = 13


class Broken(Exception):
    """Not the protobuf it should be."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for k in range(10):
        if at + k >= len(data):
            raise Broken
        value |= (data[at + k] & 0x7F) << 7 * k
        if data[at + k] < 128:
            return value & (1 << 64) - 1, at + k + 1
    raise Broken


def fields(data: bytes, at: int = 0, group: bool = False) -> tuple[list[tuple[int, int, bytes]], int]:
    """(number, wire type, content) of each field; inside a group, up to its end."""
    out = []
    while at < len(data):
        tag, at = read_varint(data, at)
        number, wire = tag >> 3 & 0xFFFFFFFF, tag & 7
        if wire == 4 and group:
            return out, at
        if not group and not 0 < number < 1 << 31:
            raise Broken
        start = at
        if wire == 0:
            _, at = read_varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size, start = read_varint(data, at)
            at = start + size
        elif wire == 3:
            _, at = fields(data, at, group=True)
        else:
            raise Broken
        if at > len(data):
            raise Broken
        out.append((number, wire, data[start:at]))
    if group:
        raise Broken
    return out, at


def message_value(data: bytes) -> bytes:
    """``value`` of a msgpb.Message; raises ``Broken``."""
    value = b""
    for number, wire, content in fields(data)[0]:
        if number in (1, 2) and wire != 2:
            raise Broken
        if number == 1 and any(n in (1, 2, 3) and w != 0 for n, w, _ in fields(content)[0]):
            raise Broken
        if number == 2:
            value = content
    return value


def last(data: bytes, number: int) -> bytes | None:
    found = None
    for n, wire, content in fields(data)[0]:
        if n == number:
            if wire != 2:
                raise Broken
            found = content
    return found


def metric_id(value: bytes) -> bytes | None:
    """Id of the metric in a MetricWithMetadatas; None: there is no metric."""
    try:
        kind = 0
        for number, wire, content in fields(value)[0]:
            if number == 1:
                if wire != 0:
                    return None
                kind = read_varint(content, 0)[0]
        payload = last(value, kind + 1) if 1 <= kind <= 7 else None
        if payload is None:
            return None
        metric = last(payload, 1)
        return b"" if metric is None else last(metric, 1 if kind <= 3 else 2) or b""
    except Broken:
        return None


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
unknown = st.one_of(
    st.builds(field, st.integers(9, 40), st.one_of(numbers, st.binary(max_size=5))),
    st.just(varint(20 << 3 | 1) + b"12345678"),
    st.just(varint(20 << 3 | 5) + b"1234"),
    st.builds(lambda high, low: varint(high << 35 | low << 3) + b"\x05", st.integers(1, 1 << 20), st.integers(0, 9)),
    st.just(varint(20 << 3 | 3) + b"\x0a\x02hi\x08\x01" + varint(20 << 3 | 4)),
)


@st.composite
def metrics(draw: st.DrawFn) -> bytes:
    """MetricWithMetadatas: mostly as encoders write it, sometimes shuffled, repeated or with unknown fields."""
    kind = draw(st.integers(0, 8))
    odd = draw(st.booleans())
    parts = [field(1 if kind <= 3 else 2, draw(st.binary(max_size=40)))]
    if kind > 3:
        parts.insert(0, field(1, draw(st.integers(0, 3))))
        parts.append(field(3, draw(numbers)))
    elif kind == 1:
        parts.append(field(2, draw(numbers)))
    parts.append(varint(4 << 3 | 1) + draw(st.binary(min_size=8, max_size=8)))
    if odd:
        parts += draw(st.lists(st.one_of(unknown, st.sampled_from(parts)), max_size=2))
        parts = draw(st.permutations(parts))
    payload = [field(1, b"".join(parts)), field(2, draw(st.binary(max_size=6)))]
    outer = [field(1, kind), field(kind + 1, b"".join(payload)) if kind else b""]
    if odd and draw(st.booleans()):
        outer += draw(st.lists(st.one_of(unknown, st.sampled_from(outer)), max_size=2))
        outer = draw(st.permutations(outer))
    return b"".join(outer)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """msgpb.Message with a metric in it."""
    metadata = b"".join(field(n, draw(numbers)) for n in (1, 2, 3) if draw(st.booleans()))
    parts = [field(1, metadata), field(2, draw(metrics()))]
    if draw(st.integers(0, 4)) == 0:
        parts = draw(st.permutations([*parts, draw(unknown), draw(st.sampled_from(parts))]))
    data = b"".join(parts)
    if draw(st.integers(0, 9)) == 0 and data:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data


def reference(stream: bytes) -> tuple[int, int, int, list[bytes]]:
    """``scan`` in plain Python, and the good frames."""
    at, frames = 0, []
    while at + 4 <= len(stream):
        size = int.from_bytes(stream[at : at + 4], "big")
        if size > LIMIT:
            return at, kernels.OVERSIZE, size + 4, frames
        if at + 4 + size > len(stream):
            return at, kernels.MORE, size + 4, frames
        try:
            message_value(stream[at + 4 : at + 4 + size])
        except Broken:
            return at, kernels.MALFORMED, size + 4, frames
        frames.append(stream[at : at + 4 + size])
        at += 4 + size
    return at, kernels.MORE, 4, frames


def owner(frame: bytes, owners: list[int]) -> int:
    name = metric_id(message_value(frame[4:]))
    return 0 if name is None else max(owners[mmh3.hash(name, 0, signed=False) % len(owners)], 0)


def exact(data: bytes) -> np.ndarray:
    """An array that ends where the data end."""
    return np.frombuffer(bytearray(data), np.uint8) if data else np.zeros(0, np.uint8)


def staging(workers: int, capacity: int) -> tuple[list[np.ndarray], np.ndarray]:
    buffers = np.full((workers, capacity + 16), 0xEE, np.uint8)
    table = np.zeros((workers, kernels.COLUMNS), np.int64)
    table[:, kernels.ADDRESS] = buffers.ctypes.data + np.arange(workers) * buffers.strides[0]
    table[:, kernels.CAPACITY] = capacity
    return list(buffers), table


def shapes() -> np.ndarray:
    """None yet."""
    return np.zeros(ids.SHAPES, ids.SHAPE)


streams = st.one_of(
    st.lists(messages(), max_size=6).map(lambda parts: b"".join(map(framed, parts))),
    st.builds(
        lambda parts, rest: b"".join(map(framed, parts)) + rest, st.lists(messages(), max_size=3), st.binary(max_size=9)
    ),
    st.binary(max_size=60),
    st.binary(max_size=60).map(framed),
)


@settings(deadline=None, max_examples=400)
@given(streams)
def test_scan(stream: bytes) -> None:
    at, status, need, frames = reference(stream)
    assert kernels.scan(exact(stream), 0, len(stream), LIMIT) == (at, len(frames), status, need)


@settings(deadline=None, max_examples=400)
@given(streams, st.lists(st.integers(-1, 2), min_size=SHARDS, max_size=SHARDS))
def test_route(stream: bytes, owners: list[int]) -> None:
    at, status, need, frames = reference(stream)
    known = shapes()
    for _ in range(2):
        # The second time by the shapes of the first.
        buffers, table = staging(3, 4096)
        got = kernels.route(exact(stream), 0, len(stream), LIMIT, np.array(owners, np.int32), table, known)
        assert got == (at, len(frames), status, need)
        for worker, buffer in enumerate(buffers):
            mine = [frame for frame in frames if owner(frame, owners) == worker]
            used = int(table[worker, kernels.USED])
            assert buffer[:used].tobytes() == b"".join(mine)
            assert (buffer[used:] == 0xEE).all(), "nothing is written behind the frames"
            assert table[worker, kernels.COUNT] == len(mine)
    for frame in frames:
        single = kernels.owner_of(exact(frame), 0, len(frame), np.array(owners, np.int32))
        assert single == owner(frame, owners)


@settings(deadline=None)
@given(st.lists(messages(), min_size=1, max_size=5))
def test_route_stops_at_a_full_buffer_and_goes_on(parts: list[bytes]) -> None:
    stream = b"".join(map(framed, parts))
    _, _, _, frames = reference(stream)
    buffers, table = staging(1, max(map(len, frames), default=0))
    owners, known = np.zeros(SHARDS, np.int32), shapes()
    at, out = 0, []
    while True:
        at, _, status, worker = kernels.route(exact(stream), at, len(stream), LIMIT, owners, table, known)
        out.append(buffers[0][: table[0, kernels.USED]].tobytes())
        if status != kernels.FULL:
            break
        assert worker == 0
        table[0, kernels.USED] = 0
    assert b"".join(out) == b"".join(frames)


def test_route_discards_what_it_is_told_to() -> None:
    frame = framed(field(1, b"") + field(2, bytes.fromhex("080112170a070a03666f6f1005120c0a0a1a080a060a001a003200")))
    buffers, table = staging(2, 4096)
    owners = np.ones(SHARDS, np.int32)
    table[1, kernels.DISCARD] = 1
    assert kernels.route(exact(frame * 3), 0, len(frame) * 3, LIMIT, owners, table, shapes())[1] == 3
    row = table[1]
    assert (row[kernels.USED], row[kernels.DISCARDED], row[kernels.DISCARDED_BYTES]) == (0, 3, 3 * len(frame))
    assert (buffers[1] == 0xEE).all()


GOLDEN = {
    "counter": ("080112170a070a03666f6f1005120c0a0a1a080a060a001a003200", b"foo"),
    "timer": ("08021a270a170a03666f6f1210000000000000f03f0000000000000440120c0a0a1a080a060a001a003200", b"foo"),
    "gauge": ("0803221e0a0e0a03666f6f11000000000000f83f120c0a0a1a080a060a001a003200", b"foo"),
    "timed": (
        "080532340a1208031203666f6f180a21000000000000f03f121e0a0012180a0c0880c8afa025108094ebdc031208088080f89492a5271a00",
        b"foo",
    ),
    "timed with metadatas": ("08063a220a1208031203666f6f180a21000000000000f03f120c0a0a1a080a060a001a003200", b"foo"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_ids_of_the_golden_payloads(name: str) -> None:
    """docs/m3/metrics.md, payload vectors."""
    payload, expected = GOLDEN[name]
    frame = framed(field(1, b"") + field(2, bytes.fromhex(payload)))
    owners = np.arange(SHARDS, dtype=np.int32)
    assert kernels.owner_of(exact(frame), 0, len(frame), owners) == mmh3.hash(expected, 0, signed=False) % SHARDS


@pytest.mark.parametrize(
    "text",
    [
        "000000120a05086410c8011209666f6f6f6f6f6f6f6f",
        "0000001c0a0f086410c80118808080c5ddf0959a161209666f6f6f6f6f6f6f6f",
        "000000020a00",
        "00000000",
    ],
)
def test_golden_frames_are_legal(text: str) -> None:
    """docs/m3/m3msg.md, frame vectors."""
    frame = bytes.fromhex(text)
    assert kernels.scan(exact(frame), 0, len(frame), LIMIT) == (len(frame), 1, kernels.MORE, 4)
    assert kernels.scan(exact(frame), 0, len(frame) - 1, LIMIT)[:3] == (0, 0, kernels.MORE)
