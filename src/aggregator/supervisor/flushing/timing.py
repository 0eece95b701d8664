"""The flush schedule's options from the configuration."""

from aggregator.config import ServiceConfig, flush_jitters, timing
from aggregator.engine.options import max_jitter_ns
from aggregator.supervisor.flushing.schedule import ScheduleOptions

__all__ = ["schedule_options"]


def schedule_options(config: ServiceConfig) -> ScheduleOptions:
    """Delays and offsets as the configuration wants them (docs/m3/aggregation.md, jitter and delays)."""
    jitters, delays = flush_jitters(config.aggregator.flush_manager), timing(config)

    def jitter(interval_ns: int) -> int:
        return max_jitter_ns(jitters, interval_ns)

    return ScheduleOptions(
        timed_delay_ns=delays.timed_delay_ns,
        forwarding_delay_ns=delays.forwarding_delay_ns,
        max_jitter_ns=jitter if jitters else None,
        timed_offset=config.aggregator.timed_metrics_flush_offset_enabled,
        max_buffer_ns=int(config.aggregator.flush_manager.max_buffer_size),
    )
