"""What is sent, and the books: numbered samples whose values show in a window's value which of them are in it.

A *digit* sample has the value 8**slot, so a window that sums them is a number whose octal digit ``slot`` says how often the sample is in
it: 0 is missing, 2 doubled. A series has ``SLOTS`` of them; a permanent series begins anew then, one that rotates goes on under another id.
Samples of a *last* series are numbered. Sources of a *rate* series grow by another whole number a second in each window, each source in a
digit of its own, so that PerSecond and a sum over all sources give a number whose digits are the sources' rates.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from m3metrics.codec import (
    BatchTimerWithMetadatas,
    CounterWithMetadatas,
    GaugeWithMetadatas,
    Metric,
    TimedMetricWithMetadatas,
)
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.metric import MetricType
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy

__all__ = [
    "BASE",
    "PREFIX",
    "SECOND_NS",
    "SLOTS",
    "WINDOW_S",
    "Group",
    "Growth",
    "Kind",
    "Line",
    "Sample",
    "Shows",
    "direct_lines",
    "metric",
    "rate",
]

SECOND_NS = 1_000_000_000
BASE = 8
SLOTS = 17
"""Digits of a double that are exact: 51 of its 53 bits."""
WINDOW_S = 5
"""The shorter of the two resolutions; the other one is twice as long."""
PREFIX = b"crash."
_SUM, _LAST, _COUNT, _MAX = 1 << 7, 1 << 1, 1 << 6, 1 << 3
"""M3's numbers of aggregation types, as bits."""
_SOURCES = 8
_ROLLED = 2
"""Sources of one series, of rates and of sums."""
_SUM_SLOTS = SLOTS // _ROLLED


class Shows(Enum):
    """What a window's value tells."""

    DIGITS = "how often each sample is in it"
    LAST = "the number of its last sample"
    RATES = "the rate of each source"


class Kind(Enum):
    """Kinds of series: name, whether samples bring their time, what windows show, whether batches of timers."""

    COUNTER = ("untimed counter", False, Shows.DIGITS)
    GAUGE = ("untimed gauge, sum", False, Shows.DIGITS)
    GAUGE_LAST = ("untimed gauge, last", False, Shows.LAST)
    TIMER = ("untimed timer", False, Shows.DIGITS)
    TIMED_COUNTER = ("timed counter", True, Shows.DIGITS)
    TIMED_GAUGE = ("timed gauge, last", True, Shows.LAST)
    TIMED_TIMER = ("timed timer", True, Shows.DIGITS)
    ROLLED = ("rollup of untimed counters", False, Shows.DIGITS)
    RATES = ("PerSecond of timed gauges, rollup", True, Shows.RATES)
    WRITTEN = ("remote write, last", True, Shows.LAST)
    WRITTEN_RATES = ("remote write, PerSecond, rollup", True, Shows.RATES)

    def __init__(self, title: str, timed: bool, shows: Shows) -> None:
        self.title, self.timed, self.shows = title, timed, shows

    @property
    def timer(self) -> bool:
        """Whether it comes out as sum, count and max."""
        return self in (Kind.TIMER, Kind.TIMED_TIMER)


@dataclass(slots=True)
class Sample:
    """One sample."""

    number: int
    """Of its series, from 0."""
    at_ns: int
    """When it is due, which is its time if it has one."""
    sent_ns: int = 0
    """When it was first given to a socket; 0: not yet. No aggregator can have stamped it earlier."""
    acked_ns: int = 0
    """When the last instance acked it; 0: not all have."""
    acks: int = 0


@dataclass(slots=True)
class Group:
    """What comes out under one name."""

    ident: bytes
    kind: Kind
    lines: "list[Line]" = field(default_factory=list)

    @property
    def outputs(self) -> list[bytes]:
        """Its ids, the one that is read first."""
        return [self.ident + end for end in (b".sum", b".count", b".upper")] if self.kind.timer else [self.ident]


@dataclass(slots=True)
class Line:
    """One series as it is sent."""

    ident: bytes
    kind: Kind
    group: Group
    phase: int
    """Tenths of a second after each whole one at which its samples are due."""
    source: int = 0
    """Its number in the group."""
    rotates: bool = False
    samples: list[Sample] = field(default_factory=list)

    def slot(self, sample: Sample) -> int:
        """The digit in which it shows."""
        if self.kind is Kind.ROLLED:
            return self.source * _SUM_SLOTS + sample.number % _SUM_SLOTS
        return sample.number % SLOTS

    @property
    def full(self) -> bool:
        """Whether the next sample belongs to a series of another name."""
        return self.rotates and len(self.samples) == SLOTS

    def next(self) -> "Line":
        """The series that follows one that is full."""
        name, _, turn = self.ident.rpartition(b"/")
        ident = name + b"/%d" % (int(turn) + 1)
        group = Group(ident, self.kind)
        line = Line(ident, self.kind, group, self.phase, rotates=True)
        group.lines.append(line)
        return line


