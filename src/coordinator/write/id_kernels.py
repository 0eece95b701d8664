# mypy: ignore-errors
"""Labels of a series → its id in M3's order of tags (docs/m3/coordinator.md, tag order); public through ``coordinator.write.kernels``."""

import numpy as np
from numba import njit

from m3x.kernels import base, copy32, copy_bytes, load8, store32
from m3x.protobuf.reading import chunk

MOST_LABELS = 255

_0, _1, _2, _3, _4, _5 = (np.uint64(n) for n in range(6))
_32 = np.uint64(32)
_128 = np.uint64(128)


@njit(cache=True, nogil=True)
def _less(buf, a, a_size, b, b_size):
    """Whether ``buf[a:a+a_size]`` sorts before ``buf[b:b+b_size]``, bytewise."""
    n = min(a_size, b_size)
    for k in range(n):
        x = load8(base(buf) + np.uint64(a + k))
        y = load8(base(buf) + np.uint64(b + k))
        if x != y:
            return x < y
    return a_size < b_size


@njit(cache=True, nogil=True)
def label_spans(buf, at, size, spans):
    """Parses label fields in canonical shape into ``spans`` rows (name at, size, value at, size); their number, or -1: not canonical."""
    origin = base(buf)
    a = origin + np.uint64(at)
    e = a + np.uint64(size)
    n = 0
    while a < e:
        if n == len(spans) or load8(a) != 0x0A:
            return -1
        inner, a = chunk(a + _1, e)
        if a == _0:
            return -1
        for part in range(2):
            if inner >= a or load8(inner) != 0x0A + 8 * part:
                return -1
            text, inner = chunk(inner + _1, a)
            # An empty name or value is for the plain path, which knows the error text.
            if inner == text or inner - text > np.uint64(65535):
                return -1
            spans[n, 2 * part] = np.int64(text - origin)
            spans[n, 2 * part + 1] = np.int64(inner - text)
        if inner != a:
            return -1
        n += 1
    return n


@njit(cache=True, nogil=True)
def in_order(buf, spans, n):
    """Whether the labels are sorted by name, each name once."""
    for i in range(1, n):  # noqa: SIM110 - numba has no generators here
        if not _less(buf, spans[i - 1, 0], spans[i - 1, 1], spans[i, 0], spans[i, 1]):
            return False
    return True


@njit(cache=True, nogil=True)
def sort(buf, spans, n):
    """Sorts by name; False if two names are equal."""
    for i in range(1, n):
        j = i
        while j > 0 and _less(buf, spans[j, 0], spans[j, 1], spans[j - 1, 0], spans[j - 1, 1]):
            for c in range(4):
                spans[j, c], spans[j - 1, c] = spans[j - 1, c], spans[j, c]
            j -= 1
    return in_order(buf, spans, n)


@njit(cache=True, nogil=True)
def before_types(buf, spans, n):
    """How many of the sorted labels stand before ``__m3``, or -1: a name begins so."""
    before = 0
    for i in range(n):
        at, size = spans[i, 0], spans[i, 1]
        if size >= 4 and buf[at] == 0x5F and buf[at + 1] == 0x5F and buf[at + 2] == 0x6D and buf[at + 3] == 0x33:
            return np.int64(-1)
        # Decided by the first four bytes, a proper prefix of it included.
        less = False
        decided = False
        for k in range(4):
            want = (0x5F, 0x5F, 0x6D, 0x33)[k]
            if k == size:
                less, decided = True, True
            elif buf[at + k] != want:
                less, decided = buf[at + k] < want, True
            if decided:
                break
        if less:
            before = i + 1
    return np.int64(before)


@njit(cache=True, nogil=True, inline="always")
def _label_at(i, n, before):
    """Which of the sorted labels is the ``i``-th tag of the id."""
    rest = n - before
    if i < before or rest < 2:
        return i
    j = i - before
    return n - 1 - j if j < 2 else i - 2


@njit(cache=True, nogil=True)
def _put_text(out, p, buf, at, n):
    out[p] = np.uint8(n & 0xFF)
    out[p + 1] = np.uint8(n >> 8)
    return copy_bytes(out, p + 2, buf, at, n)


