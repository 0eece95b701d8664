"""Which metric names send most, cost most and are refused most: a sample of the messages, in tables of bounded size (``top_names``).

Of the messages that pass every n-th is looked at, at random places, so that what comes in bursts and always in one order is seen as it is:
some 32 of them a second, each of which counts n times. Counts fade by half in a minute, and so does the time that they are
divided by.

What a metric costs is what its samples are added to: each sample once for each of its aggregations (policies and rollups); those that are
refused count as well, where there is such a series. Beside that, timers that quantiles are asked of keep eight bytes of each sample and
aggregation until its window is out.
"""

import random
import time
from collections.abc import Callable, Iterable
from operator import attrgetter

import msgspec

from m3metrics.top_names import TopNames

__all__ = ["MOST_AT_ONCE", "NameRate", "Refusals", "Traffic", "TrafficReport", "merged_traffic"]

_LOOKS_PER_SECOND = 32
MOST_AT_ONCE = 2 * _LOOKS_PER_SECOND
"""Messages that are looked at after one call."""
_HALF_LIFE_S = 60.0
_FADE_S = 5.0
"""Counts fade, and reports change, in such steps."""
_LONGEST = 256
"""Bytes of a name that are shown."""


class NameRate(msgspec.Struct, frozen=True, rename="camel"):
    """A metric name, and so much a second, of late, estimated."""

    name: str
    per_second: float


class Refusals(msgspec.Struct, frozen=True, rename="camel"):
    """A metric name, why its messages are refused, and how many a second."""

    name: str
    reason: str
    per_second: float


class TrafficReport(msgspec.Struct, frozen=True, rename="camel"):
    """What has most of late, the most first."""

    messages: int = 0
    """Since the start; exact."""
    looked_at: int = 0
    """So many of them."""
    samples: list[NameRate] = []
    updates: list[NameRate] = []
    """Samples times aggregations."""
    timer_bytes: list[NameRate] = []
    refused: list[Refusals] = []


class Traffic:
    """See the module. ``clock`` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._random = random.Random(0)
        self._samples, self._updates, self._bytes, self._refused = (TopNames() for _ in range(4))
        self._step, self._left = 1, 0
        self._messages, self._looked_at = 0, 0
        self._second_s = self._faded_s = clock()
        self._this_second, self._looked_this_second = 0, 0
        self._weight_s = 0.0
        """How many seconds the counts stand for."""
        self._report = TrafficReport()

    def passed(self, count: int) -> list[int]:
        """``count`` messages have passed: which of them ``add`` is to be told, each with the weight ``step``."""
        self._messages += count
        self._this_second += count
        if self._left >= count:
            self._left -= count
            return []
        chosen: list[int] = []
        before = self._step
        self._adapt(count)
        if self._step > before:
            # The place was chosen for a smaller weight.
            self._left = self._random.randrange(self._step)
        while self._left < count and len(chosen) < MOST_AT_ONCE:
            chosen.append(self._left)
            self._left += self._gap()
        self._left = max(self._left - count, 0)
        self._looked_at += len(chosen)
        self._looked_this_second += len(chosen)
        return chosen

    @property
    def step(self) -> int:
        """For how many messages one of those chosen last stands."""
        return self._step

    def _gap(self) -> int:
        return 1 + int(self._random.random() * (2 * self._step - 1))

    def _adapt(self, count: int) -> None:
        passed_s = self._clock() - self._second_s
        if passed_s >= 1:
            self._step = max(round(self._this_second / passed_s / _LOOKS_PER_SECOND), 1)
            self._second_s += passed_s
            self._this_second, self._looked_this_second = 0, 0
        elif self._this_second >= 2 * _LOOKS_PER_SECOND * self._step or self._looked_this_second >= _LOOKS_PER_SECOND:
            # More than in the second before.
            self._step = max(2 * self._step, self._this_second // _LOOKS_PER_SECOND)
            self._looked_this_second = 0
        self._step = max(self._step, count // _LOOKS_PER_SECOND)

    def add(self, name: bytes, samples: int, updates: int, timer_bytes: int, weight: int = 0) -> None:
        """One of them: what it has of each. ``weight``: ``step`` when it was chosen, if others have been since."""
        weight, name = weight or self._step, name[:_LONGEST]
        for top, amount in ((self._samples, samples), (self._updates, updates), (self._bytes, timer_bytes)):
            if amount:
                top.add(name, weight * amount)

    def refused(self, name: bytes, reason: str, messages: float) -> None:
        """So many messages of a name were refused."""
        self._refused.add(name[:_LONGEST] + b"\0" + reason.encode(), messages)

    def report(self, most: int = 20) -> TrafficReport:
        """Names with most of each, at most so many; made anew every few seconds."""
        now_s = self._clock()
        passed_s = now_s - self._faded_s
        if passed_s < _FADE_S:
            return self._report
        self._faded_s = now_s
        self._weight_s += passed_s
        samples, updates, timer_bytes = (self._rates(top, most) for top in (self._samples, self._updates, self._bytes))
        refused = []
        for one in self._rates(self._refused, most):
            name, _, reason = one.name.rpartition("\0")
            refused.append(Refusals(name, reason, one.per_second))
        self._report = TrafficReport(self._messages, self._looked_at, samples, updates, timer_bytes, refused)
        factor = 0.5 ** (passed_s / _HALF_LIFE_S)
        self._weight_s *= factor
        for top in (self._samples, self._updates, self._bytes, self._refused):
            top.fade(factor)
        return self._report

    def _rates(self, top: TopNames, most: int) -> list[NameRate]:
        return [NameRate(one.text, one.recent / self._weight_s) for one in top.most(most)]


def merged_traffic(reports: Iterable[TrafficReport], most: int = 20) -> TrafficReport:
    """What several processes report together."""
    tables: list[dict[str, float]] = [{}, {}, {}]
    refused: dict[tuple[str, str], float] = {}
    messages = looked_at = 0
    for report in reports:
        messages += report.messages
        looked_at += report.looked_at
        for table, rates in zip(tables, (report.samples, report.updates, report.timer_bytes), strict=True):
            for one in rates:
                table[one.name] = table.get(one.name, 0.0) + one.per_second
        for loss in report.refused:
            refused[loss.name, loss.reason] = refused.get((loss.name, loss.reason), 0.0) + loss.per_second
    fastest = attrgetter("per_second")
    samples, updates, timer_bytes = (
        sorted((NameRate(*pair) for pair in table.items()), key=fastest, reverse=True)[:most] for table in tables
    )
    losses = [Refusals(*key, rate) for key, rate in refused.items()]
    return TrafficReport(
        messages, looked_at, samples, updates, timer_bytes, sorted(losses, key=fastest, reverse=True)[:most]
    )
