"""The engine once more in plain Python, small and slow: what the compiled one is held to.

It follows M3 literally (reference/aggregator_core.md §2-6): elements own their windows, a pass closes what it consumes and removes the
closed window before it. Nothing is kept to be emitted again. Input are decoded metrics.
"""

import math
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aggregator import ipc
from aggregator.engine.metadata import types_options
from aggregator.engine.options import EngineOptions
from m3metrics import codec
from m3metrics.aggregation import AggregationType, is_valid_for
from m3metrics.errors import MetricsError
from m3metrics.metadata import PipelineMetadata, StagedMetadata, is_default, is_drop_policy_set
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy
from m3metrics.shard import shard_of

A = AggregationType


def wrap(n: int) -> int:
    return (n + (1 << 63)) % (1 << 64) - (1 << 63)


def to_int64(x: float) -> int:
    return int(x) if -(2.0**63) <= x < 2.0**63 else -(1 << 63)


def stdev(n: int, squares: float, total: float) -> float:
    pairs = n * (n - 1)
    if pairs == 0:
        return 0.0
    with np.errstate(all="ignore"):
        return float(np.sqrt((np.float64(n) * squares - np.float64(total) * total) / np.float64(pairs)))


def window_start(time_ns: int, resolution: int) -> int:
    return time_ns - (time_ns + 62_135_596_800 * 10**9) % resolution


@dataclass
class Window:
    values: list[Any] = field(default_factory=list)
    times: list[tuple[int, int]] = field(default_factory=list)
    """Time and batch of each value; untimed values of a batch came one after another. Batch 0: timed."""
    annotation: bytes = b""
    closed: bool = False
    dirty: bool = False

    def value(self, metric_type: MetricType, kind: AggregationType, types: tuple[AggregationType, ...]) -> float:
        squares_kept = A.SUM_SQ in types or A.STDEV in types
        if metric_type is MetricType.COUNTER:
            return self._counter(kind, squares_kept)
        n = len(self.values)
        total = squares = 0.0
        for x in self.values:
            if metric_type is MetricType.GAUGE and math.isnan(x):
                continue
            total += x
            squares += x * x if squares_kept else 0.0
        real = sorted(x for x in self.values if not math.isnan(x))
        if metric_type is MetricType.TIMER and kind.quantile is not None:
            if not real:
                return 0.0
            q, m = kind.quantile, len(real)
            return real[min(int(q * m), m - 1)] if m <= 3 else real[math.ceil(q * m) - 1]
        nothing = 0.0 if metric_type is MetricType.TIMER and n == 0 else math.nan
        return {
            A.LAST: self._last(),
            A.SUM: total,
            A.SUM_SQ: squares,
            A.COUNT: float(n),
            A.MEAN: total / n if n else 0.0,
            A.MIN: min(real, default=nothing),
            A.MAX: max(real, default=nothing),
            A.STDEV: stdev(n, squares, total),
        }[kind]

    def _last(self) -> float:
        last, last_at, last_batch = 0.0, -math.inf, 0
        for x, (at, batch) in zip(self.values, self.times, strict=True):
            if at > last_at or (at == last_at and batch == last_batch != 0):
                last, last_at, last_batch = x, at, batch
        return last

    def _counter(self, kind: AggregationType, squares_kept: bool) -> float:
        total, n = wrap(sum(self.values)), len(self.values)
        squares = wrap(sum(x * x for x in self.values)) if squares_kept else 0
        return {
            A.SUM: float(total),
            A.SUM_SQ: float(squares),
            A.COUNT: float(n),
            A.MEAN: float(total) / n,
            A.MIN: float(min(self.values)),
            A.MAX: float(max(self.values)),
            A.STDEV: stdev(n, float(squares), float(total)),
        }[kind]


@dataclass
class Element:
    """One aggregation of a metric; sits in the list (shard, kind, resolution)."""

    ident: bytes
    metric_type: MetricType
    types: tuple[AggregationType, ...]
    key: tuple[Any, ...]
    plain: bool
    traffic: int
    windows: dict[int, Window] = field(default_factory=dict)
    tombstoned: bool = False

    @property
    def policy(self) -> StoragePolicy:
        return self.key[1]

    def add(self, start: int, value: Any, at: tuple[int, int], annotation: bytes) -> bool:
        """False: the window is closed."""
        window = self.windows.setdefault(start, Window())
        if window.closed:
            return False
        if self.metric_type is MetricType.TIMER:
            window.values += value
            window.times += [at] * len(value)
        else:
            window.values.append(value)
            window.times.append(at)
        window.dirty = True
        window.annotation = annotation or window.annotation
        return True

    def consume(self, before: int) -> list[tuple[int, Window]]:
        resolution = self.policy.window_ns
        due = [(s, w) for s, w in sorted(self.windows.items()) if s + resolution <= before]
        out = [(s, w) for s, w in due if w.dirty]
        for _, window in due:
            window.dirty = False
            window.closed = True
        for start, _ in due[:-1]:
            del self.windows[start]
        return out


