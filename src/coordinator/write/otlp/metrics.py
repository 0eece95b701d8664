"""An ``ExportMetricsServiceRequest`` → samples.

| metric | series | M3 type | Prometheus type |
|---|---|---|---|
| gauge, cumulative sum that does not only grow | one | gauge | gauge |
| cumulative sum that only grows | one, ``_total`` | gauge | counter |
| delta sum | one, ``_total`` where it only grows | counter where its points are whole numbers, else timer | unknown |
| cumulative histogram | ``_bucket`` by ``le``, ``_count``, ``_sum`` | gauge | histogram |
| delta histogram | the same | counter, ``_sum``: timer | unknown |
| summary | one by ``quantile``, ``_count``, ``_sum`` | gauge | summary |
| exponential histogram | none | | |
| resource | ``target_info`` | gauge | gauge |

Deltas are to be summed by the aggregators. Their counters are whole numbers, so what may have a fraction is a timer of single values: its
sum is exact, and neither has a last value that would be taken for the metric's.

What the labels of a data point are is worked out once, and found by its bytes without all that changes from one export to the next.
"""

from collections.abc import Generator, Iterator
from itertools import accumulate
from struct import unpack
from typing import Any, NamedTuple

from coordinator.not_kept import Reason
from coordinator.write.attributes import PromType
from coordinator.write.building import MOST_KNOWN, Builder, Known, label_fields
from coordinator.write.otlp.labels import NOTHING, Labels, Promotion, Resource, point_labels, resource_of, scope_labels
from coordinator.write.otlp.names import NamingError, metric_name
from coordinator.write.otlp.texts import number_text
from m3metrics.errors import IdError

__all__ = ["Metrics", "Translated"]

_GAUGE, _COUNTER, _TIMER = 0, 1, 2
"""Field 101 of a TimeSeries."""
_DELTA, _CUMULATIVE = 1, 2
"""AggregationTemporality."""
_NO_RECORDED_VALUE = 1
"""Flag of a data point: its series has ended."""
(_STALE,) = unpack("<d", (0x7FF0000000000002).to_bytes(8, "little"))
_MOST_NS = (1 << 63) - 1
_POINTS_OF_A_STEP = 64
_CHANGING = {
    "NumberDataPoint": ("start_time_unix_nano", "time_unix_nano", "value", "exemplars", "flags"),
    "HistogramDataPoint": (
        "start_time_unix_nano", "time_unix_nano", "count", "sum", "bucket_counts", "exemplars", "flags", "min", "max",
    ),
    "SummaryDataPoint": ("start_time_unix_nano", "time_unix_nano", "count", "sum", "quantile_values", "flags"),
}  # fmt: skip
"""Fields and oneofs of data points that say nothing of their labels."""


class Translated(NamedTuple):
    """What metrics of one name, unit and kind are in Prometheus, of one scope of one resource."""

    name: str
    resource: Resource
    scope: Labels
    series: dict[Any, tuple[bytes, ...]]
    """The label bytes of the series of a data point, by what they follow from."""


class _PointError(ValueError):
    """A data point is not kept; the text says why."""


