"""Frames against the golden bytes of M3, and the compiled kernels against the plain reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3msg.frames import FrameError, Message, Metadata, decode_ack, decode_message, encode_ack, encode_message, split
from m3msg.kernels import ack_size_bound, build_acks, scan_acks, scan_frames
from m3msg.rows import ACK_ROW, FRAME_ROW, MAX_FRAME, SCAN_FULL, SCAN_MALFORMED, SCAN_MORE, SCAN_OVERSIZE

A, B = Metadata(100, 200), Metadata(0, 45678)
SENT = Metadata(100, 200, 1600000000000000000)
GOLDEN_MESSAGES = [
    (Message(A, b"foooooooo"), "000000120a05086410c8011209666f6f6f6f6f6f6f6f"),
    (Message(B, b"barrrrrrr"), "000000110a0410eee4021209626172727272727272"),
    (Message(SENT, b"foooooooo"), "0000001c0a0f086410c80118808080c5ddf0959a161209666f6f6f6f6f6f6f6f"),
    (Message(Metadata()), "000000020a00"),
]
GOLDEN_ACKS = [
    ([A, B], "0000000d0a05086410c8010a0410eee402"),
    ([Metadata()], "000000020a00"),
    ([], "00000000"),
]
ODD_PAYLOADS = [
    "",  # neither metadata nor value
    "1203616263",  # no metadata
    "12036162630a0208050a021007",  # value first, metadata in two pieces
    "0a0410070801120161",  # id before shard
    "0a0408010802120161120162",  # a repeated scalar, a repeated value
    "0a02080a1a0178120161",  # an unknown field between
    "0a040801280112016123080124",  # unknown fields in metadata and a group
    "0a0b08ffffffffffffffffff01120161",  # a varint of ten bytes
    "0a0308810012810061" + "00" * 0,  # not the shortest varints
]
BROKEN_PAYLOADS = [
    "0801",  # metadata as a varint
    "0a021801" + "12",  # truncated tag value
    "0a0508",  # runs past the end
    "0a020a00",  # shard as bytes
    "24",  # end group
    "0001",  # field number 0
    "0a0c08ffffffffffffffffffff0112",  # a varint of eleven bytes
    "1f",  # wire type 7
    "1b0801",  # group without end
    "12ffffffffffffffffff01",  # length beyond anything
]


def scan(data: bytes, rows: int = 64, max_frame: int = MAX_FRAME):
    table = np.zeros(rows, FRAME_ROW)
    buf = np.frombuffer(data, np.uint8)
    n, at, status = scan_frames(buf, 0, len(buf), max_frame, table)
    return table[:n], at, status


def message_of(data: bytes, row: np.void) -> Message:
    at = int(row["value_at"])
    metadata = Metadata(int(row["shard"]), int(row["id"]), int(row["sent_at"]))
    return Message(metadata, data[at : at + int(row["value_size"])])


def acks_of(data: bytes, rows: np.ndarray, max_frame: int = MAX_FRAME) -> bytes:
    out = np.full(ack_size_bound(len(rows), max_frame), 0xEE, np.uint8)
    size = build_acks(np.frombuffer(data, np.uint8), rows, len(rows), out, 0, max_frame)
    assert size <= len(out)
    return out[:size].tobytes()


def frame(payload: str | bytes) -> bytes:
    payload = bytes.fromhex(payload) if isinstance(payload, str) else payload
    return len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize(("message", "golden"), GOLDEN_MESSAGES)
def test_message_golden_bytes(message: Message, golden: str):
    data = bytes.fromhex(golden)
    assert encode_message(message) == data
    assert decode_message(data[4:]) == message
    rows, at, status = scan(data)
    assert (len(rows), at, status) == (1, len(data), SCAN_MORE)
    assert message_of(data, rows[0]) == message


@pytest.mark.parametrize(("metadatas", "golden"), GOLDEN_ACKS)
def test_ack_golden_bytes(metadatas: list[Metadata], golden: str):
    data = bytes.fromhex(golden)
    assert encode_ack(metadatas) == data
    assert decode_ack(data[4:]) == metadatas
    rows = np.zeros(8, ACK_ROW)
    n, at, status = scan_acks(np.frombuffer(data, np.uint8), 0, len(data), MAX_FRAME, rows)
    assert (n, at, status) == (len(metadatas), len(data), SCAN_MORE)
    assert [(m.shard, m.id) for m in metadatas] == [tuple(row) for row in rows[:n].tolist()]


def test_kernel_echoes_the_golden_acks():
    data = bytes.fromhex(GOLDEN_MESSAGES[0][1] + GOLDEN_MESSAGES[1][1])
    assert acks_of(data, scan(data)[0]) == bytes.fromhex(GOLDEN_ACKS[0][1])
    assert acks_of(data, scan(data)[0][:0]) == b""


@pytest.mark.parametrize("payload", ODD_PAYLOADS)
def test_odd_but_legal_shapes(payload: str):
    data = frame(payload)
    expected = decode_message(bytes.fromhex(payload))
    rows, at, status = scan(data)
    assert (len(rows), at, status) == (1, len(data), SCAN_MORE)
    assert message_of(data, rows[0]) == expected
    assert decode_ack(acks_of(data, rows)[4:]) == [expected.metadata]


@pytest.mark.parametrize("payload", BROKEN_PAYLOADS)
def test_broken_payload_is_named_where_it_stands(payload: str):
    with pytest.raises(FrameError):
        decode_message(bytes.fromhex(payload))
    good = bytes.fromhex(GOLDEN_MESSAGES[0][1])
    rows, at, status = scan(good + frame(payload) + good)
    assert (len(rows), at, status) == (1, len(good), SCAN_MALFORMED)


def test_oversize_is_seen_at_the_length_prefix():
    good = bytes.fromhex(GOLDEN_MESSAGES[0][1])
    rows, at, status = scan(good + (MAX_FRAME + 1).to_bytes(4, "big"))
    assert (len(rows), at, status) == (1, len(good), SCAN_OVERSIZE)
    assert scan((MAX_FRAME).to_bytes(4, "big"))[2] == SCAN_MORE
    assert scan(good, max_frame=17)[2] == SCAN_OVERSIZE
    assert scan(good, max_frame=18)[2] == SCAN_MORE
    with pytest.raises(FrameError):
        split(good, 17)


def test_scan_goes_on_where_the_rows_were_full():
    data = encode_message(Message(A, b"x")) * 5
    rows, at, status = scan(data, rows=2)
    assert (len(rows), at, status) == (2, len(data) // 5 * 2, SCAN_FULL)
    assert len(scan(data[at:])[0]) == 3


def test_ack_frames_stay_below_the_limit():
    metadatas = [Metadata(i, i * 1000, 1600000000000000000 + i) for i in range(1, 500)]
    data = b"".join(encode_message(Message(m, b"v" * (i % 40))) for i, m in enumerate(metadatas))
    for limit in (35, 64, 1000, MAX_FRAME):
        frames, rest = split(acks_of(data, scan(data, rows=500)[0], limit), limit)
        assert rest == b""
        assert [m for f in frames for m in decode_ack(f)] == metadatas


metadata_strategy = st.builds(
    Metadata, *[st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1)) for _ in range(3)]
)
message_strategy = st.builds(Message, metadata_strategy, st.binary(max_size=300))


@given(st.lists(message_strategy, max_size=20), st.integers(0, 30))
def test_kernel_reads_what_the_reference_writes(messages: list[Message], cut: int):
    data = b"".join(map(encode_message, messages))
    rows, at, status = scan(data)
    assert (at, status) == (len(data), SCAN_MORE)
    assert [message_of(data, row) for row in rows] == messages
    frames, _ = split(acks_of(data, rows))
    assert [m for f in frames for m in decode_ack(f)] == [m.metadata for m in messages]
    short = data[: max(len(data) - cut, 0)]
    whole, rest = split(short)
    rows, at, status = scan(short)
    assert (len(rows), at, status) == (len(whole), len(short) - len(rest), SCAN_MORE)


field_strategy = st.one_of(
    st.sampled_from([b"\x0a\x02\x08\x05", b"\x0a\x00", b"\x12\x01a", b"\x12\x00", b"\x1a\x01x", b"\x23\x08\x01\x24"]),
    st.binary(max_size=6),
)


@given(st.lists(field_strategy, max_size=6).map(b"".join))
def test_kernel_and_reference_agree_on_any_payload(payload: bytes):
    try:
        expected = decode_message(payload)
    except FrameError:
        assert scan(frame(payload))[2] == SCAN_MALFORMED
    else:
        data = frame(payload)
        rows, _, status = scan(data)
        assert status == SCAN_MORE
        assert message_of(data, rows[0]) == expected


@given(st.lists(field_strategy, max_size=6).map(b"".join))
def test_ack_kernel_and_reference_agree_on_any_payload(payload: bytes):
    data = frame(payload)
    rows = np.zeros(len(data), ACK_ROW)
    n, _, status = scan_acks(np.frombuffer(data, np.uint8), 0, len(data), MAX_FRAME, rows)
    try:
        expected = decode_ack(payload)
    except FrameError:
        assert status == SCAN_MALFORMED
    else:
        assert status == SCAN_MORE
        assert [(m.shard, m.id) for m in expected] == [tuple(row) for row in rows[:n].tolist()]


@given(st.binary(max_size=200))
def test_garbage_never_reads_outside(data: bytes):
    buf = np.frombuffer(b"\x00\x00\x00\x02" + data + b"\x0a\x00", np.uint8)
    end = len(buf) - 2
    rows = np.zeros(64, FRAME_ROW)
    n, at, status = scan_frames(buf, 4, end, 100, rows)
    assert 4 <= at <= end
    assert status in (SCAN_MORE, SCAN_FULL, SCAN_OVERSIZE, SCAN_MALFORMED)
    assert all(int(r["value_at"]) + int(r["value_size"]) <= end for r in rows[:n])
