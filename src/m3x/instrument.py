"""Counters, gauges and histograms under M3's names, shown as Prometheus text.

Names are M3's scopes joined and sanitised as its Prometheus reporter does: ``.`` and ``-`` become ``_``, and counters get no ``_total``
(docs/m3/aggregation.md, metric names). One registry serves a service; other processes report plain dictionaries whose keys are
``name{k=v,k2=v2}``, or all that their own registry has (``Report``), merged under the name of their source.
"""

import itertools
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily

__all__ = ["Figures", "Histograms", "Registry", "Report", "Scope"]

_Labels = tuple[tuple[str, str], ...]
_INVALID = re.compile(r"[^a-zA-Z0-9_]")
_COUNTER_HEADER = re.compile(rb"^(# (?:HELP|TYPE) \S+)_total(?= )", re.MULTILINE)
"""What the library makes of a counter's name."""
_Key = tuple[str, _Labels]
_QUANTILES = (0.5, 0.75, 0.95, 0.99, 0.999)
_NEWEST = 512
"""Of so many observations quantiles are told."""
_BUCKETS = (
    0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10, 30, 60,
)  # fmt: skip


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))
    total: float = 0.0


@dataclass(slots=True)
class _Summary:
    newest: deque[float] = field(default_factory=lambda: deque(maxlen=_NEWEST))
    count: int = 0
    total: float = 0.0


Histograms = Sequence[tuple[_Key, list[int], float]]
"""How many in each bucket, and the sum of all."""


class Report(msgspec.Struct, frozen=True, array_like=True):
    """All figures of a process since its start, as they are sent to another one."""

    counters: list[tuple[_Key, float]] = []
    gauges: list[tuple[_Key, float]] = []
    histograms: list[tuple[_Key, list[int], float]] = []


@dataclass(slots=True)
class Figures:
    """What one process has counted, or several together."""

    counters: dict[_Key, float] = field(default_factory=dict)
    gauges: dict[_Key, float] = field(default_factory=dict)
    histograms: dict[_Key, _Histogram] = field(default_factory=dict)
    summaries: dict[_Key, _Summary] = field(default_factory=dict)
    """Of this process alone: quantiles of several cannot be added up."""

    def add(self, report: Report, states: tuple[str, ...] = (), *, with_gauges: bool = True) -> None:
        """Those of another process; gauges named in ``states`` say how things are, not how much there is: the highest counts."""
        for key, value in report.counters:
            self.counters[key] = self.counters.get(key, 0.0) + value
        for key, value in report.gauges if with_gauges else ():
            before = self.gauges.get(key)
            both = max if key[0].endswith(states) else _sum
            self.gauges[key] = value if before is None else both(before, value)
        for key, counts, total in report.histograms:
            histogram = self.histograms.setdefault(key, _Histogram())
            histogram.counts = [one + more for one, more in zip(histogram.counts, counts, strict=True)]
            histogram.total += total

    def report(self) -> Report:
        """All of them."""
        return Report(
            list(self.counters.items()),
            list(self.gauges.items()),
            [(key, list(one.counts), one.total) for key, one in self.histograms.items()],
        )


def _sum(one: float, other: float) -> float:
    return one + other


