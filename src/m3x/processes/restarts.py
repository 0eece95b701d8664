"""How soon a process that died is started again: at once, or after a pause if it dies repeatedly."""

from m3x.clock import monotonic_ns
from m3x.retry import Backoff

__all__ = ["Restarts"]

_BACKOFF = Backoff(initial_s=0.5, factor=2.0, max_s=10.0, jitter=False)
_STEADY_NS = 10_000_000_000
"""A process that lived this long was not at fault for its start: its successor starts at once."""


class Restarts:
    """Starts and deaths of one process in successive incarnations."""

    def __init__(self) -> None:
        self._deaths = 0
        self._began_ns = 0
        self._lives = False

    def started(self) -> None:
        """An incarnation begins."""
        self._began_ns = monotonic_ns()
        self._lives = True

    def in_a_row(self) -> int:
        """Deaths, each soon after the start; 0: none, or the present incarnation has lived for a while since."""
        return 0 if self._lives and monotonic_ns() - self._began_ns > _STEADY_NS else self._deaths

    def pause_s(self) -> float:
        """It died: seconds until the next one may be started."""
        self._lives = False
        self._deaths = 1 if monotonic_ns() - self._began_ns > _STEADY_NS else self._deaths + 1
        return _BACKOFF.delay(self._deaths - 1) if self._deaths > 1 else 0.0
