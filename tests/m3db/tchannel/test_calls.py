"""Calls and answers as frames: both ends joined in memory, whatever the cuts."""

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.m3db.node import Calls, answer_bytes, error_bytes

from m3db.errors import CallFailure, ProtocolError
from m3db.tchannel import Answered, Call, Ended, Event, Failed, Frame, FrameReader, FrameType, Inbound, Pinged, Repeated
from m3db.tchannel.calls import Assembly, fragment_frames
from m3db.tchannel.fragments import Checksum, Fragment, RequestHead, ResponseHead, read_fragment, write_fragment
from m3db.tchannel.frames import MAX_FRAME_BYTES, frame_bytes

ANY_ID = range(1 << 32)
"""All calls are waited for."""
HEAD = ResponseHead(0, ((b"as", b"thrift"),))
checksums = st.sampled_from(list(Checksum))


def pieces(data: bytes, chance: random.Random, most: int = 50) -> Iterator[bytes]:
    """``data`` in pieces of any size."""
    at = 0
    while at < len(data):
        size = chance.choice([1, 3, most, MAX_FRAME_BYTES])
        yield data[at : at + size]
        at += size


def each(events: Iterable[Event]) -> list[Event]:
    """With an event for each answer."""
    return [
        one
        for event in events
        for one in (
            [Answered(k, event.code, event.body) for k in event.ids] if isinstance(event, Repeated) else [event]
        )
    ]


@given(st.lists(st.tuples(st.integers(0, 1), st.binary(max_size=100)), max_size=5), checksums, st.randoms())
def test_answers_arrive_however_the_stream_is_cut(
    answers: list[tuple[int, bytes]], checksum: Checksum, chance: random.Random
) -> None:
    stream = b"".join(answer_bytes(number, body, code, checksum) for number, (code, body) in enumerate(answers))
    inbound = Inbound(ANY_ID)
    events = each(event for piece in pieces(stream, chance) for event in inbound.feed(piece))
    assert events == [Answered(number, code, body) for number, (code, body) in enumerate(answers)]
    assert inbound.held_bytes == 0


@given(
    st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from([b"", b"\0", bytes(60), bytes(200)]), checksums)),
    st.randoms(),
)
def test_answers_with_the_same_bytes_say_the_same(
    answers: list[tuple[int, bytes, Checksum]], chance: random.Random
) -> None:
    stream = b"".join(
        answer_bytes(number, body, code, checksum) for number, (code, body, checksum) in enumerate(answers)
    )
    inbound = Inbound(ANY_ID)
    events = each(event for piece in pieces(stream, chance) for event in inbound.feed(piece))
    assert events == [Answered(number, code, body) for number, (code, body, _) in enumerate(answers)]


def test_answers_that_repeat_one_are_told_together() -> None:
    inbound = Inbound({1, 2, 3, 5, 6, 7})
    same = [answer_bytes(number, b"\0") for number in range(8)]
    odd = answer_bytes(6, b"\1")
    stream = b"".join([same[1], same[3], same[2], same[4], odd, same[7], same[5], same[0][:20]])
    assert inbound.feed(stream) == [
        Answered(1, 0, b"\0"),
        Repeated([3, 2], 0, b"\0"),
        Answered(6, 0, b"\1"),
        Answered(7, 0, b"\0"),
        Repeated([5], 0, b"\0"),
    ]
    assert inbound.ignored_frames == 1
    assert inbound.feed(same[0][20:]) == []
    assert inbound.ignored_frames == 2


@pytest.mark.parametrize("checksum", Checksum)
@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_calls_arrive(checksum: Checksum, size: int) -> None:
    body = random.Random(size).randbytes(size)
    (received,) = Calls().feed(Call(7, b"fetchTagged", body, 4999, checksum).frames())
    assert (received.id, received.method, received.head.ttl_ms) == (7, "fetchTagged", 4999)
    assert received.body == body
    assert received.checksum is checksum


