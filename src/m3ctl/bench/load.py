"""Numbered samples, when each is due, and what is known of their acknowledgements. Pure: time is an argument."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from m3metrics.ids import encode_tags

__all__ = ["Load", "Result", "labels_of", "metric_id"]

RUN_LABEL = "m3ctl_run"


@dataclass(frozen=True, slots=True)
class Load:
    """``rate`` samples a second for ``seconds``. Sample k is of series ``k % series`` and has the value k.

    ``run`` tells the series of one run from those of all others.
    """

    prefix: str
    series: int
    rate: float
    seconds: float
    run: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def total(self) -> int:
        """How many samples there are."""
        return max(int(self.rate * self.seconds), 1)

    def due(self, passed_s: float) -> int:
        """How many samples are due so long after the beginning."""
        return min(int(passed_s * self.rate) + 1, self.total)

    def last(self, series: int) -> int:
        """The value of the last sample of a series that has one."""
        return self.total - 1 - (self.total - 1 - series) % self.series

    @property
    def sent_series(self) -> int:
        """How many series have a sample."""
        return min(self.series, self.total)


def labels_of(load: Load, series: int) -> tuple[tuple[str, str], ...]:
    """The labels of a series, in order."""
    return (("__name__", load.prefix), (RUN_LABEL, load.run), ("number", f"{series:08}"))


def metric_id(load: Load, series: int) -> bytes:
    """The same as the id that aggregators know it by."""
    return encode_tags([(name.encode(), value.encode()) for name, value in labels_of(load, series)])


@dataclass(slots=True)
class Result:
    """What became of the samples that one target was sent."""

    target: str
    sent: int = 0
    acked: int = 0
    refused: int = 0
    took_s: float = 0.0
    error: str = ""
    """Why it was refused, or not sent, the last time."""
    latencies_s: list[float] = field(default_factory=list)

    def quantile_s(self, share: float) -> float | None:
        """Of the times from sending to acknowledgement; None: nothing was acknowledged."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None

    def as_data(self, round_s: Callable[[float], float] = lambda seconds: round(seconds, 6)) -> dict[str, object]:
        """As JSON."""
        p50, p99 = self.quantile_s(0.5), self.quantile_s(0.99)
        return {
            "target": self.target,
            "sent": self.sent,
            "acked": self.acked,
            "unacked": self.sent - self.acked - self.refused,
            "refused": self.refused,
            "seconds": round_s(self.took_s),
            "rate": round(self.acked / self.took_s, 1) if self.took_s else 0.0,
            "ackSeconds": {"p50": p50 if p50 is None else round_s(p50), "p99": p99 if p99 is None else round_s(p99)},
            "error": self.error,
        }
