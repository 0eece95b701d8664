"""Names of M3's dashboards for what an aggregator counts under other names, or divides in other ways (docs/metrics.md)."""

from collections.abc import Mapping

from m3x.also import Also, apply, begin
from m3x.instrument import Figures, Registry

__all__ = ["ALSO", "BEGINS", "show_m3_names"]

_CLIENT = "client_writer_manager"
_QUEUE = f"{_CLIENT}_writer_queue"
_SERVICE = ("consumer_service_env", "consumer_service_name", "consumer_service_zone", "error_type", "reason", "action")
_FORWARDED = {"writer_type": "forwarded"}
_ROLLUPS: Mapping[str, tuple[str, ...]] = {"output": ("forwarded",)}
_NOT_SENT = ("forwarder_fenced", "forwarder_out_of_term")
_FINAL: Mapping[str, tuple[str, ...]] = {"output": ("final",)}
_ERRORS = ("addUntimed_errors", "addTimed_errors", "addForwarded_errors", "ingest_errors")

ALSO = (
    # The client of M3's older transport; here, as with M3's client of type m3msg, a producer is behind it.
    Also("client_flush_success", ("forwarder_parts",), _ROLLUPS, drop=("output",)),
    Also("client_flush_errors", ("forwarder_parts_lost",), _ROLLUPS, drop=("output",)),
    Also("client_writeForwarded_success", ("forwarder_messages",), _ROLLUPS, drop=("output",)),
    Also("client_writeforwarded_success", ("forwarder_messages",), _ROLLUPS, drop=("output",)),
    Also("client_writeForwarded_errors", ("forwarder_lost",), _ROLLUPS, drop=("output",)),
    Also("client_shard_not_owned", ("client_invalid_shard_write",), drop=("reason",)),
    Also("client_shard_not_writeable", ("client_invalid_write",), drop=_SERVICE),
    Also(f"{_CLIENT}_instances", ("client_instances",), drop=_SERVICE[:3]),
    Also(f"{_CLIENT}_writer_buffers", ("client_message_enqueue",), tags={"action": "enqueued"}, drop=_SERVICE),
    Also(f"{_CLIENT}_writer_buffers", ("client_message_dropped",), tags={"action": "enqueue_error"}, drop=_SERVICE),
    Also(f"{_QUEUE}_connection_errors", ("client_connect_error",), tags={"error_type": "connect"}, drop=_SERVICE),
    Also(f"{_QUEUE}_connection_retries", ("client_connect_retry",), tags={"action": "write"}, drop=_SERVICE),
    Also(f"{_QUEUE}_dropped", ("client_message_dropped",), tags={"action": "enqueue"}, drop=_SERVICE),
    Also(f"{_QUEUE}_errors", ("client_write_error",), tags={"action": "conn_write"}, drop=_SERVICE[:3]),
    Also(f"{_QUEUE}_successes", ("client_write_success",), tags={"action": "conn_write"}, drop=_SERVICE),
    Also(f"{_QUEUE}_successes", ("client_message_enqueue",), tags={"action": "enqueue"}, drop=_SERVICE),
    Also("entry_metadata_updates", ("entry_metadatas_updates",)),
    Also("flush_handler_m3msg_queue_enqueue_successes", ("flush_handler_message_enqueue",), drop=_SERVICE),
    Also("flush_handler_m3msg_queue_enqueue_errors", ("flush_handler_message_dropped",), drop=_SERVICE),
    Also(
        "flush_handler_message_closed", ("flush_handler_message_dropped",),
        {"reason": ("closed", "producer-closed", "instance-away")}, drop=("reason",),
    ),
    # Lists: what all lists of a worker have in common is counted once for all of them.
    Also("list_flush_collected", ("list_flush_elem_collected",)),
    Also("list_flush_discard", ("list_discard_before",)),
    Also("list_flush_discarded", ("list_flush_metric_discarded",), drop=("flush_type",)),
    Also("list_flush_metric_consume_errors", ("forwarder_lost",), _FINAL, {"flush_type": "local"}, ("output",)),
    Also("list_flush_on_consumed_success", ("list_flush_metric_consumed",)),
    Also("list_flush_on_consumed_errors", ("forwarder_lost",), _ROLLUPS, {"flush_type": "forwarded"}, ("output",)),
    Also("list_flush_on_discarded", _NOT_SENT, where=_ROLLUPS, tags={"flush_type": "forwarded"}, drop=("output",)),
    Also("list_flush_writer_flush_success", ("forwarder_parts",), drop=("output",)),
    Also("list_flush_writer_flush_errors", ("forwarder_parts_lost",), drop=("output",)),
    Also("list_writer_encode_errors", ("flush_handler_encode_error",), drop=(*_SERVICE, "backend", "component")),
    Also("list_writer_route_errors", ("flush_handler_invalid_shard_write",), drop=("reason", "backend", "component")),
    Also("list_writer_success", ("forwarder_parts",), _ROLLUPS, {**_FORWARDED, "action": "flush"}, ("output",)),
    Also("list_writer_errors", ("forwarder_parts_lost",), _ROLLUPS, {**_FORWARDED, "action": "flush"}, ("output",)),
    Also("list_writer_prepare", ("forwarder_parts",), _ROLLUPS, {**_FORWARDED, "action": "prepare"}, ("output",)),
    Also("list_writer_aggregations_on_done_write_success", ("forwarder_messages",), _ROLLUPS, _FORWARDED, ("output",)),
    Also("list_writer_aggregations_on_done_write_errors", ("forwarder_lost",), _ROLLUPS, _FORWARDED, ("output",)),
    Also("list_writer_aggregations_on_done_not_write", _NOT_SENT, where=_ROLLUPS, tags=_FORWARDED, drop=("output",)),
    Also("map_dropped_new_metrics", ("map_new_metric_rate_limit_exceeded",)),
    Also("tick_flush_times_errors", ("flush_times_manager_flush_times_unmarshal_errors",)),
)  # fmt: skip
"""Below ``aggregator``."""

