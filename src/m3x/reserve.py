"""Arrays over reserved address space: the kernel commits a page of memory when it is first touched.

A table that may grow to millions of rows is reserved at its largest size once. Growing then copies nothing, addresses stay valid
inside compiled loops, and rows that are given back can return their memory to the system (``release``).
"""

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_NORESERVE = 0x4000
_MADV_HUGEPAGE = 14
_PAGE = mmap.PAGESIZE


def reserve(rows: int, dtype: DTypeLike) -> NDArray[Any]:
    """A zeroed array of ``rows`` elements of ``dtype`` that costs address space only until it is touched.

    Raises ``MemoryError`` where the system refuses so large a reservation (``vm.overcommit_memory=2`` or ``ulimit -v``).
    """
    item = np.dtype(dtype)
    size = max(rows * item.itemsize, 1)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    except OSError as error:
        raise MemoryError(f"cannot reserve {size} bytes of address space: {error}") from error
    return np.frombuffer(memory, dtype=item, count=rows)


def reserve_wide(rows: int, dtype: DTypeLike, after_bytes: int = 0) -> NDArray[Any]:
    """``reserve`` for what is touched at random, or read where nothing is: behind ``after_bytes`` the system may use huge pages, where it
    knows them."""
    array = reserve(rows, dtype)
    if array.nbytes > after_bytes:
        start = -(-(array.ctypes.data + after_bytes) // _PAGE) * _PAGE
        end = (array.ctypes.data + array.nbytes) // _PAGE * _PAGE
        _madvise(ctypes.c_void_p(start), ctypes.c_size_t(max(end - start, 0)), _MADV_HUGEPAGE)
    return array


def release(array: NDArray[Any], first: int, last: int) -> None:
    """Gives the memory of the whole pages inside rows ``[first, last)`` of a reserved array back; they read as zero afterwards."""
    width = array.dtype.itemsize
    start = array.ctypes.data + first * width
    end = array.ctypes.data + last * width
    start = -(-start // _PAGE) * _PAGE
    end = end // _PAGE * _PAGE
    if end > start and _madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED) != 0:
        raise OSError("madvise(MADV_DONTNEED) failed")


_libc = ctypes.CDLL(None, use_errno=True)
_madvise = _libc.madvise
_madvise.restype = ctypes.c_int
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
