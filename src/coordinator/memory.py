"""What the processes of a coordinator take of memory, beside what they may: figures, and a line in ``/ready``.

Every part has a bound of its own, a share of the limit (``coordinator.config.memory``); so where a process takes more than all of them
together there is a mistake, or a limit that is too small for the programs themselves. It is said, and nothing is refused for it.
"""

import asyncio

from m3x.beats import beat
from m3x.instrument import Scope
from m3x.log import left_out, logger
from m3x.memory import MemoryLimit
from m3x.process import files_in_use, own_bytes

__all__ = ["MemoryUse"]

_LOOK_S = 1.0
_log = logger(__name__)


class MemoryUse:
    """Of one process. ``parts``: how many share the limit."""

    def __init__(self, limit: MemoryLimit, scope: Scope, parts: int = 1) -> None:
        self._limit = limit
        self._share = limit.nbytes // parts
        self._scope = scope
        self._over = False

    def look(self, used: int) -> None:
        """``used``: bytes of memory that are this process's alone."""
        self._scope.gauge("memory_used_bytes", float(used))
        self._scope.gauge("memory_limit_bytes", float(self._share))
        self._scope.gauge("open_files", float(files_in_use()))
        self._scope.gauge("log_lines_left_out", float(left_out()))
        over = 0 < self._share < used
        if over and not self._over:
            _log.warning(
                "this process takes more memory than it may", used=used, limit=self._share, source=self._limit.source
            )
        self._over = over

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
