"""Elements as M3 keeps them, in plain Python: windows, what a pass consumes, closes and removes (docs/m3/aggregation.md, windows)."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m3metrics.aggregation import AggregationType
from m3metrics.metric import MetricType
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationType
from m3metrics.policy import StoragePolicy

A = AggregationType
T = TransformationType


def wrap(n: int) -> int:
    return (n + (1 << 63)) % (1 << 64) - (1 << 63)


def stdev(n: int, squares: float, total: float) -> float:
    pairs = n * (n - 1)
    if pairs == 0:
        return 0.0
    with np.errstate(all="ignore"):
        return float(np.sqrt((np.float64(n) * squares - np.float64(total) * total) / np.float64(pairs)))


@dataclass
class Window:
    """What one element has in one window."""

    metric_type: MetricType
    squares_kept: bool
    total: float = 0
    squares: float = 0
    count: int = 0
    low: float = math.nan
    high: float = math.nan
    last: float = 0.0
    last_at: tuple[float, int] = (-math.inf, 0)
    samples: list[float] = field(default_factory=list)
    annotation: bytes = b""
    sources: dict[int, set[int]] = field(default_factory=dict)
    dirty: bool = False
    closed: bool = False
    resend: bool = False

    def add(self, value: Any, at: tuple[int, int]) -> None:
        """``at``: time and batch; untimed values of one batch came one after another. Batch 0: with a time of its own."""
        self.count += 1
        if self.metric_type is MetricType.COUNTER:
            self.total = wrap(int(self.total) + value)
            self.squares = wrap(int(self.squares) + value * value) if self.squares_kept else 0
            self.low = value if self.count == 1 else min(self.low, value)
            self.high = value if self.count == 1 else max(self.high, value)
            return
        if self.metric_type is MetricType.GAUGE and (at[0] > self.last_at[0] or (at == self.last_at and at[1] != 0)):
            self.last, self.last_at = value, at
        if not math.isnan(value):
            self.low = value if math.isnan(self.low) else min(self.low, value)
            self.high = value if math.isnan(self.high) else max(self.high, value)
            self.samples.append(value)
        elif self.metric_type is MetricType.GAUGE:
            return
        self.total += value
        self.squares += value * value if self.squares_kept else 0.0

    def update(self, value: float, previous: float, at: tuple[int, int]) -> None:
        if not math.isnan(previous):
            self.total -= previous
            self.squares -= previous * previous if self.squares_kept else 0.0
        self.count -= 1
        self.add(value, at)

    def value(self, kind: AggregationType) -> float:
        if self.metric_type is MetricType.TIMER and kind.quantile is not None:
            ranked = sorted(self.samples)
            q, n = kind.quantile, len(ranked)
            if n == 0:
                return 0.0
            return ranked[min(int(q * n), n - 1)] if n <= 3 else ranked[math.ceil(q * n) - 1]
        low, high = self.low, self.high
        if self.count == 0 and self.metric_type is not MetricType.GAUGE:
            low = high = 0.0
            if self.metric_type is MetricType.COUNTER:
                low, high = float((1 << 63) - 1), -float(1 << 63)
        return {
            A.LAST: self.last if self.metric_type is MetricType.GAUGE else 0.0,
            A.SUM: float(self.total),
            A.SUM_SQ: float(self.squares),
            A.COUNT: float(self.count),
            A.MEAN: float(self.total) / self.count if self.count else 0.0,
            A.MIN: float(low),
            A.MAX: float(high),
            A.STDEV: stdev(self.count, float(self.squares), float(self.total)),
        }[kind]


@dataclass
class Flushed:
    """What the flusher knows of a window."""

    consumed: list[float]
    emitted: list[float]
    flushed: bool = False
    resend: bool = False


@dataclass
class Snapshot:
    """A window as a pass has found it."""

    start: int
    before: int | None
    values: list[float]
    annotation: bytes
    resend: bool


@dataclass
class Out:
    """One value that comes out of a pass."""

    number: int
    start: int
    value: float
    previous: float
    annotation: bytes
    resend: bool


@dataclass(eq=False)
class Element:
    """One aggregation of a metric."""

    ident: bytes
    metric_type: MetricType
    types: tuple[AggregationType, ...]
    policy: StoragePolicy
    pipeline: AppliedPipeline
    plain: bool
    forwarded: bool
    traffic: int
    resend: bool
    past_ns: int
    windows: dict[int, Window] = field(default_factory=dict)
    dirty: set[int] = field(default_factory=set)
    known: dict[int, Flushed] = field(default_factory=dict)
    sums: dict[int, float] = field(default_factory=dict)
    tombstoned: bool = False

    @property
    def rollup(self) -> RollupOp | None:
        return next((op for op in self.pipeline if isinstance(op, RollupOp)), None)

    @property
    def local(self) -> list[TransformationType]:
        ops: list[TransformationType] = []
        for op in self.pipeline:
            if isinstance(op, RollupOp):
                break
            ops.append(op.type)
        return ops

    @property
    def rest(self) -> AppliedPipeline:
        at = next(k for k, op in enumerate(self.pipeline) if isinstance(op, RollupOp))
        return self.pipeline[at + 1 :]

    def stamp(self, start: int) -> int:
        return start if self.forwarded else start + self.policy.window_ns

    def due(self, start: int, target: int) -> bool:
        return start < target if self.forwarded else start + self.policy.window_ns <= target

    def window(self, time_ns: int) -> Window:
        resolution = self.policy.window_ns
        start = time_ns - (time_ns + 62_135_596_800 * 10**9) % resolution
        self.dirty.add(start)
        squares = A.SUM_SQ in self.types or A.STDEV in self.types
        return self.windows.setdefault(start, Window(self.metric_type, squares))

    def put(self, time_ns: int, values: list[Any], batch: int, annotation: bytes, resend: bool | None) -> str:
        """Adds values; what is wrong, or nothing. ``resend``: of the write, None: it says nothing about it."""
        window = self.window(time_ns)
        if window.closed:
            if resend and not window.resend:
                return "aggregation closed before resendEnabled migration"
            return "aggregation is closed"
        for value in values:
            window.add(value, (time_ns, batch))
        window.dirty = True
        window.annotation = annotation or window.annotation
        if resend is not None:
            window.resend = resend
        return ""

    def consume(self, target: int, discard_nan: bool) -> list[Out]:
        selected = self._select(target)
        removed = self._expire(target)
        out = [row for snapshot in selected for row in self._process(snapshot, discard_nan)]
        for start in removed:
            self.known.pop(start, None)
        return out

    def _snapshot(self, start: int) -> Snapshot:
        window = self.windows[start]
        known = self.known.setdefault(start, Flushed([math.nan] * len(self.types), [0.0] * len(self.types)))
        known.resend = window.resend
        before = max((s for s in self.windows if s < start), default=None)
        values = [window.value(kind) for kind in self.types]
        return Snapshot(start, before, values, window.annotation, window.resend)

    def _select(self, target: int) -> list[Snapshot]:
        order = sorted(self.dirty)
        kept = set()
        selected = []
        for k, start in enumerate(order):
            if not self.due(start, target):
                kept.add(start)
                continue
            window = self.windows.get(start)
            if window is None:
                continue
            snapshot = self._snapshot(start)
            if not window.dirty:
                kept.add(start)
                continue
            window.dirty = False
            selected.append(snapshot)
            following = min((s for s in self.windows if s > start), default=None)
            cascades = window.resend and following is not None and following not in order[k + 1 : k + 2]
            if cascades and following in self.known and self.known[following].flushed:
                selected.append(self._snapshot(following))
        self.dirty = kept
        return selected

    def _expire(self, target: int) -> list[int]:
        removed = []
        before: int | None = None
        for start in sorted(self.windows):
            known = self.known.get(start)
            if not self.due(start, target):
                break
            if known is not None and known.resend and not self.due(start, target - self.past_ns):
                break
            if self.windows[start].resend != (known is not None and known.resend):
                break
            self.windows[start].closed = True
            if self.windows[start].dirty:
                break
            if before is not None:
                del self.windows[before]
                removed.append(before)
            before = start
        return removed

    def _process(self, snapshot: Snapshot, discard_nan: bool) -> list[Out]:
        known = self.known[snapshot.start]
        out = []
        for k, raw in enumerate(snapshot.values):
            value = self._transform(raw, k, snapshot, known)
            if discard_nan and math.isnan(value):
                continue
            previous, known.emitted[k] = known.emitted[k], value
            if known.flushed and (value == previous or (math.isnan(value) and math.isnan(previous))):
                continue
            out.append(Out(k, snapshot.start, value, previous, snapshot.annotation, snapshot.resend))
        known.flushed = True
        return out

    def _transform(self, value: float, k: int, snapshot: Snapshot, known: Flushed) -> float:
        time_ns = self.stamp(snapshot.start)
        for number, op in enumerate(self.local):
            if op is T.ABSOLUTE:
                value = abs(value)
            elif op is T.ADD:
                self.sums[number] = self.sums.get(number, 0.0) + (0.0 if math.isnan(value) else value)
                value = self.sums[number]
            elif op in (T.PER_SECOND, T.INCREASE):
                before, before_ns = math.nan, 0
                if snapshot.before is not None:
                    before_ns = self.stamp(snapshot.before)
                    if snapshot.before in self.known:
                        before = self.known[snapshot.before].consumed[k]
                known.consumed[k] = value
                value = derivative(op, before, before_ns, value, time_ns)
        return value


def derivative(op: TransformationType, before: float, before_ns: int, value: float, time_ns: int) -> float:
    if before_ns >= time_ns or math.isnan(value):
        return math.nan
    if math.isnan(before):
        if op is T.PER_SECOND:
            return math.nan
        before = 0.0
    difference = value - before
    if not difference >= 0:
        return math.nan
    return difference if op is T.INCREASE else difference * 1e9 / float(time_ns - before_ns)
