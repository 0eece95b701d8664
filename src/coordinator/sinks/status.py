"""What is known of a sink and its queue: one struct for ``/ready``, ``/metrics`` and ``m3ctl doctor``."""

from bisect import bisect_right

import msgspec

from m3metrics.policy import format_duration
from m3x.instrument import Scope

__all__ = ["Ages", "Rate", "SinkStatus"]

_SECOND = 1_000_000_000
_SAID_AFTER_S = 30.0
"""A sink that fails is a problem after so long; at once where waiting alone will not cure it."""
_LATE_AFTER_S = 120.0
"""One that does not, or not with everything, is a problem when a value has waited for so long."""
_KEPT_S = 300.0
"""Values that were dropped or are lost are a problem for so long."""
_MOST_MARKS = 4096


class SinkStatus(msgspec.Struct, kw_only=True, rename="camel"):
    """One sink now, as ``/api/v1/sinks`` has it. Counts are since the process began; none of its texts has credentials in it."""

    name: str
    waiting_values: int = 0
    """Not delivered yet, in memory or on disk."""
    waiting_bytes: int = 0
    """What they have on disk, roughly."""
    disk_bytes: int = 0
    """The whole queue."""
    most_bytes: int = 0
    memory_bytes: int = 0
    age_s: float = 0.0
    """Since when the oldest value waits, beside those that are parked; 0: none does."""
    rate_in: float = 0.0
    """Values a second, over some seconds."""
    rate_out: float = 0.0
    appended: int = 0
    delivered: int = 0
    refused: dict[str, int] = {}
    """By reason."""
    refused_after_answer: int = 0
    dropped: int = 0
    """Thrown away to make room."""
    dropped_ago_s: float | None = None
    """How long ago the last time was."""
    unreadable: int = 0
    """Lost to damage of the queue."""
    unreadable_ago_s: float | None = None
    """How long ago the last damage was found."""
    error: str = ""
    """Why the last attempt failed, of those that are not settled yet."""
    failing_s: float = 0.0
    """Since when it has failed without a success."""
    held: bool = False
    """An operator has to do something."""
    full: bool = False
    """Writers wait for room in the queue."""
    parked_values: int = 0
    """The store cannot take them yet, each for itself; others do not wait for them."""
    parked_s: float = 0.0
    """Since when the oldest of them is."""
    parked_why: str = ""
    """Why that one is."""
    trouble: list[str] = []
    """What is wrong with the queue itself."""

    def problems(self) -> list[str]:
        """One line for each thing that is wrong; empty: nothing is."""
        depth = f"{self.waiting_values} values wait ({self.waiting_bytes >> 20} MiB, the oldest {_ago(self.age_s)})"
        found = []
        if self.full:
            found.append(
                f"sink {self.name}: its queue is full ({self.disk_bytes >> 20} of {self.most_bytes >> 20} MiB), whoever writes to it "
                f"waits; {depth}{': ' + self.error if self.error else ''}"
            )
        elif self.error and (self.held or self.failing_s >= _SAID_AFTER_S):
            what = "does not take values, and waiting alone will not cure it" if self.held else "fails"
            found.append(f"sink {self.name} {what}: {self.error}; {depth}")
        elif self.age_s >= _LATE_AFTER_S:
            rates = f"{self.rate_in:.0f} values a second come, {self.rate_out:.0f} go"
            found.append(f"sink {self.name} is late: {depth}; {rates}{': ' + self.error if self.error else ''}")
        if self.parked_values and self.parked_s >= _SAID_AFTER_S:
            found.append(
                f"sink {self.name}: {self.parked_values} values wait for themselves alone, the first of them since "
                f"{_ago(self.parked_s)}: {self.parked_why}"
            )
        found += [f"sink {self.name}: {one}; {depth}" for one in self.trouble]
        if self.dropped_ago_s is not None and self.dropped_ago_s < _KEPT_S:
            found.append(
                f"sink {self.name}: {self.dropped} values dropped as its queue was full, the last ones {_ago(self.dropped_ago_s)} ago"
            )
        if self.unreadable_ago_s is not None and self.unreadable_ago_s < _KEPT_S:
            found.append(
                f"sink {self.name}: {self.unreadable} values lost as its queue is damaged (the log says where), found "
                f"{_ago(self.unreadable_ago_s)} ago"
            )
        return found

    def gauge(self, scope: Scope) -> None:
        """Shows what rises and falls; ``scope`` is tagged with the sink."""
        scope.gauge("depth_values", self.waiting_values)
        scope.gauge("depth_bytes", self.waiting_bytes)
        scope.gauge("parked_values", self.parked_values)
        scope.gauge("disk_bytes", self.disk_bytes)
        scope.gauge("memory_bytes", self.memory_bytes)
        scope.gauge("age_seconds", self.age_s)
        scope.gauge("held", float(self.held or bool(self.trouble)))
        scope.gauge("failing", float(bool(self.error)))
        scope.gauge("full", float(self.full))


class Rate:
    """Events a second, over some seconds."""

    def __init__(self, now_ns: int, over_s: float = 10.0) -> None:
        self.value = 0.0
        self._over_s = over_s
        self._last = 0, now_ns

    def observe(self, count: int, now_ns: int) -> None:
        """``count`` have been since the begin."""
        took_s = (now_ns - self._last[1]) / _SECOND
        if took_s > 0:
            share = min(took_s / self._over_s, 1.0)
            self.value += share * ((count - self._last[0]) / took_s - self.value)
            self._last = count, now_ns


class Ages:
    """When the values of a queue were appended, to about a second; to about a thousandth of the time when there are many."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._times: list[int] = []
        self._least_ns = _SECOND

    def note(self, first: int, at_ns: int) -> None:
        """The value with the number ``first``, behind all that were noted, was appended at ``at_ns``."""
        if self._times and at_ns - self._times[-1] < self._least_ns:
            return
        self._firsts.append(first)
        self._times.append(at_ns)
        if len(self._firsts) > _MOST_MARKS:
            self._firsts, self._times = self._firsts[::2], self._times[::2]
            self._least_ns *= 2

    def at(self, number: int) -> int | None:
        """When a value was appended, or a little earlier; None: not known. What is before it is forgotten."""
        k = bisect_right(self._firsts, number) - 1
        if k < 0:
            return None
        if k > 0:
            del self._firsts[:k], self._times[:k]
        if len(self._firsts) < _MOST_MARKS // 8:
            self._least_ns = _SECOND
        return self._times[0]


def _ago(seconds: float) -> str:
    return format_duration(round(seconds) * _SECOND)
