"""The usual request of remote write in one step: every series of it is known, a gauge of one message, and has labels and samples only.

From the body to the batch there is one compiled loop (``known_kernels``); a request that is anything else is left to the steps of
``remote_write``, whose answer is the same and takes twice as long. Where requests have what is odd, not only new series, fewer are tried.
"""

import cramjam
import numpy as np
from numpy.typing import NDArray

from coordinator.write import kernels
from coordinator.write.series_cache import SeriesCache
from m3msg.batch import MessageBatch

__all__ = ["MOST_BYTES", "KnownSeries", "TriedBody"]

MOST_BYTES = 4 << 20
"""Of a request, uncompressed; a larger one is encoded in steps, between which others have their turn."""
_LEAST_SAMPLE_BYTES = 9
_MOST_LEFT_OUT = 32


class TriedBody(bytes):
    """A body that ``KnownSeries`` has not taken. ``plain``: what it has unpacked of it, which stays valid."""

    plain: NDArray[np.uint8] | None = None


class KnownSeries:
    """Encodes through the cache of one writer; keeps what it works with."""

    def __init__(self, cache: SeriesCache) -> None:
        self._cache = cache
        self._plain = np.empty(0, np.uint8)
        self._offsets, self._shards = np.empty(1, np.int64), np.empty(0, np.uint32)
        self._growth = 2.0
        """Bytes of messages for each byte of a request, of late."""
        self._left_out = 0
        """Requests that are not tried any more, as the one before was odd."""
        self._next_left_out = 1

    @property
    def pauses(self) -> bool:
        """Whether the next request is not tried."""
        return self._left_out > 0

    def handed_over(self, body: bytes, plain: NDArray[np.uint8] | None) -> TriedBody:
        """A body for the steps of ``remote_write``. ``plain``: what ``unpacked`` gave last, of this body; it is not used here any more."""
        tried = TriedBody(body)
        if plain is not None:
            tried.plain, self._plain = plain, np.empty(0, np.uint8)
        return tried

    def unpacked(self, body: bytes) -> NDArray[np.uint8] | None:
        """The request, valid until the next call; None: it is not for this class, or no snappy."""
        if self._left_out:
            self._left_out -= 1
            return None
        try:
            size = cramjam.snappy.decompress_raw_len(body) if body else 0
            if not 0 < size <= MOST_BYTES:
                return None
            if size + kernels.KNOWN_SLACK > len(self._plain):
                self._plain = np.empty(size + size // 4 + kernels.KNOWN_SLACK, np.uint8)
            plain = self._plain[:size]
            if cramjam.snappy.decompress_raw_into(body, plain.data) == size:
                return plain
        except (cramjam.DecompressionError, OverflowError, ValueError):
            # Who decodes it next says so.
            pass
        return None

    def encode(self, plain: NDArray[np.uint8], num_shards: int) -> tuple[MessageBatch, int] | None:
        """The messages of what ``unpacked`` gave, and the time (ms) of the last one; None: they are not for this class."""
        size = len(plain)
        most = size // _LEAST_SAMPLE_BYTES
        if most > len(self._shards):
            self._offsets, self._shards = np.empty(most + 1, np.int64), np.empty(most, np.uint32)
        while True:
            out = np.empty(int(size * self._growth) + 1024, np.uint8)
            messages, used, last_ms = self._cache.encode_known(
                self._plain, size, num_shards, out, self._offsets, self._shards
            )
            if messages != kernels.NO_ROOM:
                break
            self._growth *= 2
        if messages == kernels.ODD:
            self._left_out, self._next_left_out = self._next_left_out, min(2 * self._next_left_out, _MOST_LEFT_OUT)
        if messages <= 0:
            # A series that is not known will be the next time.
            return None
        self._next_left_out = 1
        self._growth = max(1.1 * used / size, self._growth * 0.9)
        offsets, shards = self._offsets[: messages + 1].copy(), self._shards[:messages].copy()
        return MessageBatch(out[:used], offsets, shards), int(last_ms)
