"""What follows from the configuration: jitter, forwarding delays, keys in KV, engine options.

docs/m3/aggregation.md, jitter and delays.
"""

from dataclasses import dataclass

from aggregator.config.blocks import MINUTE
from aggregator.config.flush import FlushManagerConfig
from aggregator.config.service import ServiceConfig
from aggregator.engine.options import EngineOptions, Timing
from m3cluster.keys import election_prefix, kv_key
from m3cluster.kv.sections import KVOverride
from m3metrics.sections import past_limits_of
from m3x.memory import MemoryLimit, memory_limit

__all__ = [
    "KVKeys",
    "buffer_past_ns",
    "engine_options",
    "entry_check_interval_ns",
    "flush_jitters",
    "instance_memory",
    "kv_keys",
    "retained_bytes",
    "timing",
]

_DEFAULT_PAST_NS = MINUTE


def flush_jitters(manager: FlushManagerConfig) -> tuple[tuple[int, float], ...]:
    """The jitter of flushes as (interval in ns, largest part of it) in order of interval; empty: none is wanted."""
    if not manager.jitter_enabled:
        return ()
    return tuple((int(bucket.flush_interval), bucket.max_jitter_percent) for bucket in manager.jitters)


def buffer_past_ns(config: ServiceConfig) -> int:
    """How late a timed sample may be, without the resolution that M3 adds."""
    return int(config.aggregator.buffer_duration_for_past_timed_metric) or _DEFAULT_PAST_NS


def timing(config: ServiceConfig) -> Timing:
    """How late samples may be, and when windows are flushed."""
    section = config.aggregator
    return Timing(
        buffer_past_ns=buffer_past_ns(config),
        past_limits=past_limits_of(section.buffer_past_limits),
        transit_ns=int(config.instance.transit_time),
        jitters=flush_jitters(section.flush_manager),
        max_single_delay_ns=int(section.forwarding.max_single_delay),
        max_const_delay_ns=int(section.forwarding.max_const_delay),
    )


def entry_check_interval_ns(config: ServiceConfig) -> int:
    """How often idle entries are collected."""
    return int(config.aggregator.entry_check_interval) or 60 * MINUTE


@dataclass(frozen=True, slots=True)
class KVKeys:
    """Full keys of this service in the KV (docs/m3/cluster.md, keys)."""

    placement: str
    flush_times_format: str
    """With ``%d`` for the shard set id."""
    election_format: str
    complete_since_format: str
    """Ours, beside the flush times: instances tell there since when they hold all samples."""
    delivered_format: str
    """Ours, too: what is delivered where the flush times wait for a replica."""
    values_limit: str
    new_metrics_limit: str

    def flush_times(self, shard_set: int) -> str:
        """Where the leader of a shard set keeps its flush times."""
        return self.flush_times_format.replace("%d", str(shard_set))

    def election(self, shard_set: int) -> str:
        """Prefix of the candidates' keys."""
        return self.election_format.replace("%d", str(shard_set))

    def complete_since(self, shard_set: int) -> str:
        """Prefix of the keys that tell since when instances hold all samples."""
        return self.complete_since_format.replace("%d", str(shard_set))

    def delivered(self, shard_set: int) -> str:
        """Where the leader of a shard set says up to where final output is delivered, if that is more than its flush times say."""
        return self.delivered_format.replace("%d", str(shard_set))


def kv_keys(config: ServiceConfig) -> KVKeys:
    """Keys as M3 builds them: ``{namespace}/{environment}/{key}``, nothing normalised."""
    default = config.kv_client.environment
    section = config.aggregator
    placement, times = section.placement_manager, section.flush_times_manager
    folder, _, last = times.flush_times_key_fmt.rpartition("/")
    service, runtime = section.election_manager.service_id, config.runtime_options

    def key(place: KVOverride, name: str) -> str:
        return kv_key(place.environment or default, name, place.namespace)

    def beside_flush_times(name: str) -> str:
        return key(times.kv_config, "/".join(filter(None, (folder, name, last))))

    return KVKeys(
        placement=key(placement.kv_config, placement.placement_watcher.key),
        flush_times_format=key(times.kv_config, times.flush_times_key_fmt),
        election_format=election_prefix(
            service.environment, service.name or "m3aggregator", section.election_manager.election_key_fmt
        ),
        complete_since_format=beside_flush_times("complete-since"),
        delivered_format=beside_flush_times("delivered"),
        values_limit=key(runtime.kv_config, runtime.write_values_per_metric_limit_per_second_key),
        new_metrics_limit=key(runtime.kv_config, runtime.write_new_metric_limit_cluster_per_second_key),
    )


