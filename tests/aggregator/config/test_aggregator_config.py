"""Sections, defaults and derived figures of the aggregator's YAML."""

from pathlib import Path

import pytest

from aggregator.config import (
    FlushManagerConfig,
    JitterBucket,
    engine_options,
    entry_check_interval_ns,
    flush_jitters,
    instance_id,
    kv_keys,
    load_config,
    new_metric_limit,
)
from m3x.config import ConfigError, Duration

ROOT = Path(__file__).resolve().parents[3]
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
MINIMAL = "kvClient: {embedded: {path: kv.sqlite}}\n"
HANDLERS = "flush: {handlers: [{staticBackend: {type: blackhole}}]}"


def load_text(tmp_path: Path, *texts: str, environ: dict[str, str] | None = None):
    files = []
    for i, text in enumerate(texts):
        path = tmp_path / f"{i}.yml"
        path.write_text(text)
        files.append(path)
    return load_config(files, environ or {}).value


def problems(tmp_path: Path, *texts: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, *texts)
    return caught.value.problems


def options_of(config):
    return engine_options(config, num_shards=64, topic_shards=32, replica_factor=2, workers=2)


def test_the_documented_file_loads_unchanged() -> None:
    loaded = load_config([ROOT / "configs/m3aggregator.yml"], {})
    config = loaded.value
    assert config.server.server.listen_address == "0.0.0.0:6000"
    assert config.http.listen_address == "0.0.0.0:6001"
    assert config.metrics.prometheus is not None
    assert config.metrics.prometheus.listen_address == "0.0.0.0:6002"
    options = options_of(config)
    assert (options.counter_prefix, options.timer_transform, options.gauge_transform) == ("", "suffix", "empty")
    assert options.buffer_past_ns == MINUTE
    assert options.buffer_future_ns == 10 * MINUTE
    assert options.buffer_after_cutoff_ns == 10 * MINUTE
    assert options.forwarding_max_const_delay_ns == 5 * MINUTE
    assert options.flush_jitters == flush_jitters(config.aggregator.flush_manager) != ()
    assert options.forwarding_delay_ns(10 * SECOND, 2) == 5 * MINUTE + 20 * SECOND
    assert options.max_timer_batch_size_per_write == 140
    assert (options.num_shards, options.topic_shards) == (64, 32)
    assert config.aggregator.election_manager.election.ttl_s == 10
    assert config.aggregator.flush_manager.jitter_enabled
    assert "aggregator.entryPool" in loaded.meaningless
    assert instance_id(config.aggregator, "0.0.0.0:6000", {"M3AGGREGATOR_HOST_ID": "m3aggregator01:6000"}) == (
        "m3aggregator01:6000"
    )


def test_keys_of_the_documented_file() -> None:
    keys = kv_keys(load_config([ROOT / "configs/m3aggregator.yml"], {}).value)
    assert keys.placement == "/placement/namespace/m3db-cluster-name/m3aggregator"
    assert keys.flush_times(1) == "_kv/namespace/m3db-cluster-name/shardset/1/flush"
    assert keys.election(1) == "_ld/namespace/m3db-cluster-name/m3aggregator/shardset/1/lock"
    assert keys.values_limit == "_kv/namespace/m3db-cluster-name/write-values-per-metric-limit-per-second"


def test_the_local_file_is_on_loopback_with_the_embedded_store() -> None:
    config = load_config([ROOT / "configs/local/m3aggregator.yml"], {}).value
    assert config.kv_client.etcd is None
    assert config.kv_client.embedded is not None
    addresses = [config.server.server.listen_address, config.http.listen_address]
    assert addresses == ["127.0.0.1:6000", "127.0.0.1:6001"]
    assert instance_id(config.aggregator, addresses[0], {}) == "m3aggregator-local"
    assert options_of(config).buffer_past_ns == 5 * SECOND
    assert not config.aggregator.flush_manager.jitter_enabled
    documented = kv_keys(load_config([ROOT / "configs/m3aggregator.yml"], {}).value)
    assert kv_keys(config) == documented


