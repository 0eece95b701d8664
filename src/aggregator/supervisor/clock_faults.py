"""Clocks that disagree: this machine's with what it was, and with what an instance of the shard set had when it wrote flush times. Pure.

A window goes out when its time has come, and never twice. So after a clock that was ahead nothing goes out until the right one is there as
well; which of two clocks was wrong nobody here can know.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ClockFaults"]

_BACK_NS = 2_000_000_000
_AHEAD_NS = 60_000_000_000
"""Clocks of several machines differ by less."""


@dataclass(slots=True)
class ClockFaults:
    """``newest_ns``: the latest that the clock has shown."""

    newest_ns: int = 0

    def went_back(self, now_ns: int) -> str | None:
        """What to say of this machine's clock; None: it is not behind what it was."""
        self.newest_ns = max(self.newest_ns, now_ns)
        behind_ns = self.newest_ns - now_ns
        if behind_ns < _BACK_NS:
            return None
        return (
            f"the clock of this machine went back from {_time(self.newest_ns)}: until it is there again nothing is flushed, "
            "and samples without a time of their own go into the window that is open then"
        )

    @staticmethod
    def flushed_ahead(now_ns: int, flushed_ns: int, keys: Sequence[str]) -> str | None:
        """What to say of flush times that reach to ``flushed_ns`` and stand in the first of ``keys``, which belong together; None: they
        are of the past."""
        if flushed_ns - now_ns < _AHEAD_NS:
            return None
        return (
            f"the flush times in {keys[0]} reach to {_time(flushed_ns)}, which is ahead of this machine's clock: nothing is flushed "
            "until then. If this clock is wrong, set it right; if another one was wrong when they were written, stop the instances of "
            f"this shard set, delete {' and '.join(keys)} and their journals, and start them"
        )


def _time(time_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ns // 1_000_000_000))
