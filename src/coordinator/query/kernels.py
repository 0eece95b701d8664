# mypy: ignore-errors
"""Compiled loops of queries: points onto a grid of steps, and series into Prometheus' protobuf."""

import numpy as np
from numba import njit

from m3x.kernels import base, load16, store8, store64
from m3x.protobuf.writing import bytes_size, int_size, length_size, put_bytes, put_int, put_length, put_raw

STALE_NAN = np.uint64(0x7FF0000000000002)
"""Prometheus' staleness marker: the series has ended."""

_0, _1, _2, _4, _9 = (np.uint64(n) for n in (0, 1, 2, 4, 9))
_TAG_1, _TAG_2 = np.uint64(0x0A), np.uint64(0x12)
"""Length-delimited fields 1 and 2: labels and samples, name and value."""


@njit(cache=True, nogil=True)
def latest(time_ms, bits, first_ms, step_ms, lookback_ms, out):
    """``out[k]`` = index of the last point with ``t - lookback < time <= t`` at ``t = first + k·step``.

    -1 where there is none, or a staleness marker.
    """
    at = np.int64(-1)
    n = len(time_ms)
    for k in range(len(out)):
        t = first_ms + k * step_ms
        while at + 1 < n and time_ms[at + 1] <= t:
            at += 1
        out[k] = -1
        if at >= 0 and time_ms[at] > t - lookback_ms and bits[at] != STALE_NAN:
            out[k] = at


@njit(cache=True, nogil=True)
def _label_size(name, value):
    return length_size(name) + bytes_size(value)


@njit(cache=True, nogil=True)
def _sample_size(time_ms, bits):
    return (_0 if bits == _0 else _9) + int_size(time_ms)


@njit(cache=True, nogil=True)
def series_sizes(arena, id_at, offsets, time_ms, bits, sizes):
    """``sizes[i]`` = bytes of the content of ``TimeSeries`` ``i``, whose encoded tags stand at ``arena[id_at[i]:]``."""
    origin = base(arena)
    for i in range(len(sizes)):
        a = origin + np.uint64(id_at[i])
        size = _0
        p = a + _4
        for _ in range(load16(a + _2)):
            name = np.uint64(load16(p))
            value = np.uint64(load16(p + _2 + name))
            p += _4 + name + value
            size += length_size(_label_size(name, value))
        for k in range(offsets[i], offsets[i + 1]):
            size += _2 + _sample_size(time_ms[k], bits[k])
        sizes[i] = np.int64(size)


@njit(cache=True, nogil=True)
def put_series(arena, id_at, offsets, time_ms, bits, sizes, order, out, p):
    """Writes the series in ``order`` as field 1 of a ``QueryResult`` at ``out[p:]``; returns the position after them.

    As gogo writes them: a sample's value +0.0 and time 0 are left out, and so is an empty label value.
    """
    origin = base(arena)
    start = base(out)
    a = start + np.uint64(p)
    for i in order:
        a = put_length(a, _TAG_1, np.uint64(sizes[i]))
        q = origin + np.uint64(id_at[i])
        labels = load16(q + _2)
        q += _4
        for _ in range(labels):
            name = np.uint64(load16(q))
            value = np.uint64(load16(q + _2 + name))
            a = put_length(a, _TAG_1, _label_size(name, value))
            a = put_raw(put_length(a, _TAG_1, name), q + _2, name)
            a = put_bytes(a, _TAG_2, q + _4 + name, value)
            q += _4 + name + value
        for k in range(offsets[i], offsets[i + 1]):
            a = put_length(a, _TAG_2, _sample_size(time_ms[k], bits[k]))
            if bits[k] != _0:
                store8(a, np.uint64(0x09))
                store64(a + _1, bits[k])
                a += _9
            a = put_int(a, np.uint64(0x10), time_ms[k])
    return np.int64(a - start)


def warm() -> None:
    """Compiles every kernel for the dtypes that are used, or loads it from the cache."""
    arena = np.frombuffer(bytearray(b"\x75\x27\x01\x00\x01\x00a\x01\x00b" + bytes(8)), np.uint8)
    zero, time_ms, bits = np.zeros(1, np.int64), np.ones(1, np.int64), np.ones(1, np.uint64)
    offsets, sizes = np.array([0, 1]), np.zeros(1, np.int64)
    latest(time_ms, bits, 0, 1, 1, np.zeros(1, np.int64))
    series_sizes(arena, zero, offsets, time_ms, bits, sizes)
    put_series(arena, zero, offsets, time_ms, bits, sizes, zero, np.zeros(64, np.uint8), 0)
