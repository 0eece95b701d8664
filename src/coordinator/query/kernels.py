# mypy: ignore-errors
"""Compiled loops of queries: points onto a grid of steps, and series into Prometheus' protobuf."""

import numpy as np
from numba import njit

from m3x.kernels import copy_bytes, put_varint, varint_size

STALE_NAN = np.uint64(0x7FF0000000000002)
"""Prometheus' staleness marker: the series has ended."""

_LABELS = 0x0A
_SAMPLES = 0x12


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
def _u16(arena, at):
    return np.int64(arena[at]) | (np.int64(arena[at + 1]) << 8)


@njit(cache=True, nogil=True)
def _label_size(name, value):
    size = 1 + varint_size(np.uint64(name)) + name
    if value:
        size += 1 + varint_size(np.uint64(value)) + value
    return size


@njit(cache=True, nogil=True)
def _sample_size(time_ms, bits):
    size = 9 if bits != np.uint64(0) else 0
    if time_ms != 0:
        size += 1 + varint_size(np.uint64(time_ms))
    return size


@njit(cache=True, nogil=True)
def series_sizes(arena, id_at, offsets, time_ms, bits, sizes):
    """``sizes[i]`` = bytes of the content of ``TimeSeries`` ``i``, whose encoded tags stand at ``arena[id_at[i]:]``."""
    for i in range(len(sizes)):
        p = id_at[i] + 4
        size = np.int64(0)
        for _ in range(_u16(arena, id_at[i] + 2)):
            name = _u16(arena, p)
            value = _u16(arena, p + 2 + name)
            p += 4 + name + value
            label = _label_size(name, value)
            size += 1 + varint_size(np.uint64(label)) + label
        for k in range(offsets[i], offsets[i + 1]):
            size += 2 + _sample_size(time_ms[k], bits[k])
        sizes[i] = size


@njit(cache=True, nogil=True)
def put_series(arena, id_at, offsets, time_ms, bits, sizes, order, out, p):
    """Writes the series in ``order`` as field 1 of a ``QueryResult`` at ``out[p:]``; returns the position after them.

    As gogo writes them: a sample's value +0.0 and time 0 are left out, and so is an empty label value.
    """
    for i in order:
        out[p] = _LABELS
        p = put_varint(out, p + 1, np.uint64(sizes[i]))
        q = id_at[i] + 4
        for _ in range(_u16(arena, id_at[i] + 2)):
            name = _u16(arena, q)
            value = _u16(arena, q + 2 + name)
            out[p] = _LABELS
            p = put_varint(out, p + 1, np.uint64(_label_size(name, value)))
            out[p] = 0x0A
            p = put_varint(out, p + 1, np.uint64(name))
            p = copy_bytes(out, p, arena, q + 2, name)
            if value:
                out[p] = 0x12
                p = put_varint(out, p + 1, np.uint64(value))
                p = copy_bytes(out, p, arena, q + 4 + name, value)
            q += 4 + name + value
        for k in range(offsets[i], offsets[i + 1]):
            out[p] = _SAMPLES
            out[p + 1] = np.uint8(_sample_size(time_ms[k], bits[k]))
            p += 2
            word = bits[k]
            if word != np.uint64(0):
                out[p] = 0x09
                for b in range(8):
                    out[p + 1 + b] = np.uint8((word >> np.uint64(8 * b)) & np.uint64(0xFF))
                p += 9
            if time_ms[k] != 0:
                out[p] = 0x10
                p = put_varint(out, p + 1, np.uint64(time_ms[k]))
    return p


def warm() -> None:
    """Compiles every kernel for the dtypes that are used, or loads it from the cache."""
    arena = np.frombuffer(bytearray(b"\x75\x27\x01\x00\x01\x00a\x01\x00b" + bytes(8)), np.uint8)
    zero, time_ms, bits = np.zeros(1, np.int64), np.ones(1, np.int64), np.ones(1, np.uint64)
    offsets, sizes = np.array([0, 1]), np.zeros(1, np.int64)
    latest(time_ms, bits, 0, 1, 1, np.zeros(1, np.int64))
    series_sizes(arena, zero, offsets, time_ms, bits, sizes)
    put_series(arena, zero, offsets, time_ms, bits, sizes, zero, np.zeros(64, np.uint8), 0)
