"""What the engine of a worker has to be told: the ``aggregator:`` section of the YAML, resolved.

docs/m3/aggregation.md, aggregator section.
"""

from collections.abc import Sequence

import msgspec

from aggregator.lists import KIND_FORWARDED, KIND_TIMED, ListId
from m3metrics.past_limits import PastLimits

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
_MOST_OPEN = 4096
_OPEN_NS = 2 * MINUTE_NS
"""Windows that are flushed so much too late (a worker replays its journal) still take what its sender was told is in time."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """All durations in nanoseconds; defaults are M3's code defaults unless said otherwise."""

    num_shards: int
    """Shard count of the current placement: a metric's shard is murmur3-32 of its id modulo this."""
    topic_shards: int
    """Shard count of the outgoing topic: shard column of emitted messages."""
    default_storage_policies: tuple[str, ...] = ()
    default_counter_types: tuple[str, ...] = ()
    """Aggregation types by name (``Sum``); empty: M3's built-in ones."""
    default_timer_types: tuple[str, ...] = ()
    default_gauge_types: tuple[str, ...] = ()
    counter_transform: str = "noop"
    """Type string transform: ``noop``, ``empty`` or ``suffix``."""
    timer_transform: str = "noop"
    gauge_transform: str = "noop"
    counter_prefix: str = ""
    """Full prefix: metricPrefix + counterPrefix."""
    timer_prefix: str = ""
    gauge_prefix: str = ""
    buffer_past_ns: int = MINUTE_NS
    """The limit for a resolution is this plus the resolution."""
    past_limits: PastLimits | None = None
    """Limits by resolution, instead of ``buffer_past_ns``."""
    transit_ns: int = 0
    """Whoever sends timed samples has judged how late they are, up to so long before they come: flushes wait so much longer, and what
    comes later still is taken as long as its window is open."""
    buffer_future_ns: int = MINUTE_NS
    buffer_before_cutover_ns: int = 10 * MINUTE_NS
    buffer_after_cutoff_ns: int = 60 * MINUTE_NS
    max_buffer_ns: int = 5 * MINUTE_NS
    """``flushManager.maxBufferSize``."""
    forwarding_max_single_delay_ns: int = 0
    forwarding_max_const_delay_ns: int = 0
    flush_jitters: tuple[tuple[int, float], ...] = ()
    """(interval, largest part of it) in order of interval, as ``flushManager.maxJitters``; empty: jitter is off."""
    entry_ttl_ns: int = 60 * MINUTE_NS
    discard_nan: bool = True
    add_to_reset: bool = False
    max_timer_batch_size_per_write: int = 0
    writes_ignore_cutoff_cutover: bool = False
    values_per_metric_limit_per_second: int = 0
    new_metric_limit_per_shard_per_second: int = 0
    new_metric_no_limit_warmup_ns: int = 0
    timer_samples_per_series_cap: int = 1 << 20
    """Quantiles are exact up to this many samples per series and window;
    further ones count in every other aggregation type, not in them."""
    memory_limit_bytes: int = 0
    """Of all that the tables hold; 0: no limit. New series are refused, and counted, when seven eighths are in use, or would be with a
    value of each known series in every window; at the whole values of known ones are refused, too."""
    passthrough: bool = False
    """Whether passthrough metrics are taken (``Engine.take_passthrough``). Without raw TCP the service refuses them, as M3 does."""
    retained_bytes: int = 0
    """Flushed windows that no flush time covers are kept for emitting again. When windows take more than this, those go that are
    ``max_buffer_ns`` older than the last flush."""

    def forwarding_delay_ns(self, resolution_ns: int, times: int) -> int:
        """See ``Timing``."""
        return self.timing.forwarding_delay_ns(resolution_ns, times)

    def open_windows(self, list_id: ListId) -> int:
        """How many windows of a list are there at a time: those that may still get values, and two that are being flushed."""
        kind, resolution_ns, times_forwarded = list_id
        delay_ns = 0
        if kind == KIND_FORWARDED:
            delay_ns = self.forwarding_delay_ns(resolution_ns, times_forwarded)
        elif kind == KIND_TIMED:
            delay_ns = self.timing.timed_delay_ns(resolution_ns)
        return 3 + min(max(delay_ns, 0) // resolution_ns, _MOST_OPEN)

    @property
    def timing(self) -> "Timing":
        """How late samples may be, and when windows are flushed."""
        return Timing(
            buffer_past_ns=self.buffer_past_ns,
            past_limits=self.past_limits,
            transit_ns=self.transit_ns,
            jitters=self.flush_jitters,
            max_single_delay_ns=self.forwarding_max_single_delay_ns,
            max_const_delay_ns=self.forwarding_max_const_delay_ns,
        )


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How late samples may be, and how long windows are kept for them (docs/m3/aggregation.md, jitter and delays): the fields of
    ``EngineOptions`` that say so."""

    buffer_past_ns: int
    past_limits: PastLimits | None = None
    transit_ns: int = 0
    jitters: tuple[tuple[int, float], ...] = ()
    max_single_delay_ns: int = 0
    max_const_delay_ns: int = 0

    def timed_delay_ns(self, resolution_ns: int) -> int:
        """How long after its end a window of timed samples is flushed."""
        if self.past_limits is None:
            return self.buffer_past_ns + resolution_ns
        return self.past_limits.of(resolution_ns) + self.transit_ns

    def timed_limit_ns(self, resolution_ns: int) -> int:
        """How late a timed sample may come."""
        delay_ns = self.timed_delay_ns(resolution_ns)
        return delay_ns + _OPEN_NS if self.transit_ns else delay_ns

    def forwarding_delay_ns(self, resolution_ns: int, times: int) -> int:
        """How late a metric that was forwarded ``times`` times may come, counted from the start of its window."""
        if self.past_limits is not None:
            return self.timed_delay_ns(resolution_ns) + resolution_ns * times
        return forwarding_delay_ns(
            self.jitters, self.max_single_delay_ns, self.max_const_delay_ns, resolution_ns, times
        )


def max_jitter_ns(jitters: Sequence[tuple[int, float]], interval_ns: int) -> int:
    """The largest flush offset of a list: of the first bucket in order of interval that is not shorter, else of the last."""
    _, part = next(((interval, part) for interval, part in jitters if interval >= interval_ns), jitters[-1])
    return int(part * interval_ns)


def forwarding_delay_ns(
    jitters: Sequence[tuple[int, float]], single_ns: int, const_ns: int, resolution_ns: int, times: int
) -> int:
    """M3's ``maxAllowedForwardingDelayFn``: how long after its start a forwarded window is flushed, and how late its metrics may be.

    docs/m3/aggregation.md, jitter and delays. ``jitters`` as ``EngineOptions.flush_jitters``.
    """
    if const_ns > 0:
        return const_ns + resolution_ns * times
    first = max_jitter_ns(jitters, resolution_ns) if jitters else resolution_ns
    return first + single_ns * times
