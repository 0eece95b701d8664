# mypy: ignore-errors
"""Compiled loops of the M3DB sink: times in their units and whether they are taken, and rows that later ones of the batch replace."""

import numpy as np
from numba import njit

__all__ = ["FITS", "HOMELESS", "TOO_NEW", "TOO_OLD", "judge", "later_ones", "warm"]

FITS = 0
TOO_OLD = 1
TOO_NEW = 2
HOMELESS = 3
"""There is no namespace for it."""

_M1 = np.uint64(0x9E3779B97F4A7C15)
_M2 = np.uint64(0xC2B2AE3D27D4EB4F)
_32 = np.uint64(32)


@njit(cache=True, inline="always")
def _cut(time_ns, size):
    """Towards zero."""
    whole = time_ns // size
    if time_ns < 0 and whole * size != time_ns:
        whole += 1
    return whole


@njit(cache=True, nogil=True)
def judge(time_ns, destination, units, limits, offset_ns, timestamps, verdicts):
    """Fills ``timestamps`` (int64) and ``verdicts`` (uint8); returns how many are not ``FITS``.

    By destination: ``units`` (uint8, a ``TimeUnit``) and ``limits`` (int64, two columns: first and last time that is taken; where the
    first is behind the last there is no namespace).
    """
    odd = 0
    for i in range(len(time_ns)):
        d = destination[i]
        at = time_ns[i] - offset_ns
        unit = units[d]
        # Each with a size of its own, so that nothing is divided by a variable.
        if unit == 0:
            stamp = _cut(at, 1_000_000_000)
            at = stamp * 1_000_000_000
        elif unit == 2:
            stamp = _cut(at, 1_000_000)
            at = stamp * 1_000_000
        elif unit == 1:
            stamp = _cut(at, 1_000)
            at = stamp * 1_000
        else:
            stamp = at
        timestamps[i] = stamp
        first, last = limits[d, 0], limits[d, 1]
        verdict = FITS
        if first > last:
            verdict = HOMELESS
        elif at < first:
            verdict = TOO_OLD
        elif at >= last:
            verdict = TOO_NEW
        verdicts[i] = verdict
        odd += verdict != FITS
    return odd


@njit(cache=True, nogil=True)
def later_ones(series, timestamps, destination, namespace, units, slots, kept):
    """Of rows with one series, namespace and time the last: their numbers into ``kept`` (int64), ascending; returns how many.

    ``slots`` (int32): a power of two, at least twice the rows. By destination: ``namespace`` and ``units``.
    """
    slots[:] = -1
    mask = np.uint64(len(slots) - 1)
    rows = len(series)
    at = rows
    for i in range(rows - 1, -1, -1):
        d = destination[i]
        h = (np.uint64(series[i]) * _M1) ^ (np.uint64(timestamps[i]) * _M2)
        slot = (h ^ (h >> _32)) & mask
        found = False
        while slots[slot] >= 0:
            j = slots[slot]
            e = destination[j]
            if (
                series[j] == series[i]
                and timestamps[j] == timestamps[i]
                and namespace[e] == namespace[d]
                and units[e] == units[d]
            ):
                found = True
                break
            slot = (slot + np.uint64(1)) & mask
        if not found:
            slots[slot] = i
            at -= 1
            kept[at] = i
    count = rows - at
    if at > 0:
        for k in range(count):
            kept[k] = kept[at + k]
    return count


def warm() -> None:
    """Calls the kernels with the dtypes of the service."""
    series, one, destination = np.zeros(1, np.uint32), np.zeros(1, np.int64), np.zeros(1, np.uint16)
    units, verdicts = np.zeros(1, np.uint8), np.zeros(1, np.uint8)
    judge(one, destination, units, np.zeros((1, 2), np.int64), 0, one.copy(), verdicts)
    later_ones(series, one, destination, destination.copy(), units, np.zeros(2, np.int32), one.copy())