def engine_options(
    config: ServiceConfig, *, num_shards: int, topic_shards: int, replica_factor: int, workers: int
) -> EngineOptions:
    """The ``aggregator:`` section resolved for one of ``workers`` worker processes."""
    section, runtime, own = config.aggregator, config.runtime_options, config.instance
    types, manager, delays = section.aggregation_types, section.flush_manager, timing(config)
    return EngineOptions(
        num_shards=num_shards,
        topic_shards=topic_shards,
        default_storage_policies=tuple(map(str, section.default_storage_policies)),
        default_counter_types=tuple(types.default_counter_aggregation_types),
        default_timer_types=tuple(types.default_timer_aggregation_types),
        default_gauge_types=tuple(types.default_gauge_aggregation_types),
        counter_transform=types.counter_transform_fn_type,
        timer_transform=types.timer_transform_fn_type,
        gauge_transform=types.gauge_transform_fn_type,
        counter_prefix=section.metric_prefix + section.counter_prefix,
        timer_prefix=section.metric_prefix + section.timer_prefix,
        gauge_prefix=section.metric_prefix + section.gauge_prefix,
        buffer_past_ns=delays.buffer_past_ns,
        past_limits=delays.past_limits,
        transit_ns=delays.transit_ns,
        buffer_future_ns=int(section.buffer_duration_for_future_timed_metric) or MINUTE,
        buffer_before_cutover_ns=int(section.buffer_duration_before_shard_cutover) or 10 * MINUTE,
        buffer_after_cutoff_ns=int(section.buffer_duration_after_shard_cutoff) or 60 * MINUTE,
        max_buffer_ns=int(manager.max_buffer_size),
        forwarding_max_single_delay_ns=delays.max_single_delay_ns,
        forwarding_max_const_delay_ns=delays.max_const_delay_ns,
        flush_jitters=delays.jitters,
        entry_ttl_ns=int(section.entry_ttl) or 60 * MINUTE,
        discard_nan=section.discard_nan_aggregated_values,
        add_to_reset=section.add_to_reset,
        max_timer_batch_size_per_write=section.max_timer_batch_size_per_write,
        writes_ignore_cutoff_cutover=section.writes_ignore_cutoff_cutover,
        values_per_metric_limit_per_second=runtime.write_values_per_metric_limit_per_second,
        new_metric_limit_per_shard_per_second=new_metric_limit(
            runtime.write_new_metric_limit_cluster_per_second, num_shards, replica_factor
        ),
        new_metric_no_limit_warmup_ns=int(runtime.write_new_metric_no_limit_warmup_duration),
        timer_samples_per_series_cap=own.timer_samples_per_series_cap,
        passthrough=config.rawtcp is not None,
        memory_limit_bytes=instance_memory(config).nbytes // max(workers, 1),
        retained_bytes=retained_bytes(config, workers),
    )


def retained_bytes(config: ServiceConfig, workers: int) -> int:
    """Bytes of windows of one worker above which old ones are given up that nobody has flushed, or whose delivery nobody has recorded."""
    limit = instance_memory(config).nbytes or memory_limit(0).nbytes
    return limit * 3 // 4 // max(workers, 1)


def instance_memory(config: ServiceConfig) -> MemoryLimit:
    """What the tables of all workers may take together."""
    return memory_limit(config.instance.memory_limit_bytes, "instance.memoryLimitBytes")


def new_metric_limit(cluster_limit: int, num_shards: int, replica_factor: int) -> int:
    """A limit for the cluster as a limit per shard (docs/m3/aggregation.md, runtime options); 0: none."""
    if cluster_limit < 1:
        return 0
    if num_shards == 0:
        return cluster_limit
    return -(-cluster_limit // (num_shards * max(replica_factor, 1)))
