"""Shapes of frames: recognised by the bits that decide, and by no other ones."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from m3msg.shapes import SHAPES, find, keep, leave_out_varint, shape_of, vacant
from m3x.kernels import base

PATTERNS = 3
SHAPE = shape_of(PATTERNS, [("number", np.int64)])
FIRST = 0x80FFFFFFFFFFFFFF
"""What the place of a shape depends on, of the first eight bytes."""


@njit
def _learn(buf, masks, shapes):
    place = vacant(base(buf), len(buf), shapes)
    return place if place < 0 or keep(base(buf), masks, shapes[place]) else np.int64(-2)


@njit
def _find(buf, end, shapes):
    return find(base(buf), base(buf) + np.uint64(end), shapes)


@njit
def _leave_out(buf, masks, at, end, tag):
    return leave_out_varint(base(buf), masks, at, end, tag)


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data), np.uint8)


def table() -> np.ndarray:
    return np.zeros(SHAPES, SHAPE)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32), st.integers(64, 140))
def test_a_frame_is_recognised_by_the_bits_that_decide(seed: int, size: int) -> None:
    r = random.Random(seed)
    data, masks = r.randbytes(size), bytearray(size)
    for _ in range(r.choice([0, 1, 3])):
        # At most three pieces, each no longer than a pattern: there is always room.
        at = r.randrange(size)
        piece = r.randbytes(min(r.randint(1, 32), size - at))
        masks[at : at + len(piece)] = piece
    shapes = table()
    assert _learn(array(data), array(bytes(masks)), shapes) >= 0
    assert _find(array(data), size, shapes) >= 0
    assert _find(array(data), size - 1, shapes) == -1, "it has not arrived as a whole"
    for at in range(size):
        other = bytearray(data)
        flip = r.choice([1, 2, 64, 128, r.randint(1, 255)])
        other[at] ^= flip
        first = flip & (FIRST >> 8 * at) if at < 8 else 0
        assert (_find(array(bytes(other)), size, shapes) >= 0) == (not flip & masks[at] and not first)


def test_of_more_bits_than_there_is_room_for_no_shape_is_kept() -> None:
    data = bytes(range(140))
    shapes = table()
    assert _learn(array(data), np.full(140, 255, np.uint8), shapes) == -2
    assert _find(array(data), 140, shapes) == -1
    assert not shapes["word"].any()


@pytest.mark.parametrize(("size", "known"), [(63, False), (64, True), (4096, True), (4097, False)])
def test_small_and_large_frames_have_none(size: int, known: bool) -> None:
    data, shapes = bytes(size), table()
    assert (_learn(array(data), np.zeros(size, np.uint8), shapes) >= 0) == known
    assert (_find(array(data), size, shapes) >= 0) == known


def test_a_shape_gives_way_to_another_one_when_it_is_not_seen_any_more() -> None:
    one, other = bytes(64), bytes(7) + b"\x7f" + bytes(56)
    masks = array(bytes(7) + b"\x7f" + bytes(56))
    shapes = table()
    place = _learn(array(one), masks, shapes)
    for _ in range(3):
        for _ in range(15):
            assert _learn(array(other), masks, shapes) == -1
        assert _find(array(one), 64, shapes) == place
    for _ in range(16):
        assert _learn(array(other), masks, shapes) == -1
    assert _learn(array(other), masks, shapes) == place
    assert _find(array(other), 64, shapes) == place
    assert _find(array(one), 64, shapes) == -1


@pytest.mark.parametrize(
    ("data", "end", "width", "left"),
    [
        (b"\x08\x05\xff", 3, 1, (255, 128, 255)),
        (b"\x08\x85\x01", 3, 2, (255, 128, 128)),
        (b"\x10\x05\xff", 3, 0, (255, 255, 255)),
        (b"\x08\x05\xff", 0, 0, (255, 255, 255)),
    ],
)
def test_of_a_varint_only_its_size_decides(data: bytes, end: int, width: int, left: tuple[int, ...]) -> None:
    masks = np.full(len(data), 255, np.uint8)
    assert _leave_out(array(data), masks, 0, end, 0x08) == width
    assert tuple(masks) == left