_SERVER = (
    Also("rawtcp_server_decode_errors", ("m3msg_server_message_decode_error",), drop=("server",)),
    Also(
        "rawtcp_server_unknown_message_type_errors", tuple(f"aggregator_{name}" for name in _ERRORS),
        {"reason": ("unrecognized-message-type", "decode")}, drop=("reason",),
    ),
    Also(
        "rawtcp_server_unknown_error_type_errors", tuple(f"aggregator_{name}" for name in _ERRORS),
        {"reason": ("not-categorized",)}, drop=("reason",),
    ),
)  # fmt: skip
"""M3 counts these for its raw TCP server; here what came over m3msg counts as well."""

# Go has pools of objects; here rows of tables that were used before and are used again are what comes nearest.
_GAUGES = (
    Also(f"{_QUEUE}_queue_length_sum", ("client_queue_size",), drop=_SERVICE[:3]),
    Also("tick_active_elem", ("tick_active_elems",)),
    Also("entry_pool_total", ("engine_entries_room",)),
    Also("entry_pool_free", ("engine_entries_free",)),
    Also("stream_sample_pool_total", ("engine_log_chunks",)),
    Also("stream_sample_pool_free", ("engine_log_chunks_free",)),
)

BEGINS = (
    "addForwarded_errors", "addTimed_errors", "addUntimed_errors",
    "election_manager_campaign_create_errors", "election_manager_campaign_errors", "election_manager_resign_errors",
    "election_manager_resign_follower_resign", "election_manager_resign_on_close_errors",
    "election_manager_resign_on_close_success", "election_manager_resign_timeout", "election_manager_verify_campaign_disabled",
    "election_manager_verify_leader_errors", "election_manager_verify_leader_not_changed",
    "election_manager_verify_pending_change_stale", "flush_manager_follower_forced_flush",
    "flush_manager_follower_kv_update_flush", "flush_manager_follower_not_campaigning",
    "flush_manager_follower_watch_create_errors", "flush_manager_leader_incomplete_windows",
    "flush_manager_leader_update_flush_times", "flush_times_manager_flush_times_persist_errors",
    "flush_times_manager_flush_times_unmarshal_errors", "forwarder_fenced", "forwarder_lost", "list_discard_before",
    "list_flush_after_bufferend", "list_flush_before_cutover", "list_flush_between_cutoff_bufferend",
    "list_flush_between_cutover_cutoff",
)  # fmt: skip
"""Counters that are shown from the start: a rate of what appears with 1 misses the first time."""


def show_m3_names(registry: Registry, prefix: str) -> None:
    """Adds the names to the page; ``prefix``: that of the service, above ``aggregator``."""
    above = f"{prefix}_" if prefix else ""

    def add(figures: Figures) -> None:
        begin(BEGINS, f"{above}aggregator_", figures.counters)
        apply(ALSO, f"{above}aggregator_", figures.counters)
        apply(_SERVER, above, figures.counters)
        apply(_GAUGES, f"{above}aggregator_", figures.gauges)

    registry.more.append(add)
