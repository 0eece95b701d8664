"""zlib's crc32, for much at once at several times its speed where the processor can multiply without carry."""

import struct
import zlib

import numpy as np

from m3x import checksum_kernels as kernels

__all__ = ["crc32", "warm"]

_LEAST = 1 << 15
"""Below it is not worth the call."""
_POSSIBLE = kernels.possible()
_WORDS = struct.Struct("<QQ")
_NOTHING = 0xFFFFFFFF
"""The checksum from which zlib goes on as if nothing came before."""


def crc32(data: memoryview, value: int = 0) -> int:
    """``zlib.crc32(data, value)``; ``data`` is contiguous."""
    if data.nbytes < _LEAST or not _POSSIBLE:
        return zlib.crc32(data, value)
    array = np.frombuffer(data, np.uint8)
    blocks = len(array) // kernels.BLOCK
    words = kernels.fold(np.uint64(array.ctypes.data), blocks, np.uint64(value ^ _NOTHING))
    return zlib.crc32(array[blocks * kernels.BLOCK :].data, zlib.crc32(_WORDS.pack(*words), _NOTHING))


def warm() -> None:
    """Compiles the kernel, or loads it from the cache."""
    crc32(memoryview(bytes(_LEAST)))
