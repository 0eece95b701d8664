# mypy: ignore-errors
"""Whether any rule could match a series, told from its labels; public through ``coordinator.write.kernels``.

The tables are made by ``coordinator.write.interest``: labels that some rule asks for, and by which beginning or whole value.
"""

import numpy as np
from numba import njit

from m3x.kernels import base
from m3x.table_kernels import hash_half, probe, value_of

PRESENT = 0
"""In ``lengths``: any value will do."""
WHOLE = -1
"""The whole value; other numbers: its first bytes."""
END = -2
"""No more is asked of this label."""


@njit(cache=True, nogil=True)
def asked_context(first, length):
    """The context under which ``values`` has what is asked of a label, whose ``lengths`` begin at ``first``, with such a length."""
    return (np.uint64(first) << np.uint64(32)) | np.uint64(length - WHOLE)


@njit(cache=True, nogil=True)
def _asked_for(address, size, lengths, first, values):
    k = first
    while lengths[k] != END:
        length = np.int64(lengths[k])
        if length == PRESENT:
            return True
        if size >= length:
            n = size if length == WHOLE else length
            context = asked_context(first, length)
            if probe(values, hash_half(address, n, context), address, n, context) >= 0:
                return True
        k += 1
    return False


@njit(cache=True, nogil=True)
def interesting(buf, spans, n, tags, lengths, values):
    """Whether a rule may match the ``n`` labels of ``spans`` (rows: name at, size, value at, size); ``lengths`` empty: no rule.

    ``tags`` (address of a table): by a label's name, where in ``lengths`` (int32) that begins which is asked of its value, up to ``END``.
    ``values`` (another) has the values and beginnings under their ``asked_context``.
    """
    if len(lengths) == 0:
        return False
    none = np.uint64(0)
    for i in range(n):
        name = base(buf) + np.uint64(spans[i, 0])
        row = probe(tags, hash_half(name, spans[i, 1], none), name, spans[i, 1], none)
        if row >= 0:
            value = base(buf) + np.uint64(spans[i, 2])
            if _asked_for(value, spans[i, 3], lengths, value_of(tags, row), values):
                return True
    return False
