"""Memory that ends at an unreadable page: what reads or writes one byte too far ends the process."""

import ctypes
import mmap
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["laid", "room", "rows"]

_FILLING = 0xEE
_LEAST = 1 << 17
"""Bytes of a stretch: most inputs fit."""


class _Stretch:
    """Readable pages between two that are not."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        size = -(-size // page) * page
        self._memory = mmap.mmap(-1, size + 2 * page)
        whole = np.frombuffer(self._memory, np.uint8)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for start in (0, page + size):
            if protect(ctypes.c_void_p(whole.ctypes.data + start), ctypes.c_size_t(page), 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        self.bytes: NDArray[np.uint8] = whole[page : page + size]


@cache
def _stretch(what: str, size: int) -> _Stretch:
    return _Stretch(size)


def _last(what: str, size: int) -> NDArray[np.uint8]:
    """The last bytes of the stretch of that name which is large enough."""
    wanted = _LEAST
    while wanted < size:
        wanted *= 2
    whole = _stretch(what, wanted).bytes
    return whole[len(whole) - size :]


def laid(data: bytes, what: str = "input") -> NDArray[np.uint8]:
    """The bytes directly before an unreadable page; good until the next call for the same ``what``."""
    found = _last(what, len(data))
    found[:] = np.frombuffer(data, np.uint8)
    return found


def room(size: int, what: str = "output") -> NDArray[np.uint8]:
    """Bytes to write to, directly before an unreadable page."""
    found = _last(what, size)
    found[:] = _FILLING
    return found


def rows(count: int, dtype: DTypeLike, what: str = "rows") -> NDArray[Any]:
    """A column or table to write to, whose last row is directly before an unreadable page."""
    kind = np.dtype(dtype)
    return room(count * kind.itemsize, what).view(kind)
