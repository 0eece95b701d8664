"""The engine once more in plain Python, small and slow: what the compiled one is held to.

It follows M3 literally (docs/m3/aggregation.md): elements own their windows (``reference_element``), a pass closes what it
consumes and removes the closed window before it. Nothing is kept to be emitted again. Input are encoded metrics.
"""

import math
import struct
from dataclasses import dataclass, field
from typing import Any

from tests.aggregator.engine.reference_element import Element, Out

from aggregator import ipc
from aggregator.engine.ingest.metadata import types_options
from aggregator.engine.options import EngineOptions
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, KIND_TIMED
from m3metrics import codec
from m3metrics.aggregation import AggregationType, is_valid_for
from m3metrics.errors import MetricsError
from m3metrics.metadata import ForwardMetadata, PipelineMetadata, StagedMetadata, is_default, is_drop_policy_set
from m3metrics.metric import MetricType
from m3metrics.pipeline import RollupOp, TransformationType, with_resets
from m3metrics.policy import StoragePolicy
from m3metrics.shard import shard_of

A = AggregationType
ListKey = tuple[int, int, int, int]
"""Shard, kind, resolution, times forwarded."""
MIGRATION = "aggregation closed before resendEnabled migration"


def to_int64(x: float) -> int:
    return int(x) if -(2.0**63) <= x < 2.0**63 else -(1 << 63)


@dataclass
class Entry:
    shard: int
    last_access: int = 0
    cutover: int = -(1 << 63)
    elements: list[tuple[Any, Element]] = field(default_factory=list)
    """By key."""
    rate: tuple[int, int] = (0, 0)


@dataclass
class List:
    elements: list[Element] = field(default_factory=list)
    flushed: int = 0
    versions: dict[Any, dict[int, int]] = field(default_factory=dict)
    """By target, while it has members; by time."""