class Metrics:
    """Translates requests one after the other, and remembers what it has met."""

    def __init__(self, promotion: Promotion = NOTHING, most_known: int = MOST_KNOWN) -> None:
        self._promotion = promotion
        self._resources: Known[bytes, Resource] = Known(most_known)
        self._known: Known[tuple[bytes, bytes, str, str, str, bool], Translated] = Known(most_known)

    def read(self, request: Any, builder: Builder) -> Generator[None, None, None]:
        """Puts the samples of an ``ExportMetricsServiceRequest`` into ``builder``, in steps; its data points are of no use afterwards."""
        targets: set[tuple[bytes, int]] = set()
        for of_resource in request.resource_metrics:
            key = of_resource.resource.SerializeToString(deterministic=True)
            resource = self._resources.get(key) or self._resources.keep(
                key, resource_of(of_resource.resource.attributes, self._promotion)
            )
            latest_ms = 0
            for of_scope in of_resource.scope_metrics:
                latest_ms = max(latest_ms, (yield from self._read_scope(of_scope, key, resource, builder)))
            if latest_ms and resource.target is not None:
                self._read_target(resource.target, latest_ms, targets, builder)

    def _read_scope(
        self, of_scope: Any, resource_key: bytes, resource: Resource, builder: Builder
    ) -> Generator[None, None, int]:
        """The latest time of its data points, in ms; 0: it has none."""
        scope_key = b""
        if self._promotion.scope:
            scope_key = of_scope.scope.SerializeToString(deterministic=True) + of_scope.schema_url.encode()
        latest_ms = 0
        for metric in of_scope.metrics:
            kind = metric.WhichOneof("data")
            if kind is None:
                continue
            builder.count_points(_points(metric))
            if kind == "exponential_histogram":
                text = f"metric {metric.name!r} is an exponential histogram, which is not aggregated; let its sender use explicit buckets"
                builder.refuse(Reason.NATIVE_HISTOGRAM, text, _points(metric))
                continue
            try:
                grows = kind == "sum" and metric.sum.is_monotonic
                known = (resource_key, scope_key, metric.name, metric.unit, kind, grows)
                translated = self._known.get(known)
                if translated is None:
                    scope = scope_labels(of_scope.scope, of_scope.schema_url, self._promotion)
                    name = metric_name(metric.name, metric.unit, grows=grows, gauge=kind == "gauge")
                    translated = self._known.keep(known, Translated(name, resource, scope, {}))
                reader = _Reader(translated, self._known, builder, metric)
            except (NamingError, _PointError) as error:
                builder.refuse(Reason.MALFORMED, str(error), _points(metric))
                continue
            latest_ms = max(latest_ms, (yield from reader.read(kind)))
            yield
        return latest_ms

    @staticmethod
    def _read_target(target: Labels, time_ms: int, seen: set[tuple[bytes, int]], builder: Builder) -> None:
        """What Prometheus joins with the series of a resource to learn its other attributes; once for each set of labels and time."""
        try:
            labels = _fields({**target, "__name__": "target_info"})
        except IdError as error:
            builder.refuse(Reason.INVALID_LABELS, f"target_info: {error}")
            return
        if (labels, time_ms) not in seen:
            seen.add((labels, time_ms))
            builder.add(labels, time_ms, 1.0, _GAUGE, PromType.GAUGE)


