"""What the engine of a worker has to be told: the ``aggregator:`` section of the YAML, resolved (reference/aggregator_core.md §15.3)."""

import msgspec

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS


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
    buffer_future_ns: int = MINUTE_NS
    buffer_before_cutover_ns: int = 10 * MINUTE_NS
    buffer_after_cutoff_ns: int = 60 * MINUTE_NS
    max_buffer_ns: int = 5 * MINUTE_NS
    """``flushManager.maxBufferSize``."""
    forwarding_max_single_delay_ns: int = 0
    forwarding_max_const_delay_ns: int = 0
    entry_ttl_ns: int = 60 * MINUTE_NS
    entry_check_interval_ns: int = 60 * MINUTE_NS
    discard_nan: bool = True
    add_to_reset: bool = False
    max_timer_batch_size_per_write: int = 0
    timed_metrics_flush_offset_enabled: bool = False
    writes_ignore_cutoff_cutover: bool = False
    values_per_metric_limit_per_second: int = 0
    new_metric_limit_per_shard_per_second: int = 0
    new_metric_no_limit_warmup_ns: int = 0
    verbose_errors: bool = False
    timer_samples_per_series_cap: int = 1 << 20
    """Quantiles are exact up to this many samples per series and window;
    further ones count in every other aggregation type, not in them."""
    memory_limit_bytes: int = 0
    """Windows and timer logs together; 0: no limit. Beyond it new series are refused and counted,
    at twice as much the values of known ones, too."""