class ReferenceEngine:
    """``add`` returns the text of the first thing that is wrong, or nothing; ``flush`` the outputs of a list id and what is forwarded."""

    def __init__(self, options: EngineOptions, shards: list[ipc.OwnedShard]) -> None:
        self.options = options
        self.types = types_options(options)
        self.defaults = tuple(StoragePolicy.parse(p) for p in options.default_storage_policies)
        self.owned = {shard.id: shard for shard in shards}
        self.entries: dict[tuple[int, MetricType, bytes], Entry] = {}
        self.lists: dict[ListKey, List] = {}
        self.created: dict[int, tuple[int, int, int]] = {}
        """Per shard: time of the first metric, the second of the last one, metrics made in it."""
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
        if isinstance(metric, codec.TimedMetricWithStoragePolicy):
            return ""
        category = 0
        if isinstance(metric, codec.CounterWithMetadatas):
            kind, values = MetricType.COUNTER, [metric.value]
        elif isinstance(metric, codec.GaugeWithMetadatas):
            kind, values = MetricType.GAUGE, [metric.value]
        elif isinstance(metric, codec.BatchTimerWithMetadatas):
            kind, values = MetricType.TIMER, list(metric.values)
            if not values and self.options.max_timer_batch_size_per_write > 0:
                return ""  # cut into slices, of which there are none
        elif isinstance(metric, codec.ForwardedMetricWithMetadata):
            category, kind, values = 2, metric.metric_type, list(metric.values)
        else:
            category, kind, values = 1, metric.metric_type, [metric.value]
        if kind is MetricType.COUNTER and category:
            values = [to_int64(v) for v in values]
        shard = shard_of(metric.id, self.options.num_shards)
        if shard not in self.owned:
            return "aggregator shard is not owned"
        bounds = self.owned[shard]
        earliest = max(bounds.cutover_ns - self.options.buffer_before_cutover_ns, 0)
        if not earliest <= now < bounds.cutoff_ns + self.options.buffer_after_cutoff_ns:
            return "aggregator shard is not writeable"
        if (category, kind, metric.id) not in self.entries and not self._may_create(shard, now):
            return "write new metric rate limit is exceeded"
        entry = self.entries.setdefault((category, kind, metric.id), Entry(shard, now))
        limit = self.options.values_per_metric_limit_per_second
        second, used = entry.rate
        cost = len(values) if isinstance(metric, codec.BatchTimerWithMetadatas) else 1
        entry.rate = (now // 10**9, (used if second == now // 10**9 else 0) + cost)
        if limit and entry.rate[1] > limit:
            return "write value rate limit is exceeded"
        entry.last_access = now
        if isinstance(metric, codec.ForwardedMetricWithMetadata):
            return self._add_forwarded(entry, metric, values, now)
        if isinstance(metric, codec.TimedMetricWithMetadata):
            return self._add_plain(entry, metric, kind, values, now)
        error, write = self._update(entry, metric, kind, category == 1, now)
        if error or not write:
            return error
        errors = [self._write(element, metric, values, category == 1, now) for _, element in entry.elements]
        return next((error for error in errors if error), "")

    def _may_create(self, shard: int, now: int) -> bool:
        first, second, used = self.created.setdefault(shard, (now, 0, 0))
        if now < first + self.options.new_metric_no_limit_warmup_ns:
            return True
        used = (used if second == now // 10**9 else 0) + 1
        self.created[shard] = (first, now // 10**9, used)
        limit = self.options.new_metric_limit_per_shard_per_second
        return limit == 0 or used <= limit

    def _in_time(self, element: Element, time_ns: int, now: int) -> str:
        if time_ns - now > self.options.buffer_future_ns:
            return "too far in the future"
        return "too far in the past" if now - time_ns > element.past_ns else ""

    def _write(self, element: Element, metric: Any, values: list[Any], timed: bool, now: int) -> str:
        if timed:
            wrong = self._in_time(element, metric.time_ns, now)
            return wrong or element.put(metric.time_ns, values, 0, metric.annotation, None)
        client_ns = 0 if isinstance(metric, codec.BatchTimerWithMetadatas) else metric.client_time_ns
        if element.resend and client_ns > 0:
            wrong = self._in_time(element, client_ns, now) or element.put(client_ns, values, 0, metric.annotation, True)
            if wrong != MIGRATION:
                return wrong
        wrong = element.put(now, values, self.batch, metric.annotation, False)
        if wrong:
            wrong = element.put(now + element.policy.window_ns, values, self.batch, metric.annotation, False)
        return wrong

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
        wanted: dict[Any, PipelineMetadata] = {}
        list_kind = KIND_TIMED if timed else KIND_STANDARD
        for pipeline in stage.pipelines:
            for policy in pipeline.storage_policies or self.defaults:
                ops = with_resets(pipeline.pipeline) if self.options.add_to_reset else pipeline.pipeline
                wanted.setdefault((pipeline.aggregation_id, policy, ops, list_kind, 0, False), pipeline)
        fresh = []
        try:
            for key, pipeline in wanted.items():
                fresh.append((key, self._element(entry, metric.id, kind, key, pipeline)))
        except ValueError as error:
            for _, element in fresh:
                # M3 leaves it without an owner; here only its list stays (docs/compatibility.md).
                if not any(element is own for _, own in entry.elements):
                    element.tombstoned = True
            return str(error), False
        for (_, element), pipeline in zip(fresh, wanted.values(), strict=True):
            element.traffic, element.resend = pipeline.traffic_types, pipeline.resend_enabled
        for _, element in entry.elements:
            element.tombstoned = not any(element is new for _, new in fresh)
        entry.elements = fresh
        entry.cutover = stage.cutover_ns
        return "", True

    def _element(self, entry: Entry, ident: bytes, kind: MetricType, key: Any, attributes: Any) -> Element:
        for own, element in entry.elements:
            if own == key:
                return element
        aggregation_id, policy, pipeline, list_kind, times, plain = key
        if kind is MetricType.UNKNOWN:
            raise ValueError("invalid metric type")
        try:
            types = self.types.types_of(kind, aggregation_id)
        except MetricsError:
            types = (A.LAST,) if kind is not MetricType.GAUGE else (A.MEDIAN,)
        if not all(is_valid_for(kind, t) for t in types):
            raise ValueError("invalid aggregation types")
        element = Element(
            ident=ident,
            metric_type=kind,
            types=types,
            policy=policy,
            pipeline=pipeline,
            plain=plain,
            forwarded=list_kind == KIND_FORWARDED,
            traffic=attributes.traffic_types,
            resend=getattr(attributes, "resend_enabled", False),
            past_ns=self.options.buffer_past_ns + policy.window_ns,
        )
        derivatives = [op for op in element.local if op in (TransformationType.PER_SECOND, TransformationType.INCREASE)]
        if len(derivatives) > 1:
            raise ValueError("transformation derivative order is higher than supported 1")
        self.lists.setdefault((entry.shard, list_kind, policy.window_ns, times), List()).elements.append(element)
        return element

    def _append(self, entry: Entry, ident: bytes, kind: MetricType, key: Any, attributes: Any) -> Element:
        element = self._element(entry, ident, kind, key, attributes)
        if not any(element is own for _, own in entry.elements):
            entry.elements.append((key, element))
        return element

    def _add_plain(self, entry: Entry, metric: Any, kind: MetricType, values: list[Any], now: int) -> str:
        key = (metric.metadata.aggregation_id, metric.metadata.storage_policy, (), KIND_TIMED, 0, True)
        try:
            element = self._append(entry, metric.id, kind, key, metric.metadata)
        except ValueError as error:
            return str(error)
        return self._write(element, metric, values, True, now)

    def _add_forwarded(self, entry: Entry, m: codec.ForwardedMetricWithMetadata, values: list[Any], now: int) -> str:
        meta: ForwardMetadata = m.metadata
        resolution, times = meta.storage_policy.window_ns, meta.num_forwarded_times
        limit = self.options.forwarding_delay_ns(resolution, times)
        if meta.resend_enabled:
            limit = self.options.buffer_past_ns + resolution
        key = (meta.aggregation_id, meta.storage_policy, meta.pipeline, KIND_FORWARDED, times, False)
        known = any(own == key for own, _ in entry.elements)
        try:
            if not known:  # here a metadata is judged before the time, for it is judged once
                self._element(Entry(-1), m.id, m.metric_type, key, meta)
                del self.lists[-1, KIND_FORWARDED, resolution, times]
        except ValueError as error:
            return str(error)
        if now - m.time_ns > limit:
            return "arrived too late"
        element = self._append(entry, m.id, m.metric_type, key, meta)
        if m.version and m.metric_type is not MetricType.GAUGE:
            return "only gauges support updating values"
        window = element.window(m.time_ns)
        if window.closed:
            return "aggregation is closed"
        seen = window.sources.setdefault(meta.source_id, set())
        if m.version in seen:
            return ""
        seen.add(m.version)
        for k, value in enumerate(values):
            if m.version:
                window.update(value, m.prev_values[k], (m.time_ns, 0))
            else:
                window.add(value, (m.time_ns, 0))
        if not m.version:
            window.annotation = m.annotation or window.annotation
        window.dirty = True
        window.resend = meta.resend_enabled
        return ""

    def expire(self, now: int) -> None:
        for key, entry in list(self.entries.items()):
            if now - entry.last_access > self.options.entry_ttl_ns:
                for _, element in entry.elements:
                    element.tombstoned = True
                del self.entries[key]

    def flush(self, command: ipc.Flush) -> tuple[list[tuple[Any, ...]], list[bytes]]:
        final: list[tuple[Any, ...]] = []
        sent: list[bytes] = []
        named = {shard for group in command.bounds for shard in group.shards}
        for group in command.bounds:
            for shard in group.shards or sorted(set(self.owned) - named):
                key = (shard, *command.list_id)
                for before, emit in self._passes(group):
                    rows, messages = self._flush_before(key, before, emit and command.emit)
                    final += rows
                    sent += messages
        return final, sent

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

    def _flush_before(self, key: ListKey, before: int, emit: bool) -> tuple[list[tuple[Any, ...]], list[bytes]]:
        one = self.lists.get(key)
        if one is None or one.flushed >= before:
            return [], []
        one.flushed = before
        final: list[tuple[Any, ...]] = []
        buckets: dict[Any, list[tuple[Element, Out]]] = {}
        for element in one.elements:
            for out in element.consume(before, self.options.discard_nan):
                if element.rollup is None:
                    final += self._outputs(element, out) if emit else []
                else:
                    buckets.setdefault((target_of(element, key[3]), out.start), []).append((element, out))
        sent = [self._message(key, one, *place, rows, emit) for place, rows in buckets.items()]
        one.elements = [e for e in one.elements if not e.tombstoned or e.dirty]
        members = {target_of(e, key[3]) for e in one.elements if e.rollup is not None}
        one.versions = {target: by_time for target, by_time in one.versions.items() if target in members}
        return final, sent if emit else []

    def _message(
        self, key: ListKey, one: List, target: Any, start: int, rows: list[tuple[Element, Out]], emit: bool
    ) -> bytes:
        element, last = rows[-1]
        version = 0
        # A follower counts versions along, more than the leader may send where a window is correctable for some members only.
        if last.resend if emit else any(out.resend for _, out in rows):
            versions = one.versions.setdefault(target, {})
            version = versions.get(start, 0)
            versions[start] = version + 1
        rollup = element.rollup
        assert rollup is not None
        return codec.encode_metric(
            codec.ForwardedMetricWithMetadata(
                metric_type=element.metric_type,
                id=rollup.id,
                time_ns=element.stamp(start),
                values=tuple(out.value for _, out in rows),
                prev_values=tuple(out.previous for _, out in rows),
                annotation=next((out.annotation for _, out in reversed(rows) if out.annotation), b""),
                version=version,
                metadata=ForwardMetadata(
                    aggregation_id=rollup.aggregation_id,
                    storage_policy=element.policy,
                    pipeline=element.rest,
                    source_id=key[0],
                    num_forwarded_times=key[3] + 1,
                    resend_enabled=last.resend,
                    traffic_types=element.traffic,
                ),
            )
        )

    def _outputs(self, element: Element, out: Out) -> list[tuple[Any, ...]]:
        prefix = {
            MetricType.COUNTER: self.options.counter_prefix,
            MetricType.TIMER: self.options.timer_prefix,
            MetricType.GAUGE: self.options.gauge_prefix,
        }[element.metric_type].encode()
        suffix = self.types.type_string(element.metric_type, element.types[out.number])
        ident = element.ident if element.plain else prefix + element.ident + suffix
        at = element.stamp(out.start)
        points = [(at, out.value)]
        if TransformationType.RESET in element.local:
            points.append((at + max(element.policy.window_ns // 2, 1), 0.0))
        return [
            (ident, time_ns, str(element.policy), bits(value), out.annotation, element.traffic)
            for time_ns, value in points
        ]


def target_of(element: Element, times: int) -> tuple[Any, ...]:
    rollup = element.rollup
    assert isinstance(rollup, RollupOp)
    return (element.metric_type, rollup.id, rollup.aggregation_id, element.policy, element.rest, times)


def bits(value: float) -> str:
    """The IEEE-754 pattern; every NaN is the same, and so are the zeros (the wire leaves both out)."""
    if math.isnan(value):
        return "NaN"
    return struct.pack(">d", 0.0 if value == 0.0 else value).hex()
