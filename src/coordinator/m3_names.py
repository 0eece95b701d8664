"""Names of M3's dashboards for what a coordinator counts in a scope of another name (docs/metrics.md)."""

from m3x.also import Also, apply, begin, under
from m3x.instrument import Figures, Registry

__all__ = ["show_m3_names"]

_CLIENT = "downsampler_remote_aggregator_client_"
_ALSO = (
    Also("ingest_success", ("ingest_m3msg_ingest_success",)),
    Also("ingest_error", ("ingest_m3msg_ingest_error",), drop=("error_type",)),
)
_BEGINS = (
    "fetch_errors", "write_errors", "producer_message_dropped", "ingest_m3msg_errors", "ingest_m3msg_errors_final",
    "ingest_m3msg_consumer_ack_write_error", "ingest_m3msg_consumer_message_decode_error",
    "ingest_m3msg_consumer_message_read_error", "ingest_m3msg_metric_dropped",
    "producer_buffer_byte_dropped", "producer_drop_oldest_async", "producer_drop_oldest_sync",
)  # fmt: skip
"""Shown from the start: a rate of what appears with 1 misses the first time."""


def show_m3_names(registry: Registry, prefix: str) -> None:
    """Adds the names to the page; ``prefix``: that of the service."""
    above = f"{prefix}_" if prefix else ""

    def add(figures: Figures) -> None:
        begin(_BEGINS, above, figures.counters)
        apply(_ALSO, above, figures.counters)
        under(f"{above}ingest_m3msg_consumer_", f"{above}ingest_m3msg_", figures.counters)
        under(f"{above}producer_", f"{above}{_CLIENT}", figures.counters)
        under(f"{above}producer_", f"{above}{_CLIENT}", figures.gauges)
        under(f"{above}producer_", f"{above}{_CLIENT}", figures.histograms)
        under(f"{above}producer_", f"{above}{_CLIENT}", figures.summaries)

    registry.more.append(add)