def test_absent_sections_have_the_service_defaults(tmp_path: Path) -> None:
    config = load_text(tmp_path, MINIMAL)
    options = options_of(config)
    assert (options.buffer_past_ns, options.buffer_future_ns) == (10 * MINUTE, 10 * MINUTE)
    assert options.buffer_after_cutoff_ns == 10 * MINUTE
    assert options.counter_prefix == ""
    assert entry_check_interval_ns(config) == 10 * MINUTE
    assert config.http.read_timeout == Duration(60 * SECOND)
    assert config.metrics.prometheus is not None
    assert config.metrics.prometheus.listen_address == "0.0.0.0:6002"
    assert config.server.server.listen_address == "0.0.0.0:6000"
    assert instance_id(config.aggregator, "0.0.0.0:6000", {}) == "m3aggregator_local"
    assert config.aggregator.flush.handlers[0].dynamic_backend is not None


def test_present_sections_have_the_code_defaults(tmp_path: Path) -> None:
    config = load_text(tmp_path, MINIMAL + "http: {listenAddress: '127.0.0.1:1'}\naggregator: {" + HANDLERS + "}\n")
    options = options_of(config)
    assert (options.buffer_past_ns, options.buffer_future_ns) == (MINUTE, MINUTE)
    assert options.buffer_after_cutoff_ns == 60 * MINUTE
    assert options.counter_prefix == "stats.counts."
    assert options.gauge_transform == "noop"
    assert entry_check_interval_ns(config) == 60 * MINUTE
    assert config.http.read_timeout == Duration(10 * SECOND)
    assert config.aggregator.instance_id.type == "host_id_port"
    assert config.aggregator.election_manager.election.ttl_s == 60


def test_explicitly_empty_prefixes_stay_empty(tmp_path: Path) -> None:
    text = MINIMAL + 'aggregator: {metricPrefix: "", timerPrefix: "t.", ' + HANDLERS + "}\n"
    options = options_of(load_text(tmp_path, text))
    assert (options.counter_prefix, options.timer_prefix) == ("counts.", "t.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http: {listenAddress: '127.0.0.1:1'}\n", "kvClient: this key is required and missing"),
        ("kvClient: {}\n", "one of etcd, zookeeper and embedded is needed"),
        (MINIMAL + "rawtcp: {listenAddress: nowhere}\n", "'nowhere' is not an address"),
        (
            MINIMAL + "rawtcp: {listenAddress: ':1', protobufIterator: {maxMessageSize: 0}}\n",
            "maxMessageSize must be above 0",
        ),
        (MINIMAL + "m3msg: {server: {listenAddress: ':1'}}\nrawtcp: {listenAddress: ':1'}\n", "rawtcp.listenAddress"),
        (MINIMAL + "m3msg: {server: {listenAddress: nowhere}}\n", "'nowhere' is not an address"),
        (MINIMAL + "aggregator: {flush: {handlers: []}}\n", "no handler configuration"),
        (MINIMAL + "aggregator: {flush: {handlers: [{}]}}\n", "neither dynamic nor static backend was configured"),
        (MINIMAL + "aggregator: {" + HANDLERS + ", flushmanager: {}}\n", "did you mean 'flushManager'?"),
        (MINIMAL + "aggregator: {" + HANDLERS + ", electionManager: {electionKeyFmt: lock}}\n", "must contain %d once"),
        (MINIMAL + "aggregator: {" + HANDLERS + ", defaultStoragePolicies: [10x]}\n", "defaultStoragePolicies[0]"),
        (
            MINIMAL
            + "aggregator: {"
            + HANDLERS
            + ", aggregationTypes: {defaultCounterAggregationTypes: [Sum, P99]}}\n",
            "defaultCounterAggregationTypes[1]: P99 is not possible for this metric type",
        ),
        (MINIMAL + "instance: {workers: -1}\n", "instance: workers must not be negative"),
        (
            MINIMAL + "aggregator: {" + HANDLERS + ", entryTTL: -1s, bufferDurationForPastTimedMetric: -1s}\n",
            "aggregator: bufferDurationForPastTimedMetric, entryTTL must not be negative",
        ),
    ],
)
def test_problems_name_the_place_and_what_was_expected(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in line for line in problems(tmp_path, text)), problems(tmp_path, text)


