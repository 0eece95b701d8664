# mypy: ignore-errors
"""Carbon lines in columns; public through ``coordinator.write.kernels``. Format: docs/m3/metrics.md, carbon lines."""

import numpy as np
from numba import njit

_POWERS = 10.0 ** np.arange(23)
_SPACE, _CR, _LF = 0x20, 0x0D, 0x0A


@njit(cache=True, nogil=True)
def _number(buf, p, end):
    """``(value, known)`` of decimal text that a double division gives exactly; anything else is not known here."""
    negative = False
    if p < end and (buf[p] == 0x2D or buf[p] == 0x2B):
        negative = buf[p] == 0x2D
        p += 1
    mantissa = np.int64(0)
    digits = 0
    decimals = 0
    dot = False
    while p < end:
        c = buf[p]
        if c >= 0x30 and c <= 0x39:
            mantissa = mantissa * 10 + np.int64(c - 0x30)
            digits += 1
            if dot:
                decimals += 1
        elif c == 0x2E and not dot:
            dot = True
        else:
            return 0.0, False
        p += 1
    if digits == 0 or digits > 15:
        return 0.0, False
    value = np.float64(mantissa) / _POWERS[decimals]
    return (-value if negative else value), True


@njit(cache=True, nogil=True)
def carbon_lines(buf, start, end, path_at, path_size, values, times, odd, odd_end):
    """Splits ``buf[start:end]`` into carbon lines: ``(lines, odd ones, position behind the last newline)``.

    Per line: ``path_at``/``path_size`` (uint32), ``values`` (float64), ``times`` (int64, seconds). A line in any but the plainest
    shape has its number in ``odd`` (int64), its bytes from ``path_at`` to ``odd_end`` (int64), and is for the plain parser. Stops
    when the columns are full.
    """
    n = 0
    n_odd = 0
    p = np.int64(start)
    while n < len(values):
        stop = p
        plain = True
        while stop < end and buf[stop] != _LF:
            c = buf[stop]
            if c >= 0x80 or (c < _SPACE and not (c == _CR and stop + 1 < end and buf[stop + 1] == _LF)):
                plain = False
            stop += 1
        if stop == end:
            break
        line_end = stop - 1 if stop > p and buf[stop - 1] == _CR else stop
        q = p
        while q < line_end and buf[q] != _SPACE:
            q += 1
        path_end = q
        while q < line_end and buf[q] == _SPACE:
            q += 1
        value_at = q
        while q < line_end and buf[q] != _SPACE:
            q += 1
        value_end = q
        while q < line_end and buf[q] == _SPACE:
            q += 1
        good = plain and path_end > p and q < line_end and line_end - q <= 18
        seconds = np.int64(0)
        for k in range(q, line_end):
            if buf[k] < 0x30 or buf[k] > 0x39:
                good = False
            seconds = seconds * 10 + np.int64(buf[k]) - 0x30
        value, known = _number(buf, value_at, value_end)
        path_at[n] = np.uint32(p)
        path_size[n] = np.uint32(path_end - p)
        values[n] = value
        times[n] = seconds
        if not (good and known):
            odd[n_odd] = n
            odd_end[n_odd] = line_end
            n_odd += 1
        n += 1
        p = stop + 1
    return n, n_odd, p
