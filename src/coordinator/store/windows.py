"""What was written lately, window by window: for whoever watches the stack at work."""

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["RecentWindows", "Window"]

_MAX_WINDOWS = 1024
_SAMPLES = 5


@dataclass(slots=True)
class Window:
    """The points of one policy with one timestamp."""

    policy: int
    time_ms: int
    count: int = 0
    """Points written so far."""
    samples: list[tuple[int, float]] = field(default_factory=list)
    """Entry and value of some of them."""
    changed: int = 0
    changed_s: float = 0.0


class RecentWindows:
    """The windows written last, at most 1024. A window is told once it has been quiet for a while, and again if more comes."""

    def __init__(self, quiet_s: float = 0.5) -> None:
        self._quiet_s = quiet_s
        self._windows: OrderedDict[tuple[int, int], Window] = OrderedDict()
        self._changes = 0

    def clear(self) -> None:
        """Entries have changed their meaning; counts start again."""
        self._windows.clear()

    def add(
        self,
        policy: int,
        entries: NDArray[np.int64],
        time_ms: NDArray[np.int64],
        values: NDArray[np.float64],
        now_s: float,
    ) -> None:
        """Points that have just been committed; at least one."""
        if time_ms[0] == time_ms[-1] and (time_ms == time_ms[0]).all():
            times, firsts, counts = time_ms[:1], np.zeros(1, np.int64), np.array([len(time_ms)])
        else:
            times, firsts, counts = np.unique(time_ms, return_index=True, return_counts=True)
        # The newest are enough where one commit holds more windows than are kept.
        for time, first, count in list(zip(times.tolist(), firsts.tolist(), counts.tolist(), strict=True))[
            -_MAX_WINDOWS:
        ]:
            window = self._windows.get((policy, time))
            if window is None:
                window = self._windows[(policy, time)] = Window(policy, time)
            self._changes += 1
            window.changed, window.changed_s = self._changes, now_s
            window.count += count
            wanted = _SAMPLES - len(window.samples)
            if wanted > 0:
                rows = np.flatnonzero(time_ms[first : first + 64] == time)[:wanted] + first
                window.samples += zip(entries[rows].tolist(), values[rows].tolist(), strict=True)
            self._windows.move_to_end((policy, time))
        while len(self._windows) > _MAX_WINDOWS:
            self._windows.popitem(last=False)

    def since(self, change: int, now_s: float) -> tuple[list[Window], int]:
        """Windows that changed after ``change`` and are quiet now, by time; and what to ask with next."""
        found: list[Window] = []
        for window in self._windows.values():
            if window.changed <= change:
                continue
            if now_s - window.changed_s < self._quiet_s:
                # Whatever changed later waits as well, or the next question would skip this one.
                break
            found.append(window)
        following = max((window.changed for window in found), default=change)
        return sorted(found, key=lambda window: (window.time_ms, window.policy)), following