def test_a_zone_that_is_not_that_of_etcd_is_named(tmp_path: Path) -> None:
    etcd = "kvClient: {etcd: {service: s, zone: embedded, etcdClusters: [{endpoints: ['a:1']}]}}\n"
    other = "runtimeOptions: {kvConfig: {zone: z2}}\n"
    (problem,) = problems(tmp_path, etcd + other)
    assert problem.endswith(
        "runtimeOptions.kvConfig.zone: an instance uses the etcd of one zone, that of kvClient (embedded); found z2"
    )
    assert load_text(tmp_path, MINIMAL + other).runtime_options.kv_config.zone == "z2"


def test_an_overlay_changes_only_what_it_names(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yml"
    overlay.write_text("kvClient: {embedded: {path: /kv}}\naggregator: {flushManager: {jitterEnabled: false}}\n")
    config = load_config([ROOT / "configs/m3aggregator.yml", overlay], {}).value
    assert config.kv_client.embedded is not None
    assert config.kv_client.environment == "namespace/m3db-cluster-name"
    assert not config.aggregator.flush_manager.jitter_enabled
    assert config.aggregator.flush_manager.max_buffer_size == Duration(5 * MINUTE)


def test_jitters_in_order_of_interval_and_none_when_it_is_off() -> None:
    buckets = [
        JitterBucket(flush_interval=Duration(10 * MINUTE), max_jitter_percent=0.5),
        JitterBucket(flush_interval=Duration(MINUTE), max_jitter_percent=1.0),
    ]
    assert flush_jitters(FlushManagerConfig(max_jitters=buckets)) == ((MINUTE, 1.0), (10 * MINUTE, 0.5))
    assert len(flush_jitters(FlushManagerConfig())) == 5
    assert flush_jitters(FlushManagerConfig(jitter_enabled=False, max_jitters=buckets)) == ()


@pytest.mark.parametrize(
    ("limit", "shards", "replicas", "per_shard"), [(32, 4, 2, 4), (128, 4, 2, 16), (0, 4, 2, 0), (5, 0, 1, 5)]
)
def test_cluster_limit_per_shard(limit: int, shards: int, replicas: int, per_shard: int) -> None:
    assert new_metric_limit(limit, shards, replicas) == per_shard


def test_host_ids(tmp_path: Path) -> None:
    section = "aggregator: {" + HANDLERS + ", hostID: %s, instanceID: {type: %s}}\n"
    name_file = tmp_path / "id"
    name_file.write_text(" from-file\n")
    cases = [
        ("{resolver: config, value: a}", "host_id_port", "a:6000"),
        ("{resolver: environment, envVarName: ID}", "host_id", "from-env"),
        (f"{{resolver: file, file: {{path: {name_file}}}}}", "host_id", "from-file"),
        ("{resolver: hostname, hostname: {format: 'x-{{.Hostname}}'}}", "host_id", None),
    ]
    for host, kind, expected in cases:
        config = load_text(tmp_path, MINIMAL + section % (host, kind))
        found = instance_id(config.aggregator, "0.0.0.0:6000", {"ID": "from-env"})
        assert found == expected if expected else found.startswith("x-")


def test_a_host_id_that_is_not_set_says_which_variable(tmp_path: Path) -> None:
    text = MINIMAL + "aggregator: {" + HANDLERS + ", hostID: {resolver: environment, envVarName: WHO}}\n"
    config = load_text(tmp_path, text)
    with pytest.raises(ConfigError, match="WHO is not set"):
        instance_id(config.aggregator, "0.0.0.0:6000", {})