@pytest.mark.parametrize("checksum", Checksum)
def test_arguments_end_anywhere_near_the_end_of_a_frame(checksum: Checksum) -> None:
    """Sizes of each argument around those at which the first frame is full."""
    head = RequestHead(1000, b"Node")
    full = MAX_FRAME_BYTES - 16 - 2 - checksum.size - len(head.written())
    for first in range(full - 12, full + 5):
        for arguments in ((bytes(first), b"", b"x"), (b"m", bytes(first - 3), b"y"), (b"m", b"\0\0", bytes(first - 7))):
            frames = fragment_frames(1, head, arguments, checksum)
            assert all(len(frame_bytes(frame)) >= MAX_FRAME_BYTES - 2 for frame in frames[:-1])
            assert frames[-1].type == (FrameType.CALL_REQ if len(frames) == 1 else FrameType.CALL_REQ_CONTINUE)
            assembly = Assembly(read_fragment(frames[0]))
            for frame in frames[1:]:
                assert not assembly.complete
                assembly.add(read_fragment(frame))
            assert assembly.complete
            assert tuple(map(bytes, assembly.arguments)) == arguments


arguments = st.tuples(st.binary(max_size=5), st.binary(max_size=5), st.binary(max_size=20))


@settings(max_examples=200)
@given(arguments, checksums, st.integers(0, 1 << 32))
def test_fragments_at_every_boundary(content: tuple[bytes, bytes, bytes], checksum: Checksum, seed: int) -> None:
    """A peer may cut where it likes: inside arguments, at their ends, with frames that bring nothing."""
    chance = random.Random(seed)
    frames, chunks, digest = [], [b""], 0

    def end(more: bool) -> None:
        kind = FrameType.CALL_RES_CONTINUE if frames else FrameType.CALL_RES
        fragment = Fragment(more, None if frames else HEAD, checksum, digest, tuple(chunks))
        frames.append(Frame(kind, 5, write_fragment(fragment)))
        chunks[:] = [b""]

    for number, argument in enumerate(content):
        if number:
            chunks.append(b"")
        for byte in argument:
            while chance.random() < 0.2:
                end(True)
            chunks[-1] += bytes([byte])
            digest = checksum.over(bytes([byte]), digest)
        while chance.random() < 0.3:
            end(True)
    end(False)
    stream = b"".join(map(frame_bytes, frames))
    assert Inbound(ANY_ID).feed(stream) == [Answered(5, 0, content[2])]
    assert [read_fragment(frame) for frame in FrameReader().feed(stream)] == [read_fragment(frame) for frame in frames]


@given(st.randoms(use_true_random=False), checksums)
def test_broken_bytes_end_in_events_alone(chance: random.Random, checksum: Checksum) -> None:
    stream = bytearray(answer_bytes(1, bytes(50), 0, checksum) + error_bytes(2, 5, "no") + answer_bytes(3, b"x"))
    for _ in range(chance.randint(1, 5)):
        stream[chance.randrange(len(stream))] = chance.randrange(256)
    inbound = Inbound(ANY_ID)
    for piece in pieces(bytes(stream[: chance.randint(0, len(stream))]), chance):
        inbound.feed(piece)
    assert inbound.held_bytes <= len(stream)


@pytest.mark.parametrize("checksum", [Checksum.CRC32, Checksum.CRC32C])
def test_a_wrong_checksum_fails_its_call_alone(checksum: Checksum) -> None:
    broken = bytearray(answer_bytes(1, b"abc", checksum=checksum))
    broken[-1] ^= 1
    first, second = Inbound(ANY_ID).feed(bytes(broken) + answer_bytes(2, b"abc", checksum=checksum))
    assert isinstance(first, Failed)
    assert (first.id, first.error.kind) == (1, CallFailure.PROTOCOL)
    assert second == Answered(2, 0, b"abc")


def test_castagnoli_of_a_known_text() -> None:
    assert Checksum.CRC32C.over(b"123456789") == 0xE3069283
    assert Checksum.CRC32C.over(b"6789", Checksum.CRC32C.over(b"12345")) == 0xE3069283


def endless(message_id: int, size: int) -> Iterator[bytes]:
    """The frames of an answer that never ends."""
    kind, head = FrameType.CALL_RES, HEAD
    while True:
        fragment = Fragment(True, head, Checksum.NONE, 0, (bytes(size),))  # type: ignore[arg-type]
        yield frame_bytes(Frame(kind, message_id, write_fragment(fragment)))
        kind, head = FrameType.CALL_RES_CONTINUE, None  # type: ignore[assignment]


