"""The metric names that M3's own dashboards ask m3aggregator and m3coordinator for: ours to compare with, by name (docs/metrics.md).

A pattern over variables of a dashboard is one name here, in the form of what it expands to; alternatives that are written out are one each.
"""

import re
from pathlib import Path
from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


AGGREGATOR = _words("""
addForwarded_errors addForwarded_success addForwarded_success_latency_bucket addTimed_errors addTimed_success
addTimed_success_latency_bucket addUntimed_errors addUntimed_success addUntimed_success_latency_bucket
client_flush_errors client_flush_success client_flush_success_latency client_shard_not_owned
client_shard_not_writeable client_writeForwarded_errors client_writeForwarded_success
client_writeForwarded_success_latency client_writeUntimed.*_errors client_writeUntimed.*_success
client_writeUntimed.*_success_latency client_writeforwarded_success client_writer_manager_instances
client_writer_manager_writer_buffers client_writer_manager_writer_queue_connection_errors
client_writer_manager_writer_queue_connection_retries client_writer_manager_writer_queue_dropped
client_writer_manager_writer_queue_errors client_writer_manager_writer_queue_queue_length_sum
client_writer_manager_writer_queue_successes counters election_manager_campaign_check_.*
election_manager_campaign_create_errors election_manager_campaign_errors election_manager_campaign_state
election_manager_campaign_unknown-state election_manager_campaigning election_manager_election_state
election_manager_resign_errors election_manager_resign_follower_resign election_manager_resign_on_close
election_manager_resign_on_close_errors election_manager_resign_on_close_success election_manager_resign_timeout
election_manager_verify_campaign_disabled election_manager_verify_leader_errors
election_manager_verify_leader_not_changed election_manager_verify_pending_change_stale entry_arrived_too_late
entry_dropped_values entry_duplicate_sources entry_empty_metadatas entry_empty_pipeline entry_metadata_updates
entry_no_aggregation_in_pipeline entry_no_applicable_metadata entry_no_pipelines_in_metadata entry_stale_metadata
entry_tombstoned_metadata entry_value_rate_limit_exceeded flush_handler_ack_error flush_handler_buffer_byte_dropped
flush_handler_buffer_message_dropped flush_handler_buffer_scan_batch_bucket flush_handler_byte_buffered
flush_handler_decode_error flush_handler_drop_oldest_async flush_handler_drop_oldest_sync flush_handler_encode_error
flush_handler_m3msg_queue_enqueue_errors flush_handler_m3msg_queue_enqueue_successes flush_handler_message_acked
flush_handler_message_buffered flush_handler_message_closed flush_handler_message_consume_latency_bucket
flush_handler_message_dropped flush_handler_message_retry flush_handler_placement_error flush_handler_placement_update
flush_handler_queue_size flush_handler_read_invalid_conn flush_handler_reset_error flush_handler_reset_success
flush_handler_reset_too_soon flush_handler_scan_total_latency_bucket flush_handler_topic_update_success
flush_handler_write_error flush_handler_write_invalid_conn flush_handler_write_success flush_handler_(pools)
flush_manager_bucket_duration_bucket flush_manager_follower_flush_windows_not_ended
flush_manager_follower_forced_flush flush_manager_follower_kv_update_flush flush_manager_follower_kv_updates
flush_manager_follower_nil_forwarded_times flush_manager_follower_not_campaigning
flush_manager_follower_num_forwarded_times_not_found flush_manager_follower_resolution_not_found
flush_manager_follower_shard_not_found flush_manager_follower_watch_create_errors flush_manager_leader_queue_size
flush_manager_leader_update_flush_times flush_times_manager_flush_times_persist_error_latency_bucket
flush_times_manager_flush_times_persist_errors flush_times_manager_flush_times_persist_success
flush_times_manager_flush_times_persist_success_latency_bucket flush_times_manager_flush_times_unmarshal_errors
forwarded gauges list_discard_before list_flush_after_bufferend list_flush_before_cutover
list_flush_before_duration_bucket list_flush_before_stale list_flush_between_cutoff_bufferend
list_flush_between_cutover_cutoff list_flush_collected list_flush_discard list_flush_discarded
list_flush_duration_bucket list_flush_elem_collected list_flush_metric_consume_errors
list_flush_metric_consume_success list_flush_metric_discarded list_flush_on_consumed_.* list_flush_on_discarded
list_flush_writer_flush_errors list_flush_writer_flush_success list_writer_aggregations_added
list_writer_aggregations_on_done_not_write list_writer_aggregations_on_done_unexpected_refcnt
list_writer_aggregations_on_done_write_errors list_writer_aggregations_on_done_write_success
list_writer_aggregations_removed list_writer_encode_errors list_writer_encode_success list_writer_errors
list_writer_prepare list_writer_route_errors list_writer_route_success list_writer_success map_dropped_new_metrics
map_new_entries map_new_metric_rate_limit_exceeded map_no_rate_limit_warmup (pools) placement_.* placement_manager_.*
shard_set_id_changed shard_set_id_open shard_set_id_same shards_add shards_close shards_owned shards_pending_close
stream_(pools) tick_active_elem tick_active_entries tick_duration_bucket tick_expired_entries tick_flush_times_errors
tick_shard_check_.* timed timer_batches timers
""")
"""Below ``m3aggregator_aggregator_``. ``(pools)``: thirteen pools of Go objects times what four figures say of each."""
SERVICE = _words("""
rawtcp_server_decode_errors rawtcp_server_unknown_error_type_errors rawtcp_server_unknown_message_type_errors
rawtcp_server_(pools) runtime_memory_gc_pause_ms runtime_memory_num_gc runtime_num_goroutines
""")
"""Below ``m3aggregator_``."""
COORDINATOR = _words("""
downsampler_remote_aggregator_client_buffer_byte_dropped downsampler_remote_aggregator_client_byte_buffered
downsampler_remote_aggregator_client_drop_oldest_async downsampler_remote_aggregator_client_drop_oldest_sync
downsampler_remote_aggregator_client_message_buffered downsampler_remote_aggregator_client_message_dropped
downsampler_remote_aggregator_client_message_write_delay downsampler_remote_aggregator_client_queue_size fetch_errors
fetch_success fetch_success_latency ingest_error ingest_latency_bucket ingest_m3msg_ack_encode_error
ingest_m3msg_ack_sent ingest_m3msg_ack_write_error ingest_m3msg_errors ingest_m3msg_errors_final
ingest_m3msg_message_decode_error ingest_m3msg_message_read_error ingest_m3msg_metric_accepted
ingest_m3msg_metric_dropped ingest_success m3db_client_write_success max_datapoints write_errors write_success
""")
"""Below ``coordinator_``."""
PROCESS = ["process_cpu_seconds_total", "process_num_fds"]
NAMES: tuple[str, ...] = (
    *(f"m3aggregator_aggregator_{name}" for name in AGGREGATOR),
    *(f"m3aggregator_{name}" for name in SERVICE),
    *(f"coordinator_{name}" for name in COORDINATOR),
    *PROCESS,
)
DOCS = Path(__file__).resolve().parents[1] / "docs/metrics.md"
_HEADING = re.compile(r"^### (\S+_)$")


