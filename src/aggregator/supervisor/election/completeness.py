"""Since when this instance holds all samples, stamped when they arrived: what decides who should lead (``holdings``, ``flush_times``).

Samples are missed while a worker or the front is not there, and stamped too late when the front was stopped, or when a producer sends to
a new front what it kept while there was none. A supervisor that is stopped costs nothing: its front and its workers go on.
"""

from collections.abc import Callable

from m3x.clock import boot_ns, wall_ns

__all__ = ["Completeness"]

_RECONNECT_NS = 10_000_000_000
"""Producers that connect so soon after a front began to listen send what they kept for the one before."""


class Completeness:
    """``changed`` is called whenever samples were missed; the processes' events are reported by their names."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.since_ns = wall_ns()
        """All samples since then (wall clock) are held as they arrived."""
        self._changed = changed
        self._listens_ns = 0
        self._connections = 0.0

    def missed(self) -> None:
        """Samples may have been missed, or stamped too late, until now."""
        self.since_ns = wall_ns()
        self._changed()

    def listening(self) -> None:
        """A front listens."""
        self._listens_ns, self._connections = boot_ns(), 0.0
        self.missed()

    def connections(self, open_now: float) -> None:
        """So many connections are open at the front."""
        more, self._connections = open_now > self._connections, open_now
        if more and boot_ns() - self._listens_ns < _RECONNECT_NS:
            self.missed()