def test_an_endless_answer_is_cut_off() -> None:
    waiting = {1, 2}
    inbound = Inbound(waiting, max_held_bytes=100_000)
    inbound.feed(next(endless(2, 100)))
    frames = endless(1, 10_000)
    for number in range(10):
        events = inbound.feed(next(frames))
        assert bool(events) == (number == 9), number
    (failed,) = events
    assert isinstance(failed, Failed)
    assert failed.id == 1
    assert failed.error.kind is CallFailure.PROTOCOL
    assert inbound.held_bytes == 100
    waiting.remove(1)
    for _ in range(10):
        assert inbound.feed(next(frames)) == []
    assert inbound.held_bytes == 100
    assert inbound.ignored_frames == 10
    inbound.forget(2)
    assert inbound.held_bytes == 0


def test_endless_frames_without_content_take_nothing() -> None:
    inbound = Inbound(ANY_ID)
    frames = endless(1, 0)
    for _ in range(5000):
        assert inbound.feed(next(frames)) == []
    assert inbound.held_bytes == 0


def test_answers_that_nobody_waits_for_are_dropped() -> None:
    inbound = Inbound({9})
    assert inbound.feed(answer_bytes(8, b"late") + answer_bytes(9, b"x")) == [Answered(9, 0, b"x")]
    assert inbound.feed(frame_bytes(Frame(0xC0, 4, b"?"))) == []
    assert inbound.ignored_frames == 2


def test_pings_and_errors() -> None:
    ping = frame_bytes(Frame(FrameType.PING_REQ, 77))
    inbound = Inbound(ANY_ID)
    pinged, failed, unknown = inbound.feed(ping + error_bytes(3, 4, "closed channel") + error_bytes(4, 99, "?"))
    assert pinged == Pinged(frame_bytes(Frame(FrameType.PING_RES, 77)))
    assert isinstance(failed, Failed)
    assert (failed.id, failed.error.kind, failed.error.text) == (3, CallFailure.DECLINED, "closed channel")
    assert isinstance(unknown, Failed)
    assert unknown.error.kind is CallFailure.UNEXPECTED
    (ended,) = inbound.feed(error_bytes(0xFFFFFFFF, 0xFF, "bad") + answer_bytes(1, b""))
    assert isinstance(ended, Ended)
    assert ended.error.kind is CallFailure.PROTOCOL


def test_frames_before_a_broken_one_are_read() -> None:
    answered, ended = Inbound(ANY_ID).feed(answer_bytes(1, b"x") + bytes(16))
    assert answered == Answered(1, 0, b"x")
    assert isinstance(ended, Ended)
    assert "at least 16" in ended.error.text


def fragment(more: bool, first: bool, *chunks: bytes, checksum: Checksum = Checksum.NONE) -> bytes:
    kind = FrameType.CALL_RES if first else FrameType.CALL_RES_CONTINUE
    digest = checksum.over(b"".join(chunks))
    return frame_bytes(
        Frame(kind, 1, write_fragment(Fragment(more, HEAD if first else None, checksum, digest, chunks)))
    )


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (fragment(False, True, b"", b"\0\0", b"", b""), "4 arguments"),
        (fragment(False, True, b"", b"\0\0"), "2 arguments"),
        (fragment(False, False, b""), "begins with its continuation"),
        (fragment(True, True, b"") + fragment(False, False, b"", checksum=Checksum.CRC32), "checksums of type"),
        (frame_bytes(Frame(FrameType.CALL_RES, 1, b"\0")), "cut short"),
        (frame_bytes(Frame(FrameType.CALL_RES, 1, bytes(27) + b"\0\2")), "a checksum of type 2"),
        (frame_bytes(Frame(FrameType.CALL_RES, 1, bytes(29) + b"\0\5abc")), "cut short"),
    ],
)
def test_broken_answers(stream: bytes, text: str) -> None:
    (failed,) = Inbound(ANY_ID).feed(stream)
    assert isinstance(failed, Failed)
    assert text in failed.error.text


def test_heads_that_are_too_long() -> None:
    with pytest.raises(ProtocolError, match="256 bytes"):
        RequestHead(1, bytes(256)).written()
    with pytest.raises(ProtocolError, match="65536 bytes"):
        frame_bytes(Frame(FrameType.CALL_REQ, 1, bytes(MAX_FRAME_BYTES - 15)))
