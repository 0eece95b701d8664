"""What the processes of a coordinator take of memory, beside what they may: figures, and a line in ``/ready``.

Every part has a bound of its own, a share of the limit (``coordinator.config.memory``); so where a process takes more than all of them
together there is a mistake, or a limit that is too small for the programs themselves. It is said, and nothing is refused for it.
"""

import asyncio
from typing import Protocol

from m3x.beats import beat
from m3x.instrument import Scope
from m3x.log import left_out, logger
from m3x.memory import MemoryLimit
from m3x.process import files_in_use, own_bytes

__all__ = ["MemoryUse"]

_LOOK_S = 1.0
_CACHE_COUNTERS = ("new_series", "forgotten_series", "unremembered_series")
_log = logger(__name__)


class Remembering(Protocol):
    """A series cache."""

    @property
    def series(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def forgotten(self) -> int: ...
    @property
    def not_kept(self) -> int: ...
    @property
    def new_series(self) -> int: ...


class MemoryUse:
    """Of one process. ``parts``: how many share the limit."""

    def __init__(self, limit: MemoryLimit, scope: Scope, parts: int = 1) -> None:
        self._limit = limit
        self._share = limit.nbytes // parts
        self._scope = scope
        self._over = False
        self._cache: Remembering | None = None
        self._counted = dict.fromkeys(_CACHE_COUNTERS, 0)

    def watch(self, cache: Remembering) -> None:
        """Tells of this cache, too."""
        self._cache = cache

    def look(self, used: int) -> None:
        """``used``: bytes of memory that are this process's alone."""
        self._scope.gauge("memory_used_bytes", float(used))
        self._scope.gauge("memory_limit_bytes", float(self._share))
        self._scope.gauge("open_files", float(files_in_use()))
        self._scope.gauge("log_lines_left_out", float(left_out()))
        if self._cache is not None:
            self._tell_of(self._cache)
        over = 0 < self._share < used
        if over and not self._over:
            _log.warning(
                "this process takes more memory than it may", used=used, limit=self._share, source=self._limit.source
            )
        self._over = over

    def _tell_of(self, cache: Remembering) -> None:
        scope = self._scope.sub("series_cache")
        scope.gauge("series", float(cache.series))
        scope.gauge("bytes", float(cache.size_bytes))
        now = (cache.new_series, cache.forgotten, cache.not_kept)
        for name, count in zip(_CACHE_COUNTERS, now, strict=True):
            scope.count(name, count - self._counted[name])
            self._counted[name] = count

    def notes(self) -> list[str]:
        """What to say of it."""
        if not self._over:
            return []
        return [
            f"a process takes more than its {self._share >> 20} MiB of the memory limit ({self._limit.source}); raise memoryLimitBytes, or "
            "lower workers, writeCache.maxBytes or the queues' windowBytes"
        ]

    async def run(self) -> None:
        """Looks, until cancelled."""
        while True:
            self.look(await asyncio.to_thread(own_bytes))
            await beat(every_s=_LOOK_S)
