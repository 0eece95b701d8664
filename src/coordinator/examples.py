"""Refused samples as the log names them: one of them, another one each time, with its time and what is likely wrong with that."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from m3metrics.ids import readable_id
from m3x.golang import go_duration

__all__ = ["Examples", "SampleTime", "about"]

_SECOND = 1_000_000_000
_DAY_S = 86_400
_GOLDEN = 0.6180339887498949
_LONGEST_ID = 1000
"""Bytes of an id that are shown."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS = {"seconds": 10**9, "milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}
_FUTURE_NS = 60 * _SECOND


class SampleTime(NamedTuple):
    """The time of a sample as it was sent: ``unit`` is what its way in has, out of ``seconds``, ``milliseconds``, ``microseconds``;
    ``nanoseconds`` where the way in is not known."""

    value: int
    unit: str = "nanoseconds"

    @property
    def ns(self) -> int:
        """Unix nanoseconds, also beyond 64 bits."""
        return self.value * _NS[self.unit]

    def likely(self, now_ns: int) -> str:
        """What is likely wrong with it, in words; empty: nobody knows.

        A time that is a thousandth of now, or a thousand times now, was written in another unit: nobody measured anything in 1970.
        """
        if self.ns == 0:
            return "it has no time"
        for shift in (-9, -6, -3, 3, 6, 9):
            if now_ns // 2 < self.ns * 10 ** max(shift, 0) // 10 ** max(-shift, 0) < now_ns * 2:
                return self._in_another_unit(shift)
        if self.ns > now_ns + _FUTURE_NS:
            return "the clock of its sender seems to be fast, or that of this machine slow"
        return ""

    def _in_another_unit(self, shift: int) -> str:
        """``shift``: the power of ten that its time lacks."""
        size = _NS[self.unit] * 10 ** max(shift, 0) // 10 ** max(-shift, 0)
        given = next((unit for unit, ns in _NS.items() if ns == size), None)
        if self.unit == "nanoseconds" or given is None:
            return "its time seems to be in another unit, as seconds are where milliseconds are meant"
        return f"its sender seems to give {given} where {self.unit} are meant"

    def shown(self, now_ns: int) -> str:
        """As people read it: ``2026-01-02T03:04:05.678Z, 12m3s ago``."""
        off_s = (now_ns - self.ns) // _SECOND
        try:
            moment = _EPOCH + timedelta(milliseconds=self.ns // 1_000_000)
        except OverflowError:
            return f"{self.value} {self.unit} since 1970"
        text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        size = abs(off_s)
        off = go_duration(size * _SECOND) if size < 2 * _DAY_S else f"{size // _DAY_S} days"
        return f"{text}, {off} {'ago' if off_s >= 0 else 'ahead'}"


class Examples:
    """Chooses which of several refused samples is named, so that a log that is limited names many metrics in the end."""

    def __init__(self) -> None:
        self._at = 0.0

    def choose(self, count: int) -> int:
        """A number below ``count``, which is above 0. Numbers that follow each other are spread out, also where only each n-th is seen."""
        at = self._at
        self._at = (at + _GOLDEN) % 1.0
        return int(at * count)


def about(metric: bytes, time: SampleTime, now_ns: int) -> dict[str, Any]:
    """Fields of a log line: ``metric``, ``time``, and ``likely`` where something is."""
    fields: dict[str, Any] = {"metric": readable_id(metric[:_LONGEST_ID]), "time": time.shown(now_ns)}
    if likely := time.likely(now_ns):
        fields["likely"] = likely
    return fields
