"""One connection of a consumer: any division of the stream gives the same messages, and acks echo them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3msg.consumer import ConsumerCore
from m3msg.frames import Message, Metadata, decode_ack, encode_message, split

MESSAGES = [Message(Metadata(i % 7, i + 1, 1_700_000_000_000_000_000 + i), b"v" * (i * 37 % 500)) for i in range(200)]
STREAM = b"".join(map(encode_message, MESSAGES))


def received(batches) -> list[Message]:
    return [
        Message(Metadata(int(r["shard"]), int(r["id"]), int(r["sent_at"])), batch.value(i))
        for batch in batches
        for i, r in enumerate(batch.rows)
    ]


def acked(core: ConsumerCore) -> list[Metadata]:
    frames, rest = split(core.take_acks())
    assert rest == b""
    return [m for frame in frames for m in decode_ack(frame)]


@given(st.lists(st.integers(1, 3000), max_size=60))
def test_any_division_of_the_stream_gives_the_same_messages(cuts: list[int]):
    core, at, batches = ConsumerCore(), 0, []
    for cut in [*cuts, len(STREAM)]:
        batches += core.feed(STREAM[at : at + cut])
        at += cut
    assert received(batches) == MESSAGES
    for batch in batches:
        batch.ack()
    assert acked(core) == [m.metadata for m in MESSAGES]
    assert core.error == ""


def test_ack_of_a_mask_leaves_the_others_unacked():
    core = ConsumerCore()
    (batch,) = core.feed(STREAM)
    mask = np.arange(len(batch)) % 3 == 0
    batch.ack(mask)
    assert core.pending_acks == int(mask.sum())
    assert acked(core) == [m.metadata for m, wanted in zip(MESSAGES, mask, strict=True) if wanted]
    batch.ack(np.zeros(len(batch), bool))
    assert core.take_acks() == b""


def test_frames_larger_than_the_buffer_and_as_large_as_allowed():
    large = Message(Metadata(1, 2, 3), bytes(range(256)) * 4096)  # 1 MiB
    size = len(encode_message(large)) - 4
    core = ConsumerCore(max_frame=size)
    data = encode_message(MESSAGES[0]) + encode_message(large) + encode_message(MESSAGES[1])
    assert received(core.feed(data)) == [MESSAGES[0], large, MESSAGES[1]]
    core = ConsumerCore(max_frame=size - 1)
    assert received(core.feed(data)) == [MESSAGES[0]]
    assert "longer than the largest size allowed" in core.error


def test_batches_do_not_change_when_more_arrives():
    core = ConsumerCore()
    first = core.feed(STREAM[:100])
    before = received(first)
    core.feed(STREAM[100:] + STREAM)
    assert received(first) == before


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02\x08\x01", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_came_before_garbage_is_still_handed_on(garbage: bytes):
    core = ConsumerCore()
    assert received(core.feed(STREAM + garbage)) == MESSAGES
    assert core.error
    assert core.feed(STREAM) == []


@given(st.binary(max_size=400), st.lists(st.integers(1, 50), max_size=20))
def test_garbage_never_raises(data: bytes, cuts: list[int]):
    core, at = ConsumerCore(max_frame=256), 0
    for cut in [*cuts, len(data)]:
        for batch in core.feed(data[at : at + cut]):
            batch.ack()
        at += cut
    frames, rest = split(core.take_acks())
    assert rest == b""
    for frame in frames:
        decode_ack(frame)


def test_small_batches_do_not_keep_large_buffers():
    core = ConsumerCore()
    batches = [b for m in MESSAGES for b in core.feed(encode_message(m))]
    assert sum(b.size_bytes for b in batches) < 4 * len(STREAM)