def _plain(kind: Kind, number: int) -> Line:
    rotates = kind.shows is Shows.DIGITS and number % 3 == 2
    name = kind.name.lower().replace("_", "-").encode()
    ident = PREFIX + b"%s.%d" % (name, number) + (b"/0" if rotates else b"")
    group = Group(ident, kind)
    group.lines.append(Line(ident, kind, group, number % 10, rotates=rotates))
    return group.lines[0]


def _group(kind: Kind, number: int, sources: int) -> Iterator[Line]:
    name = PREFIX + b"%s.%d" % (kind.name.lower().encode(), number)
    group = Group(name, kind)
    for source in range(sources):
        group.lines.append(Line(name + b".from.%d" % source, kind, group, (number + source) % 10, source))
    yield from group.lines


def direct_lines(scale: int) -> list[Line]:
    """The series that are sent to aggregators, 100 a ``scale``, one sample a second each."""
    plain = (
        Kind.COUNTER, Kind.GAUGE, Kind.GAUGE_LAST, Kind.TIMER, Kind.TIMED_COUNTER, Kind.TIMED_GAUGE, Kind.TIMED_TIMER
    )  # fmt: skip
    lines = [_plain(kind, number) for kind in plain for number in range(10 * scale)]
    for number in range(4 * scale):
        lines += _group(Kind.ROLLED, number, _ROLLED)
    for number in range(2 * scale):
        lines += _group(Kind.RATES, number, _SOURCES)
    return lines


# --- values


def rate(source: int, window: int) -> int:
    """How much a source grows a second in the window of that number (Unix time over ``WINDOW_S``): 2, 4 or 6.

    So the mean of two windows is whole.
    """
    return 2 * random.Random(source * 1_000_003 + window).randint(1, 3)


class Growth:
    """The values of the sources of rates from a window on.

    Only a window's last sample gives the whole number that the next window is measured from.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._sums: dict[int, list[int]] = {}

    def value(self, source: int, at_ns: int) -> float:
        """A sample's value."""
        second = at_ns // SECOND_NS
        window = second // WINDOW_S
        sums = self._sums.setdefault(source, [])
        while len(sums) <= window - self._first:
            sums.append((sums[-1] if sums else 0) + rate(source, self._first + len(sums)))
        to_come = WINDOW_S - 1 - second % WINDOW_S
        return float(BASE**source * (sums[window - self._first] * WINDOW_S - to_come))


_POLICIES = (StoragePolicy.parse(f"{WINDOW_S}s:2d"), StoragePolicy.parse(f"{2 * WINDOW_S}s:2d"))


def _pipeline(kind: Kind, group: Group) -> PipelineMetadata:
    aggregation = 0
    pipeline: AppliedPipeline = ()
    if kind in (Kind.GAUGE, Kind.TIMED_COUNTER):
        aggregation = _SUM
    elif kind.timer:
        aggregation = _SUM | _COUNT | _MAX
    elif kind is Kind.TIMED_GAUGE:
        aggregation = _LAST
    elif kind is Kind.ROLLED:
        aggregation, pipeline = _SUM, (RollupOp(group.ident, _SUM),)
    elif kind is Kind.RATES:
        steps = TransformationOp(TransformationType.PER_SECOND), RollupOp(group.ident, _SUM)
        aggregation, pipeline = _LAST, steps
    return PipelineMetadata(aggregation_id=aggregation, storage_policies=_POLICIES, pipeline=pipeline)


def metric(line: Line, sample: Sample, growth: Growth) -> Metric:
    """A sample as an aggregator takes it."""
    kind, metadatas = line.kind, (StagedMetadata(pipelines=(_pipeline(line.kind, line.group),)),)
    if kind.shows is Shows.DIGITS:
        value = BASE ** line.slot(sample)
    elif kind.shows is Shows.LAST:
        value = sample.number
    else:
        value = growth.value(line.source, sample.at_ns)
    if kind in (Kind.COUNTER, Kind.ROLLED):
        return CounterWithMetadatas(id=line.ident, value=int(value), metadatas=metadatas)
    if kind is Kind.TIMER:
        return BatchTimerWithMetadatas(id=line.ident, values=(float(value), 0.0), metadatas=metadatas)
    if not kind.timed:
        return GaugeWithMetadatas(id=line.ident, value=float(value), metadatas=metadatas)
    types = {Kind.TIMED_COUNTER: MetricType.COUNTER, Kind.TIMED_TIMER: MetricType.TIMER}
    return TimedMetricWithMetadatas(
        metric_type=types.get(kind, MetricType.GAUGE),
        id=line.ident,
        time_ns=sample.at_ns,
        value=float(value),
        metadatas=metadatas,
    )