@dataclass
class Entry:
    shard: int
    last_access: int = 0
    cutover: int = -(1 << 63)
    elements: list[Element] = field(default_factory=list)
    rate: tuple[int, int] = (0, 0)


class ReferenceEngine:
    """``add`` returns the text of the first thing that is wrong, or nothing; ``flush`` the outputs of a list id."""

    def __init__(self, options: EngineOptions, shards: list[ipc.OwnedShard]) -> None:
        self.options = options
        self.types = types_options(options)
        self.defaults = tuple(StoragePolicy.parse(p) for p in options.default_storage_policies)
        self.owned = {shard.id: shard for shard in shards}
        self.entries: dict[tuple[int, MetricType, bytes], Entry] = {}
        self.lists: dict[tuple[int, int, int], list[Element]] = {}
        self.flushed: dict[tuple[int, int, int], int] = {}
        self.batch = 0

    def add_batch(self, messages: list[bytes], now: int) -> list[str]:
        """What is wrong with those of the messages that are refused."""
        self.batch += 1
        return [text for message in messages if (text := self.add(message, now))]

    def add(self, message: bytes, now: int) -> str:
        try:
            metric = codec.decode_metric(message)
        except MetricsError as error:
            return "unrecognized message type" if "unrecognized" in str(error) else "message cannot be decoded"
        if isinstance(metric, codec.ForwardedMetricWithMetadata):
            return "forwarded metrics are not supported"
        if isinstance(metric, codec.TimedMetricWithStoragePolicy):
            return "unrecognized message type"
        timed = isinstance(metric, codec.TimedMetricWithMetadata | codec.TimedMetricWithMetadatas)
        if timed:
            kind, values = metric.metric_type, [metric.value]
            value = to_int64(metric.value) if kind is MetricType.COUNTER else metric.value
        elif isinstance(metric, codec.CounterWithMetadatas):
            kind, value, values = MetricType.COUNTER, metric.value, [metric.value]
        elif isinstance(metric, codec.GaugeWithMetadatas):
            kind, value, values = MetricType.GAUGE, metric.value, [metric.value]
        else:
            kind, value, values = MetricType.TIMER, None, list(metric.values)
        if kind is MetricType.TIMER:
            value = values
        shard = shard_of(metric.id, self.options.num_shards)
        if shard not in self.owned:
            return "aggregator shard is not owned"
        bounds = self.owned[shard]
        earliest = max(bounds.cutover_ns - self.options.buffer_before_cutover_ns, 0)
        if not earliest <= now < bounds.cutoff_ns + self.options.buffer_after_cutoff_ns:
            return "aggregator shard is not writeable"
        entry = self.entries.setdefault((int(timed), kind, metric.id), Entry(shard))
        limit = self.options.values_per_metric_limit_per_second
        second, used = entry.rate
        entry.rate = (now // 10**9, (used if second == now // 10**9 else 0) + len(values))
        if limit and entry.rate[1] > limit:
            return "write value rate limit is exceeded"
        entry.last_access = now
        if isinstance(metric, codec.TimedMetricWithMetadata):
            return self._add_plain(entry, metric, kind, value, now)
        error, write = self._update(entry, metric, kind, timed, now)
        if error or not write:
            return error
        errors = [self._write(element, metric, value, timed, now) for element in entry.elements]
        return next((error for error in errors if error), "")

    def _write(self, element: Element, metric: Any, value: Any, timed: bool, now: int) -> str:
        resolution = element.policy.window_ns
        if timed:
            if metric.time_ns - now > self.options.buffer_future_ns:
                return "too far in the future"
            if now - metric.time_ns > self.options.buffer_past_ns + resolution:
                return "too far in the past"
            start = window_start(metric.time_ns, resolution)
            return "" if element.add(start, value, (metric.time_ns, 0), metric.annotation) else "aggregation is closed"
        for at in (now, now + resolution):
            if element.add(window_start(at, resolution), value, (at, self.batch), metric.annotation):
                return ""
        return "aggregation is closed"

    def _update(self, entry: Entry, metric: Any, kind: MetricType, timed: bool, now: int) -> tuple[str, bool]:
        stages = metric.metadatas
        if not stages:
            return "empty metadata list", False
        if timed and is_default(stages):
            return "only default staged metadata provided", False
        if timed and is_drop_policy_set(stages):
            return "only drop policy staged metadata provided", False
        stage: StagedMetadata | None = next((s for s in reversed(stages) if s.cutover_ns <= now), None)
        if stage is None:
            return "no applicable metadata", False
        if stage.tombstoned:
            return "", False
        if not stage.pipelines:
            return "no pipelines in metadata", False
        if entry.cutover > stage.cutover_ns:
            return "", True
        if any(p.pipeline for p in stage.pipelines):
            return "pipelines with operations are not supported", False
        wanted: dict[tuple[Any, ...], PipelineMetadata] = {}
        for pipeline in stage.pipelines:
            for policy in pipeline.storage_policies or self.defaults:
                wanted.setdefault((pipeline.aggregation_id, policy, timed, False), pipeline)
        try:
            fresh = [self._element(entry, metric.id, kind, key, p.traffic_types) for key, p in wanted.items()]
        except ValueError as error:
            return str(error), False
        for element, pipeline in zip(fresh, wanted.values(), strict=True):
            element.traffic = pipeline.traffic_types
        for element in entry.elements:
            element.tombstoned = element not in fresh
        entry.elements = fresh
        entry.cutover = stage.cutover_ns
        return "", True

    def _element(self, entry: Entry, ident: bytes, kind: MetricType, key: tuple[Any, ...], traffic: int) -> Element:
        for element in entry.elements:
            if element.key == key:
                return element
        if kind is MetricType.UNKNOWN:
            raise ValueError("invalid metric type")
        try:
            types = self.types.types_of(kind, key[0])
        except MetricsError:
            types = (A.LAST,) if kind is not MetricType.GAUGE else (A.MEDIAN,)
        if not all(is_valid_for(kind, t) for t in types):
            raise ValueError("invalid aggregation types")
        element = Element(ident, kind, types, key, key[3], traffic)
        list_id = (ipc.KIND_TIMED if key[2] else ipc.KIND_STANDARD, key[1].window_ns)
        self.lists.setdefault((entry.shard, *list_id), []).append(element)
        return element

    def _add_plain(self, entry: Entry, metric: Any, kind: MetricType, value: Any, now: int) -> str:
        key = (metric.metadata.aggregation_id, metric.metadata.storage_policy, True, True)
        try:
            element = self._element(entry, metric.id, kind, key, metric.metadata.traffic_types)
        except ValueError as error:
            return str(error)
        if element not in entry.elements:
            entry.elements.append(element)
        return self._write(element, metric, value, True, now)

    def expire(self, now: int) -> None:
        for key, entry in list(self.entries.items()):
            if now - entry.last_access > self.options.entry_ttl_ns:
                for element in entry.elements:
                    element.tombstoned = True
                del self.entries[key]

    def flush(self, command: ipc.Flush) -> list[tuple[Any, ...]]:
        out: list[tuple[Any, ...]] = []
        named = {shard for group in command.bounds for shard in group.shards}
        for group in command.bounds:
            for shard in group.shards or sorted(set(self.owned) - named):
                for before, emit in self._passes(group):
                    out += self._flush_before(
                        (shard, command.kind, command.resolution_ns), before, emit and command.emit
                    )
        return out

    def _passes(self, group: ipc.ShardBounds) -> list[tuple[int, bool]]:
        if group.target_ns <= group.cutover_ns:
            return [(group.target_ns, False)]
        passes = [(group.cutover_ns, False)] if group.cutover_ns > 0 else []
        if group.target_ns <= group.cutoff_ns:
            return [*passes, (group.target_ns, True)]
        passes.append((group.cutoff_ns, True))
        if group.target_ns - self.options.max_buffer_ns > group.cutoff_ns:
            passes.append((group.target_ns - self.options.max_buffer_ns, False))
        return passes

    def _flush_before(self, list_id: tuple[int, int, int], before: int, emit: bool) -> list[tuple[Any, ...]]:
        if list_id not in self.lists or self.flushed.get(list_id, 0) >= before:
            return []
        self.flushed[list_id] = before
        out = []
        for element in self.lists[list_id]:
            for start, window in element.consume(before):
                if emit:
                    out += self._outputs(element, start, window)
        self.lists[list_id] = [
            e for e in self.lists[list_id] if not e.tombstoned or any(w.dirty for w in e.windows.values())
        ]
        return out

    def _outputs(self, element: Element, start: int, window: Window) -> list[tuple[Any, ...]]:
        prefix = {
            MetricType.COUNTER: self.options.counter_prefix,
            MetricType.TIMER: self.options.timer_prefix,
            MetricType.GAUGE: self.options.gauge_prefix,
        }[element.metric_type].encode()
        out = []
        for kind in element.types:
            value = window.value(element.metric_type, kind, element.types)
            if self.options.discard_nan and math.isnan(value):
                continue
            ident = prefix + element.ident + self.types.type_string(element.metric_type, kind)
            end = start + element.policy.window_ns
            out.append(
                (
                    element.ident if element.plain else ident,
                    end,
                    str(element.policy),
                    bits(value),
                    window.annotation,
                    element.traffic,
                )
            )
        return out


def bits(value: float) -> str:
    """The IEEE-754 pattern; every NaN is the same, and so are the zeros (the wire leaves both out)."""
    if math.isnan(value):
        return "NaN"
    return struct.pack(">d", 0.0 if value == 0.0 else value).hex()