class Registry:
    """All figures of a service. ``states``: how the names of gauges end that are the same in several processes, and not added up."""

    def __init__(self, states: Iterable[str] = ()) -> None:
        self._own = Figures()
        self._states = tuple(states)
        self._reports: dict[str, Report] = {}
        self._told: dict[str, Callable[[], Report]] = {}
        """Newer ones, as ``merge`` was given them: nobody has looked since."""
        self._gone = Figures()
        """What processes that are gone had counted."""
        self.looks: list[Callable[[], None]] = []
        """Called before the figures are shown: they set gauges that nobody else needs."""
        self.more: list[Callable[[Figures], None]] = []
        """Called with the figures of all processes, to which they may add."""
        self._prometheus = CollectorRegistry(auto_describe=False)
        self._prometheus.register(self)

    def scope(self, prefix: str = "") -> "Scope":
        """A scope that writes into this registry."""
        return Scope(self._own, prefix, ())

    def merge(
        self,
        source: str,
        counters: Mapping[str, float],
        gauges: Mapping[str, float],
        *,
        prefix: str = "",
        histograms: Histograms = (),
    ) -> None:
        """``take`` of counters and histograms since the start of a process, and of gauges as of now; they must not change afterwards.

        Processes tell theirs every second, which is more often than anybody looks: names are taken apart when somebody does.
        """

        def report() -> Report:
            told = [((_join(prefix, name), labels), counts, total) for (name, labels), counts, total in histograms]
            named = [(_key(prefix, name), value) for name, value in counters.items()]
            return Report(named, [(_key(prefix, name), value) for name, value in gauges.items()], told)

        self._told[source] = report

    def report(self) -> Report:
        """What this process has counted, for the registry of another one."""
        return self._own.report()

    def take(self, source: str, report: Report) -> None:
        """Replaces what another process (``source``) reported. Equal names add up."""
        self._told.pop(source, None)
        self._reports[source] = report

    def forget(self, source: str) -> None:
        """The process behind ``source`` is gone: its gauges vanish, its counters stay in the sums, which must never fall."""
        self._hear()
        self._gone.add(self._reports.pop(source, Report()), with_gauges=False)

    def _hear(self) -> None:
        for source, report in self._told.items():
            self._reports[source] = report()
        self._told.clear()

    def counter(self, name: str, **tags: str) -> float:
        """Current sum of a counter over this process and all merged ones."""
        return self._sums().counters.get((_sanitise(name), _labels(tags)), 0.0)

    def totals(self, prefix: str = "") -> dict[str, float]:
        """Counters and gauges below ``prefix``, by the rest of their names, each summed over its labels."""
        start = f"{_sanitise(prefix)}_" if prefix else ""
        sums, found = self._sums(), dict[str, float]()
        for (name, _), value in itertools.chain(sums.counters.items(), sums.gauges.items()):
            if name.startswith(start):
                rest = name[len(start) :]
                found[rest] = found.get(rest, 0.0) + value
        return found

    def render(self) -> bytes:
        """The Prometheus text page."""
        return _COUNTER_HEADER.sub(rb"\1", generate_latest(self._prometheus))

    def collect(self) -> Iterable[Metric]:
        """Called by ``prometheus_client``: every figure as a metric family."""
        for look in self.looks:
            look()
        sums = self._sums()
        for add in self.more:
            add(sums)
        families: dict[str, Metric] = {}
        for (name, labels), value in sorted(sums.counters.items()):
            key = f"c {name} {[k for k, _ in labels]}"
            families.setdefault(key, Metric(name, name, "counter")).add_sample(name, dict(labels), value)
        for (name, labels), value in sorted(sums.gauges.items()):
            key = f"g {name} {[k for k, _ in labels]}"
            family = families.setdefault(key, GaugeMetricFamily(name, name, labels=[k for k, _ in labels]))
            assert isinstance(family, GaugeMetricFamily)
            family.add_metric([v for _, v in labels], value)
        for (name, labels), histogram in sorted(sums.histograms.items()):
            key = f"h {name} {[k for k, _ in labels]}"
            family = families.setdefault(key, HistogramMetricFamily(name, name, labels=[k for k, _ in labels]))
            assert isinstance(family, HistogramMetricFamily)
            buckets, running = [], 0
            for bound, count in zip((*map(str, _BUCKETS), "+Inf"), histogram.counts, strict=True):
                running += count
                buckets.append((bound, float(running)))
            family.add_metric([v for _, v in labels], buckets, histogram.total)
        for (name, labels), summary in sorted(sums.summaries.items()):
            key = f"s {name} {[k for k, _ in labels]}"
            found = families.setdefault(key, SummaryMetricFamily(name, name, labels=[k for k, _ in labels]))
            for quantile, value in _quantiles(summary.newest):
                found.add_sample(name, {**dict(labels), "quantile": str(quantile)}, value)
            found.add_sample(f"{name}_count", dict(labels), summary.count)
            found.add_sample(f"{name}_sum", dict(labels), summary.total)
        return families.values()

    def _sums(self) -> Figures:
        """Of this process and all others."""
        self._hear()
        found = Figures(summaries=dict(self._own.summaries))
        for report in (self.report(), *self._reports.values(), self._gone.report()):
            found.add(report, self._states)
        return found


class Scope:
    """A name prefix and tags; everything written through it lands in its registry."""

    def __init__(self, figures: Figures, prefix: str, labels: _Labels) -> None:
        self._figures = figures
        self._prefix = _sanitise(prefix)
        self._tags = labels

    def sub(self, name: str) -> "Scope":
        """The scope below this one."""
        return Scope(self._figures, _join(self._prefix, name), self._tags)

    def tagged(self, **tags: str) -> "Scope":
        """This scope with more tags."""
        return Scope(self._figures, self._prefix, _labels({**dict(self._tags), **tags}))

    def count(self, name: str, n: float = 1) -> None:
        """Adds to a counter."""
        key = self._key(name)
        self._figures.counters[key] = self._figures.counters.get(key, 0.0) + n

    def gauge(self, name: str, value: float) -> None:
        """Sets a gauge."""
        self._figures.gauges[self._key(name)] = value

    def record(self, name: str, seconds: float, times: int = 1) -> None:
        """Adds a duration to a histogram, so many times."""
        key = self._key(name)
        histogram = self._figures.histograms.get(key)
        if histogram is None:
            histogram = self._figures.histograms[key] = _Histogram()
        histogram.total += seconds * times
        histogram.counts[bisect_left(_BUCKETS, seconds)] += times

    def observe(self, name: str, seconds: float, times: int = 1) -> None:
        """Adds a duration, or several that are equal, to a summary: quantiles of the newest of this process, as M3 shows some."""
        summary = self._figures.summaries.setdefault(self._key(name), _Summary())
        summary.newest.append(seconds)
        summary.count += times
        summary.total += seconds * times

    def _key(self, name: str) -> _Key:
        return _join(self._prefix, name), self._tags


def _quantiles(values: Iterable[float]) -> list[tuple[float, float]]:
    ordered = sorted(values)
    return [(q, ordered[min(int(q * len(ordered)), len(ordered) - 1)]) for q in _QUANTILES] if ordered else []


def _sanitise(name: str) -> str:
    return _INVALID.sub("_", name)


@lru_cache(4096)
def _join(prefix: str, name: str) -> str:
    return _sanitise(f"{prefix}_{name}" if prefix and name else prefix or name)


def _labels(tags: Mapping[str, str]) -> _Labels:
    return tuple(sorted((_sanitise(key), str(value)) for key, value in tags.items()))


@lru_cache(4096)
def _key(prefix: str, name: str) -> _Key:
    base, brace, rest = name.partition("{")
    tags = dict(pair.partition("=")[::2] for pair in rest.rstrip("}").split(",") if pair) if brace else {}
    return _join(_sanitise(prefix), base), _labels(tags)