class Row(NamedTuple):
    """What docs/metrics.md says of one name."""

    name: str
    labels: tuple[str, ...]
    served: bool
    test: str
    """The file that makes it move, below ``tests``."""


def rows() -> list[Row]:
    """The tables of docs/metrics.md that are about M3's dashboards."""
    prefix, found = "", []
    for line in DOCS.read_text().partition("## M3's dashboards")[2].splitlines():
        if line.startswith("### "):
            heading = _HEADING.match(line)
            prefix = heading[1] if heading else ""
        elif line.startswith("| `"):
            name, labels, served, test = (cell.strip() for cell in line.strip("|").split(" | "))
            told = tuple(label.strip() for label in labels.split(",") if label.strip())
            found.append(Row(prefix + name.strip("`"), told, served.startswith("yes"), test.strip(" |")))
    return found


def own() -> dict[str, str]:
    """The table of docs/metrics.md of what M3 does not have: name → the test that finds it, below ``tests``."""
    text = DOCS.read_text().partition("## M3's dashboards")[0]
    cells = (
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line.startswith("| `")
    )
    return {name.strip("`"): test for name, *_, test in cells}


def pattern(name: str) -> re.Pattern[str]:
    """What matches the served names behind one name of a dashboard."""
    pools = "(sample_pool|entry_pool)_(total|free)"
    return re.compile(name.replace("(pools)", pools) + ("(_count)?" if name.endswith("latency") else ""))
