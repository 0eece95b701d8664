"""The configuration that the aggregator inside is given is one that aggregators take, and says what the coordinator's file says."""

import json
import tempfile
from pathlib import Path

import pytest

from aggregator.config import ServiceConfig, engine_options, kv_keys, load_config
from aggregator.supervisor.flushing.timing import schedule_options
from coordinator.child.settings import INGEST_TOPIC, INSTANCE_ID, Places, document, producer_options
from coordinator.config import load_coordinator
from coordinator.config.memory import memory_shares

S = 1_000_000_000
RUN = Path(tempfile.gettempdir()) / "m3coord-12345678"
BASE = "clusters: [{namespaces: [{namespace: n, type: aggregated, resolution: 10s, retention: 48h}]}]\n"


def made(folder: Path, text: str = "") -> ServiceConfig:
    path = folder / "m3coordinator.yml"
    path.write_text(BASE + text)
    config = load_coordinator([path]).value
    places = Places(RUN, folder / "data")
    file = folder / "m3aggregator.yml"
    file.write_text(json.dumps(document(config, places, config.memory_shares)))
    return load_config([file]).value


def test_defaults_are_those_of_the_aggregator_inside_m3(tmp_path: Path) -> None:
    config = made(tmp_path)
    found = engine_options(config, num_shards=64, topic_shards=64, replica_factor=1, workers=2)
    assert (found.counter_transform, found.timer_transform, found.gauge_transform) == ("empty", "suffix", "empty")
    assert (found.counter_prefix, found.timer_prefix, found.gauge_prefix) == ("", "", "")
    assert found.default_storage_policies == ()
    assert found.entry_ttl_ns == 3600 * S
    assert found.discard_nan
    assert found.flush_jitters == ()
    assert config.m3msg is not None
    assert config.m3msg.server.listen_address == f"unix:{RUN}/samples"
    assert config.http.listen_address == f"unix:{RUN}/pages"
    assert kv_keys(config).placement == "/placement/default_env/m3aggregator"
    assert config.aggregator.host_id.value == INSTANCE_ID


@pytest.mark.parametrize(("resolution_s", "past_s"), [(5, 15), (30, 30), (60, 60), (300, 120)])
def test_windows_are_flushed_a_second_after_the_past_buffer(tmp_path: Path, resolution_s: int, past_s: int) -> None:
    config = made(tmp_path)
    timing = schedule_options(config)
    assert timing.timed_delay_ns(resolution_s * S) == (past_s + 1) * S
    assert timing.forwarding_delay_ns(resolution_s * S, 2) == (past_s + 1 + 2 * resolution_s) * S
    # What the door has let in, and came late, is taken as long as its window is open.
    engine = engine_options(config, num_shards=64, topic_shards=64, replica_factor=1, workers=2)
    assert engine.timing.timed_limit_ns(resolution_s * S) > timing.timed_delay_ns(resolution_s * S)
    assert engine.forwarding_delay_ns(resolution_s * S, 2) == timing.forwarding_delay_ns(resolution_s * S, 2)


def test_options_of_downsample_are_in_effect(tmp_path: Path) -> None:
    config = made(
        tmp_path,
        "downsample:\n"
        "  entryTTL: 90m\n"
        "  bufferPastLimits: [{resolution: 0s, bufferPast: 3s}, {resolution: 10s, bufferPast: 8s}]\n"
        "  aggregationTypes: {defaultGaugeAggregationTypes: [Max], timerTransformFnType: suffix}\n",
    )
    found = engine_options(config, num_shards=64, topic_shards=64, replica_factor=1, workers=2)
    assert found.entry_ttl_ns == 5400 * S
    assert found.default_gauge_types == ("Max",)
    assert (found.counter_transform, found.timer_transform, found.gauge_transform) == ("noop", "suffix", "noop")
    delays = schedule_options(config)
    assert [delays.timed_delay_ns(r * S) // S for r in (5, 10)] == [4, 9]


def test_memory_is_shared_out(tmp_path: Path) -> None:
    config = made(tmp_path, "embeddedAggregator: {memoryLimitBytes: 1073741824, workers: 3, journalSync: always}\n")
    assert config.instance.memory_limit_bytes == memory_shares(1 << 30, 1, inside=True).windows
    assert (config.instance.workers, config.instance.journal_sync) == (3, "always")


def test_the_way_there() -> None:
    found = producer_options(memory_shares(1 << 30, 1, inside=True))
    assert found.writer.topic_key("default_env") == f"/topic/default_env/{INGEST_TOPIC}"
    assert found.buffer.max_buffer_size == (1 << 30) // 16
    assert found.buffer.on_full_strategy == "returnError"
    assert producer_options(memory_shares(64 << 30, 1, inside=True)).buffer.max_buffer_size == 100 << 20
