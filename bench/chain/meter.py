"""What processes cost: CPU and memory by name, from ``/proc``."""

import threading
from collections.abc import Callable, Mapping
from typing import Self

from m3x.process import cpu_seconds, proportional_bytes

__all__ = ["Meter"]

_EVERY_S = 2.0
"""Reading the pages of a process of a GiB takes milliseconds, in which it cannot map any."""


class Meter:
    """``pids``: those of a chain by name, as they are now. Memory is watched in a thread of its own inside ``with``."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak: dict[str, int] = {}
        """Bytes (PSS) by process when all together had most."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far by process, children that have ended with those that they had."""
        return {name: cpu_seconds(pid, children=True) for name, pid in self._pids().items()}

    def _watch(self) -> None:
        while not self._done.wait(_EVERY_S):
            now = {name: proportional_bytes(pid) for name, pid in self._pids().items()}
            if sum(now.values()) > sum(self.peak.values()):
                self.peak = now
