"""Which metric names and label names new series have: a sketch of bounded size, however many names and series there are.

Only series that are new are looked at, and of many in a second only every n-th, which counts n times (``top_names``). Counts that decide
fade by half in ten minutes; so the names are those that grow now, and what has grown and stopped gives way.

Distinct values of a label are estimated by a bitmap of hashes: a bit that was not set is a new value, and stands for more of them the
fuller the bitmap is.
"""

import math
import time
from collections.abc import Callable, Iterable
from operator import attrgetter

import msgspec

from m3metrics.ids import NAME_TAG, Tag
from m3metrics.top_names import TopNames

__all__ = ["Growth", "GrowthReport", "LabelGrowth", "NameGrowth", "merged"]

_HALF_LIFE_S = 600.0
_FADE_S = 10.0
"""Counts fade in such steps."""
_BITS = 1 << 22
_FULLEST = 0.9
_LONGEST = 256
"""Bytes of a name that are shown."""
_LARGEST_SAMPLE = 512
"""Series of a second that are looked at."""


class NameGrowth(msgspec.Struct, frozen=True, rename="camel"):
    """A metric name."""

    name: str
    series: int
    """New ones since it was noticed, estimated."""
    per_minute: int
    """Of late."""


class LabelGrowth(msgspec.Struct, frozen=True, rename="camel"):
    """A label name."""

    name: str
    series: int
    """New ones that have it, since it was noticed."""
    values: int
    """Different values among them, estimated."""
    per_minute: int
    """New series with it, of late."""


class GrowthReport(msgspec.Struct, frozen=True, rename="camel"):
    """What has grown most of late, the fastest first."""

    new_series: int = 0
    """Since the start; exact."""
    metric_names: list[NameGrowth] = []
    label_names: list[LabelGrowth] = []


class Growth:
    """See the module. ``clock`` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._names, self._labels = TopNames(), TopNames()
        self._bits = bytearray(_BITS >> 3)
        self._set = 0
        self._faded_s = self._second_s = clock()
        self._new_series = 0
        self._this_second, self._looked_at, self._step, self._skip = 0, 0, 1, 0
        self._report: GrowthReport | None = None
        """As it was told last; None: something has changed since, or nothing was told."""
        self._most = 0
        """Names of either kind in it."""

    def sample(self, count: int) -> range:
        """``count`` series are new: which of them ``add`` is to be given, each with the weight ``range.step``."""
        now_s = self._clock()
        self._fade(now_s)
        if now_s - self._second_s >= 1:
            rate = self._this_second / (now_s - self._second_s)
            self._step = max(math.ceil(rate / _LARGEST_SAMPLE), 1)
            self._second_s, self._this_second, self._looked_at = now_s, 0, 0
        if count:
            self._report = None
        self._new_series += count
        self._this_second += count
        if self._looked_at >= _LARGEST_SAMPLE:
            # More than in the second before.
            self._step, self._looked_at = 2 * self._step, 0
        step = max(self._step, math.ceil(count / _LARGEST_SAMPLE))
        chosen = range(min(self._skip, step - 1), count, step)
        self._skip = (chosen[-1] + step if chosen else self._skip) - count
        self._looked_at += len(chosen)
        return chosen

    def add(self, tags: Iterable[Tag], weight: float) -> None:
        """One of them, by its tags; an id without tags is a metric name."""
        self._report = None
        for name, value in tags:
            if name == NAME_TAG:
                self._names.add(value[:_LONGEST], weight)
            else:
                self._labels.add(name[:_LONGEST], weight, self._new_value(name, value) * weight)

    def _new_value(self, name: bytes, value: bytes) -> float:
        """For how many values this one stands; 0: it was there."""
        place = hash((name, value)) % _BITS
        at, bit = place >> 3, 1 << (place & 7)
        if self._bits[at] & bit:
            return 0.0
        self._bits[at] |= bit
        free = 1 - self._set / _BITS
        self._set += 1
        if self._set > _FULLEST * _BITS:
            self._bits = bytearray(_BITS >> 3)
            self._set = 0
        return 1 / free

    def _fade(self, now_s: float) -> None:
        steps = (now_s - self._faded_s) // _FADE_S
        if steps >= 1:
            self._faded_s += steps * _FADE_S
            factor = 0.5 ** (steps * _FADE_S / _HALF_LIFE_S)
            for top in (self._names, self._labels):
                top.fade(factor)
            self._report = None

    def report(self, most: int = 20) -> GrowthReport:
        """The names that grow fastest, at most so many of either kind."""
        self._fade(self._clock())
        if self._report is None or self._most != most:
            self._report, self._most = self._made(most), most
        return self._report

    def _made(self, most: int) -> GrowthReport:
        # What fades by half in a time, and comes evenly, is at 1/ln 2 of that time's worth.
        a_minute = 60 * 0.6931 / _HALF_LIFE_S
        return GrowthReport(
            self._new_series,
            [NameGrowth(c.text, round(c.series), round(c.recent * a_minute)) for c in self._names.most(most)],
            [
                LabelGrowth(c.text, round(c.series), min(round(c.values), round(c.series)), round(c.recent * a_minute))
                for c in self._labels.most(most)
            ],
        )


def merged(reports: Iterable[GrowthReport], most: int = 20) -> GrowthReport:
    """What several processes report together. Values of a label that several have seen count for each."""
    new_series = 0
    names: dict[str, NameGrowth] = {}
    labels: dict[str, LabelGrowth] = {}
    for report in reports:
        new_series += report.new_series
        for one in report.metric_names:
            before = names.get(one.name, NameGrowth(one.name, 0, 0))
            names[one.name] = NameGrowth(one.name, before.series + one.series, before.per_minute + one.per_minute)
        for label in report.label_names:
            old = labels.get(label.name, LabelGrowth(label.name, 0, 0, 0))
            labels[label.name] = LabelGrowth(
                label.name, old.series + label.series, old.values + label.values, old.per_minute + label.per_minute
            )
    fastest = attrgetter("per_minute", "series")
    return GrowthReport(
        new_series,
        sorted(names.values(), key=fastest, reverse=True)[:most],
        sorted(labels.values(), key=fastest, reverse=True)[:most],
    )