class _Reader:
    """The data points of one metric. Raises ``_PointError`` for a metric of which none can be kept."""

    def __init__(self, translated: Translated, known: Known[Any, Translated], builder: Builder, metric: Any) -> None:
        self._translated = translated
        self._known = known
        self._builder = builder
        self._metric = metric
        self._points = getattr(metric, metric.WhichOneof("data"))
        self._delta = False
        if hasattr(self._points, "aggregation_temporality"):
            temporality = self._points.aggregation_temporality
            if temporality not in (_DELTA, _CUMULATIVE):
                raise _PointError(f"metric {metric.name!r} says neither that it is cumulative nor that it is delta")
            self._delta = temporality == _DELTA

    def read(self, kind: str) -> Generator[None, None, int]:
        """In steps: the latest time of what was kept, in ms; 0: nothing was."""
        add = {"gauge": self._number, "sum": self._number, "histogram": self._histogram, "summary": self._summary}[kind]
        prom_type = self._prom_type(kind)
        latest_ms = 0
        for number, point in enumerate(self._points.data_points, 1):
            if number % _POINTS_OF_A_STEP == 0:
                yield
            try:
                time_ns = point.time_unix_nano
                if not 0 < time_ns <= _MOST_NS:
                    raise _PointError(
                        f"a data point of {self._metric.name!r} has no time, or one beyond 64 bits of nanoseconds"
                    )
                if kind != "summary" and (exemplars := len(point.exemplars)):
                    self._builder.leave(Reason.EXEMPLAR, exemplars)
                time_ms = time_ns // 1_000_000
                add(point, time_ms, prom_type)
                latest_ms = max(latest_ms, time_ms)
            except (_PointError, NamingError) as error:
                self._builder.refuse(Reason.MALFORMED, str(error))
            except IdError as error:
                self._builder.refuse(Reason.INVALID_LABELS, f"metric {self._metric.name!r}: {error}")
        return latest_ms

    def _prom_type(self, kind: str) -> PromType:
        if self._delta:
            return PromType.UNKNOWN
        if kind == "sum":
            return PromType.COUNTER if self._points.is_monotonic else PromType.GAUGE
        return {"gauge": PromType.GAUGE, "histogram": PromType.HISTOGRAM, "summary": PromType.SUMMARY}[kind]

    def _number(self, point: Any, time_ms: int, prom_type: PromType) -> None:
        kind = point.WhichOneof("value")
        m3_type = _GAUGE if not self._delta else _COUNTER if kind == "as_int" else _TIMER
        if point.flags & _NO_RECORDED_VALUE:
            if self._delta:
                return
            value = _STALE
        elif kind is None:
            raise _PointError(f"a data point of {self._metric.name!r} has no value")
        else:
            value = float(point.as_int if kind == "as_int" else point.as_double)
        (labels,) = self._series(point)
        self._builder.add(labels, time_ms, value, m3_type, prom_type)

    def _histogram(self, point: Any, time_ms: int, prom_type: PromType) -> None:
        bounds, counts = len(point.explicit_bounds), list(point.bucket_counts)
        if len(counts) != bounds + 1 and (counts or bounds):
            raise _PointError(
                f"a data point of histogram {self._metric.name!r} has {bounds} bounds and {len(counts)} counts, not one more"
            )
        # What is beyond the last bound is in the whole count.
        values = [*accumulate(counts[:-1]), point.count, point.count]
        total = point.sum if point.HasField("sum") else None
        stale = bool(point.flags & _NO_RECORDED_VALUE)
        if stale and self._delta:
            return
        *whole, sum_labels = self._series(point)
        add = self._builder.add
        m3_type = _COUNTER if self._delta else _GAUGE
        for labels, value in zip(whole, values, strict=True):
            add(labels, time_ms, _STALE if stale else float(value), m3_type, prom_type)
        if total is not None:
            add(sum_labels, time_ms, _STALE if stale else total, _TIMER if self._delta else _GAUGE, prom_type)

    def _summary(self, point: Any, time_ms: int, prom_type: PromType) -> None:
        quantiles = tuple(one.quantile for one in point.quantile_values)
        values = [*(one.value for one in point.quantile_values), float(point.count), point.sum]
        stale = bool(point.flags & _NO_RECORDED_VALUE)
        for labels, value in zip(self._series(point, quantiles), values, strict=True):
            self._builder.add(labels, time_ms, _STALE if stale else value, _GAUGE, prom_type)

    def _series(self, point: Any, quantiles: tuple[float, ...] = ()) -> tuple[bytes, ...]:
        """The label bytes of its series; nothing but labels and bounds can be read afterwards. Raises ``NamingError``, ``IdError``."""
        kind = point.DESCRIPTOR.name
        for field in _CHANGING[kind]:
            point.ClearField(field)
        key: Any = point.SerializeToString()
        if quantiles:
            key = key, quantiles
        found = self._translated.series.get(key)
        if found is None:
            found = self._translated.series[key] = tuple(self._made(point, kind, quantiles))
            for _ in found:
                self._known.weigh()
        return found

    def _made(self, point: Any, kind: str, quantiles: tuple[float, ...]) -> Iterator[bytes]:
        name, resource, scope, _ = self._translated
        labels = point_labels(point.attributes, resource, scope)
        if kind == "NumberDataPoint":
            yield _fields({**labels, "__name__": name})
            return
        if kind == "HistogramDataPoint":
            for bound in [*map(number_text, point.explicit_bounds), "+Inf"]:
                yield _fields({**labels, "__name__": f"{name}_bucket", "le": bound})
        for quantile in quantiles:
            yield _fields({**labels, "__name__": name, "quantile": number_text(quantile)})
        yield _fields({**labels, "__name__": f"{name}_count"})
        yield _fields({**labels, "__name__": f"{name}_sum"})


def _fields(labels: Labels) -> bytes:
    return label_fields((name.encode(), value.encode()) for name, value in labels.items())


def _points(metric: Any) -> int:
    """How many data points a metric has."""
    kind = metric.WhichOneof("data")
    return 0 if kind is None else len(getattr(metric, kind).data_points)
