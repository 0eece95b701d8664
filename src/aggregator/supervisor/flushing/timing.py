"""The flush schedule's options from the configuration."""

from aggregator.config import ServiceConfig, buffer_past_ns, flush_jitters
from aggregator.engine.options import forwarding_delay_ns, max_jitter_ns
from aggregator.supervisor.flushing.schedule import ScheduleOptions

__all__ = ["schedule_options"]


def schedule_options(config: ServiceConfig) -> ScheduleOptions:
    """Delays and offsets as the configuration wants them (docs/m3/aggregation.md, jitter and delays)."""
    forwarding, jitters = config.aggregator.forwarding, flush_jitters(config.aggregator.flush_manager)
    single_ns, const_ns = int(forwarding.max_single_delay), int(forwarding.max_const_delay)

    def delay(resolution_ns: int, times: int) -> int:
        return forwarding_delay_ns(jitters, single_ns, const_ns, resolution_ns, times)

    def jitter(interval_ns: int) -> int:
        return max_jitter_ns(jitters, interval_ns)

    return ScheduleOptions(
        past_ns=buffer_past_ns(config),
        forwarding_delay_ns=delay,
        max_jitter_ns=jitter if jitters else None,
        timed_offset=config.aggregator.timed_metrics_flush_offset_enabled,
        max_buffer_ns=int(config.aggregator.flush_manager.max_buffer_size),
    )