@njit(cache=True, nogil=True)
def put_id(arena, p, buf, spans, n, before):
    """Writes the ``n`` sorted labels as an id to ``arena[p:]``; the position after it."""
    arena[p] = 0x75
    arena[p + 1] = 0x27
    arena[p + 2] = np.uint8(n & 0xFF)
    arena[p + 3] = np.uint8(n >> 8)
    p += 4
    for i in range(n):
        k = _label_at(i, n, before)
        p = _put_text(arena, p, buf, spans[k, 0], spans[k, 1])
        p = _put_text(arena, p, buf, spans[k, 2], spans[k, 3])
    return np.int64(p)


@njit(cache=True, nogil=True, inline="always")
def _put_wide(out, address, n):
    """A text of ``n`` bytes with its length; up to 31 bytes more are read and written."""
    store32(out, n)
    out += _2
    copy32(out, address)
    if n > _32:
        k = _32
        while k < n:
            copy32(out + k, address + k)
            k += _32
    return out + n


@njit(cache=True, nogil=True)
def put_id_quickly(out, address, size, before, starts):
    """As ``put_id``, from ``size`` bytes of labels that ``label_spans`` took once, to an address; 0: it is not for this function.

    That is where a label has 128 bytes and more. 32 bytes behind the labels are read, 32 behind the id and its ``size`` written over.
    ``starts``: room for the addresses of ``MOST_LABELS`` labels.
    """
    a = np.uint64(address)
    e = a + np.uint64(size)
    n = 0
    while a < e:
        inner = np.uint64(load8(a + _1))
        if inner >= _128 or n == len(starts):
            return _0
        starts[n] = a
        n += 1
        a += inner + _2
    if a != e:
        return _0
    store32(out, np.uint64(0x2775) | (np.uint64(n) << np.uint64(16)))
    out += _4
    for i in range(n):
        a = starts[_label_at(i, n, before)]
        inner = np.uint64(load8(a + _1))
        name = np.uint64(load8(a + _3))
        if name + _4 > inner:
            return _0
        value = np.uint64(load8(a + _5 + name))
        if name + value + _4 != inner:
            return _0
        out = _put_wide(out, a + _4, name)
        out = _put_wide(out, a + _4 + name + _2, value)
    return out


@njit(cache=True, nogil=True)
def _length(a):
    """The length at an address, below 16384: ``(it, address behind it)``, address 0: it has more bytes."""
    first = np.uint64(load8(a))
    if first < _128:
        return first, a + _1
    second = np.uint64(load8(a + _1))
    if second >= _128:
        return _0, _0
    return (first - _128) | (second << np.uint64(7)), a + _2


@njit(cache=True, nogil=True)
def id_size(address, size):
    """Bytes of the id of labels that ``label_spans`` took once, or 0: one has 16384 bytes and more."""
    a = np.uint64(address)
    e = a + np.uint64(size)
    total = _4
    while a < e:
        _, a = _length(a + _1)
        if a == _0:
            return _0
        for _ in range(2):
            text, a = _length(a + _1)
            if a == _0:
                return _0
            a += text
            total += text + _2
    return total


@njit(cache=True, nogil=True)
def put_long_id(out, address, size, before, starts):
    """As ``put_id_quickly``, where labels have less than 16384 bytes."""
    a = np.uint64(address)
    e = a + np.uint64(size)
    n = 0
    while a < e:
        if n == len(starts):
            return _0
        starts[n] = a
        n += 1
        inner, a = _length(a + _1)
        if a == _0:
            return _0
        a += inner
    if a != e:
        return _0
    store32(out, np.uint64(0x2775) | (np.uint64(n) << np.uint64(16)))
    out += _4
    for i in range(n):
        _, a = _length(starts[_label_at(i, n, before)] + _1)
        for _ in range(2):
            text, a = _length(a + _1)
            if a == _0:
                return _0
            out = _put_wide(out, a, text)
            a += text
    return out
