"""The flush schedule's options from the configuration."""

from aggregator.config import ServiceConfig, buffer_past_ns, forwarding_delay_ns, max_jitter_ns
from aggregator.supervisor.schedule import ScheduleOptions

__all__ = ["schedule_options"]


def schedule_options(config: ServiceConfig) -> ScheduleOptions:
    """Delays and offsets as the configuration wants them (reference/aggregator_core.md §6.1, §15.4)."""
    manager, forwarding = config.aggregator.flush_manager, config.aggregator.forwarding
    jitters = manager.jitters

    def delay(resolution_ns: int, times: int) -> int:
        single, const = int(forwarding.max_single_delay), int(forwarding.max_const_delay)
        return forwarding_delay_ns(manager, single, const, resolution_ns, times)

    def jitter(interval_ns: int) -> int:
        return max_jitter_ns(jitters, interval_ns)

    return ScheduleOptions(
        past_ns=buffer_past_ns(config),
        forwarding_delay_ns=delay,
        max_jitter_ns=jitter if manager.jitter_enabled else None,
        timed_offset=config.aggregator.timed_metrics_flush_offset_enabled,
    )
