# mypy: ignore-errors
"""Compiled recognition of frames that look like one before.

A sender's messages differ in their numbers and ids, and hardly in anything else: tags, lengths and the metadata are the same in one as in
the next. A *shape* is what a frame of one size was found to be: which of its bits decide how it is read, and what was read. A frame with
the same bits at the same places would be read in the same way, so it need not be. Which bits decide is for whoever reads to say, in a
mask for each byte; each reader has its own kind of shape (``shape_of``), in a table of its own.

Shapes lie in a small table, found by the first eight bytes of a frame. They are learnt from what the parsers have read; one that keeps
others from its place gives way when it has not been seen for a while.
"""

import numpy as np
from numba import njit

from m3x.kernels import base, like32, load8, load64

__all__ = ["SHAPES", "find", "keep", "leave_out_varint", "shape_of", "vacant"]

SHAPES = 256
_LEAST, _LARGEST = 64, 4096
"""Smaller and larger frames have no shape."""
_PATIENCE = 16
"""So many frames of other shapes in its place, and none of its own in between, until a shape gives way."""
_PLACE = np.uint64(56)
_FIRST = np.uint64(0x80FFFFFFFFFFFFFF)
"""Of the first eight bytes of a frame: its size, tag and size of the metadata, tag of the shard, and whether that has one byte."""
_THERE = np.uint64(1 << 56)
"""A bit that ``_FIRST`` leaves out; so no word is 0."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_WINDOW = 32
_PATTERN = np.uint64(2 * _WINDOW)


def shape_of(patterns: int, fields: list[tuple]) -> np.dtype:
    """The dtype of a shape with room for so many patterns, and what a reader keeps in it: further fields, as numpy takes them."""
    return np.dtype(
        [
            ("patterns", np.uint8, (2 * _WINDOW * patterns,)),  # as ``like32`` takes them
            ("places", np.uint32, (patterns,)),  # of the patterns; all positions count from the frame on
            ("word", np.uint64),  # the bits of ``_FIRST``, and ``_THERE``; 0: there is no shape
            ("size", np.uint64),  # of the frame
            ("used", np.int64),  # patterns
            ("patience", np.int64),
            *fields,
        ],
        align=True,
    )


@njit(cache=True, nogil=True)
def _word(a):
    return load64(a) & _FIRST | _THERE


@njit(cache=True, nogil=True)
def _place(word):
    return np.int64((word * _SPREAD) >> _PLACE)


@njit(cache=True, nogil=True)
def find(a, e, shapes):
    """The place in ``shapes`` of the shape of the frame that begins at ``a``, before ``e``; -1: it has none of these."""
    if a + np.uint64(_LEAST) > e:
        return np.int64(-1)
    word = _word(a)
    place = _place(word)
    s = shapes[place]
    if s.word != word or a + s.size > e:
        return np.int64(-1)
    pattern = base(shapes) + np.uint64(place) * np.uint64(shapes.itemsize)
    for k in range(s.used):
        if not like32(a + np.uint64(s.places[k]), pattern):
            return np.int64(-1)
        pattern += _PATTERN
    s.patience = _PATIENCE
    return place


@njit(cache=True, nogil=True)
def vacant(a, size, shapes):
    """The place for the shape of the frame of ``size`` bytes at ``a``, which has none; what was there is gone. -1: it gets none now."""
    if size < _LEAST or size > _LARGEST:
        return np.int64(-1)
    place = _place(_word(a))
    s = shapes[place]
    if s.patience > 0:
        s.patience -= 1
        return np.int64(-1)
    s.patience = _PATIENCE
    s.word = np.uint64(0)
    return place


@njit(cache=True, nogil=True)
def leave_out_varint(a, masks, at, end, tag):
    """Takes out of ``masks`` what the varint field with that tag at ``at``, before ``end``, says: seven bits of each byte.

    ``at`` and ``end`` count from ``a``, where the frame begins, as ``masks`` does. Returns the bytes of its number, 0 if it is not there.
    """
    if at >= end or load8(a + np.uint64(at)) != tag:
        return np.int64(0)
    k = at + 1
    while k < end and load8(a + np.uint64(k)) >= 128:
        masks[k] = np.uint8(0x80)
        k += 1
    if k < end:
        masks[k] = np.uint8(0x80)
    return k - at


@njit(cache=True, nogil=True)
def keep(a, masks, s):
    """Has frames recognised as of shape ``s`` that have the bits of ``masks`` (uint8, one for each byte) as the one at ``a`` has them.

    Whether that could be done: no more of them may decide than there is room for patterns.
    """
    size = len(masks)
    s.used = 0
    done = 0
    for first in range(size):
        if first < done or masks[first] == 0:
            continue
        if s.used == len(s.places):
            return False
        at = min(first, size - _WINDOW)
        s.places[s.used] = np.uint32(at)
        for k in range(_WINDOW):
            s.patterns[2 * _WINDOW * s.used + k] = masks[at + k]
            s.patterns[2 * _WINDOW * s.used + _WINDOW + k] = masks[at + k] & load8(a + np.uint64(at + k))
        s.used += 1
        done = at + _WINDOW
    s.word = _word(a)
    s.size = np.uint64(size)
    return True
