"""The keys of the series that are remembered, compressed: nothing that is written needs them, only who lists them does.

The table has a hash of each key. The keys themselves are written down one after the other and compressed block by block; the labels of
neighbours have most in common, so that a key takes a sixth of its bytes. Of a block with more keys that are forgotten than not, the others
are written down anew.
"""

from collections import deque
from typing import Any, NamedTuple

import cramjam
import numpy as np
from numpy.typing import NDArray

from coordinator.write import kernels
from m3x.reserve import release, reserve

__all__ = ["KeyLog"]

_BLOCK_BYTES = (1 << 14, 1 << 18)
"""Least and most."""
_MOST_BLOCKS = 60_000
"""An entry knows the number of its block modulo 2**16: beyond this the oldest one is given up, and its series are not listed."""
_AT_A_TIME = 4
"""Blocks that are tidied up when memory is short."""
_NUMBER_SHIFT = 20
"""A place in the list has the number of a block above these bits, and one of its keys below."""


class _Block(NamedTuple):
    number: int
    data: bytes
    size: int
    """Before compression."""
    keys: int


class KeyLog:
    """Of the cache with that head (one row of ``kernels.CACHE``); ``largest``: bytes of the keys, at most ``rows``, that one call may write
    down. ``limit_bytes``: of the cache."""

    def __init__(self, head: NDArray[Any], largest: int, rows: int, limit_bytes: int) -> None:
        self._block_bytes = min(max(limit_bytes // 64, _BLOCK_BYTES[0]), _BLOCK_BYTES[1])
        self._head = head
        self._address = np.uint64(head.ctypes.data)
        self._buffer: NDArray[np.uint8] = reserve(2 * self._block_bytes + largest + rows * kernels.KEY_HEAD, np.uint8)
        head["keys"] = self._buffer.ctypes.data
        self._used, self._count, self._block = head["keys_used"], head["keys_count"], head["block"]
        self._blocks: deque[_Block] = deque()
        self._keys = 0
        """In the blocks."""
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Memory that is in use."""
        return self._size_bytes + max(int(self._used[0]), self._block_bytes)

    def clear(self) -> None:
        """Forgets all keys."""
        self._blocks.clear()
        self._keys = self._size_bytes = 0
        self._used[0] = self._count[0] = 0

    def settle(self, series: int, short: bool) -> None:
        """Compresses what is a block's worth, and tidies up if it is time; ``series``: how many are remembered, ``short``: memory is."""
        if self._used[0] < self._block_bytes:
            return
        self._compress()
        for _ in range(_AT_A_TIME if short else 1):
            if self._keys <= (3 * series // 2 if short else 2 * series) or not self._blocks:
                break
            oldest = self._take_oldest()
            kernels.write_again(self._address, _decompressed(oldest), oldest.number)
            if self._used[0] >= self._block_bytes:
                self._compress()
        while len(self._blocks) > _MOST_BLOCKS:
            self._take_oldest()

    def known(self, after: int, limit: int) -> tuple[list[tuple[bytes, int]], int | None]:
        """Keys and contexts of at most ``limit`` series from place ``after`` on, and the place of the next ones; None: that was all."""
        wanted, skipped = after >> _NUMBER_SHIFT, after & ((1 << _NUMBER_SHIFT) - 1)
        block = next((block for block in self._blocks if block.number >= wanted), None)
        if block is None:
            number, keys = int(self._block[0]), int(self._count[0])
            data = self._buffer[: int(self._used[0])]
        else:
            number, keys, data = block.number, block.keys, _decompressed(block)
        at, size = np.empty(keys, np.int64), np.empty(keys, np.int64)
        contexts = np.empty(keys, np.uint64)
        found = kernels.still_known(self._address, data, number, at, contexts, size)
        first = skipped if number == wanted else 0
        last = min(first + limit, found)
        listed = [
            (data[begin : begin + length].tobytes(), context)
            for begin, length, context in zip(
                at[first:last].tolist(), size[first:last].tolist(), contexts[first:last].tolist(), strict=True
            )
        ]
        if last < found:
            return listed, number << _NUMBER_SHIFT | last
        return listed, None if block is None else (number + 1) << _NUMBER_SHIFT

    def _compress(self) -> None:
        used = int(self._used[0])
        data = bytes(cramjam.lz4.compress_block(self._buffer[:used].data))
        self._blocks.append(_Block(int(self._block[0]), data, used, int(self._count[0])))
        self._keys += int(self._count[0])
        self._size_bytes += len(data)
        self._block[0] += 1
        self._used[0] = self._count[0] = 0
        if used > 2 * self._block_bytes:
            release(self._buffer, 2 * self._block_bytes, len(self._buffer))

    def _take_oldest(self) -> _Block:
        oldest = self._blocks.popleft()
        self._keys -= oldest.keys
        self._size_bytes -= len(oldest.data)
        return oldest


def _decompressed(block: _Block) -> NDArray[np.uint8]:
    return np.frombuffer(bytearray(cramjam.lz4.decompress_block(block.data)), np.uint8)
