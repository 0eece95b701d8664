"""The memory limit of an instance, and what its workers say of it: whether they refuse new metrics, or even values of known ones."""

import time
from collections.abc import Callable, Mapping

from aggregator.supervisor.problems import PartOfProblems, Problems
from m3x.memory import MemoryLimit

__all__ = ["MemoryWatch"]

_NEW, _KNOWN = "{reason=new-metric-memory-limit}", "{reason=memory-limit}"
_REFUSED = (_NEW, _KNOWN)
_QUIET_S = 60.0
"""Nothing was refused for so long: there is memory again."""


class MemoryWatch:
    """Says in ``problems``, and so once in the log and as long as it lasts in ``/ready``, that metrics are refused for want of memory."""

    def __init__(
        self, limit: MemoryLimit, problems: Problems | PartOfProblems, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._problems = problems
        self._clock = clock
        self._limit = f"the memory limit of {limit.nbytes >> 20} MiB ({limit.source})"
        self._counted: dict[tuple[int, str], int] = {}
        """What each worker had refused, by reason."""
        self._refused_s: dict[str, float] = {}
        """When something was refused last, by reason."""

    @property
    def refuses_new(self) -> bool:
        """Whether new metrics were refused within the last minute."""
        return _NEW in self._refused_s

    def told(self, worker: int, counters: Mapping[str, int]) -> None:
        """A worker's counters since its start."""
        now_s = self._clock()
        refused = [(name, value) for name, value in counters.items() if name.endswith(_REFUSED)]
        for reason in _REFUSED:
            count = sum(value for name, value in refused if name.endswith(reason))
            if count > self._counted.get((worker, reason), 0):
                self._refused_s[reason] = now_s
            self._counted[worker, reason] = count
            if now_s - self._refused_s.get(reason, now_s) >= _QUIET_S:
                del self._refused_s[reason]
        self._say()

    def gone(self, worker: int) -> None:
        """The next process of a worker counts from 0."""
        for reason in _REFUSED:
            self._counted.pop((worker, reason), None)

    def _say(self) -> None:
        new, known = None, None
        if _NEW in self._refused_s:
            new = (
                f"new metrics are refused: {self._limit} is reached for them; those that are known are aggregated as ever. They are taken "
                "again when others expire (aggregator.entryTTL); which names grow is under /status/growth"
            )
        if _KNOWN in self._refused_s:
            known = (
                f"values are refused: {self._limit} is reached; raise it, or see why windows are not flushed (consumers of the output "
                "that are away, no leader)"
            )
        self._problems.set("memory for new metrics", new, serious=False)
        self._problems.set("memory", known)
