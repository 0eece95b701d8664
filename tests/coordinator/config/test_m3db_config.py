"""``clusters[].client``: M3's keys, its defaults, and one line with its text for what cannot be."""

from pathlib import Path
from typing import Any

import pytest

from coordinator.config import load_coordinator
from coordinator.config.m3db import DynamicClusterConfig, M3DBClientConfig, StaticClusterConfig
from m3cluster.kv import Etcd
from m3db.consistency import ConnectLevel, CopyRules, ReadLevel, WriteLevel
from m3db.options import SessionOptions
from m3db.topology import Host
from m3x.config import ConfigError, Loaded

SERVICE = "service: {env: prod, zone: z, service: m3db, etcdClusters: [{zone: z, endpoints: ['e:2379']}]}"
STATIC = "topology: {shards: 4, replicas: 2, hosts: [{hostID: a, listenAddress: 'a:9000'}, {hostID: b, listenAddress: 'b:9000'}]}"

EVERY_KEY = """
writeConsistencyLevel: one
readConsistencyLevel: all
connectConsistencyLevel: none
writeTimeout: 3s
fetchTimeout: 4s
connectTimeout: 5s
writeRetry: {initialBackoff: 1ms, backoffFactor: 4, maxRetries: 9, jitter: false}
fetchRetry: {forever: true}
logErrorSampleRate: 0.5
logHostWriteErrorSampleRate: 0.25
logHostFetchErrorSampleRate: 1
backgroundHealthCheckFailLimit: 2
backgroundHealthCheckFailThrottleFactor: 0.75
hashing: {seed: 42}
proto: {enabled: false, schema_registry: {ns: {messageName: m, schemaDeployID: d, schemaFilePath: f}}}
asyncWriteWorkerPoolSize: 16
asyncWriteMaxConcurrency: 8
useV2BatchAPIs: true
writeTimestampOffset: 15s
writeShardsInitializing: false
shardsLeavingCountTowardsConsistency: true
shardsLeavingAndInitializingCountTowardsConsistency: false
iterateEqualTimestampStrategy: iterate_highest_value
circuitBreakerConfig: {circuitBreakerConfig: {windowSize: 3}}
fetchSeriesBlocksBatchConcurrency: 1
fetchSeriesBlocksBatchSize: 2
"""


def load(tmp_path: Path, config: str, more: str = "", namespaces: str = "") -> Loaded[Any]:
    """A file with one cluster; ``more`` are keys of its client, a line each."""
    file = tmp_path / "coordinator.yml"
    lines = "".join(f"\n      {line}" for line in more.strip().splitlines())
    file.write_text(f"clusters:\n  - namespaces: [{namespaces}]\n    client:\n      config: {{{config}}}{lines}\n")
    return load_coordinator([file])


def client_of(tmp_path: Path, *texts: str) -> M3DBClientConfig:
    (cluster,) = load(tmp_path, *texts).value.clusters
    assert cluster.client is not None
    return cluster.client


def test_defaults(tmp_path: Path) -> None:
    client = client_of(tmp_path, SERVICE)
    assert client.session_options() == SessionOptions()
    cluster = client.config.synchronous
    assert isinstance(cluster, DynamicClusterConfig)
    assert (cluster.environment, cluster.zone, cluster.service.service) == ("prod", "z", "m3db")
    assert cluster.service.client() == Etcd(("e:2379",), zone="z", service="m3db")


def test_every_key(tmp_path: Path) -> None:
    loaded = load(tmp_path, SERVICE, EVERY_KEY)
    options = loaded.value.clusters[0].client.session_options()
    assert options.rules == CopyRules(WriteLevel.ONE, write_initializing=False, leaving_counts=True)
    assert (options.read_level, options.connect_level) == (ReadLevel.ALL, ConnectLevel.NONE)
    assert (options.write_timeout_s, options.connect_timeout_s) == (3.0, 5.0)
    assert [options.write_retry.delay_s(retry) for retry in (1, 2, 9, 10)] == [0.001, 0.004, 0.001 * 4**8, None]
    delay_s = options.fetch_retry.delay_s(100)
    assert delay_s is not None
    assert delay_s >= 1
    assert (options.host.health_fail_limit, options.host.health_pause_s) == (2, 3.75)
    assert (options.hash_seed, options.write_timestamp_offset_ns) == (42, 15 * 10**9)
    assert options.equal_timestamps == "iterate_highest_value"
    assert sorted(loaded.meaningless) == [
        f"clusters[0].client.{key}"
        for key in (
            "circuitBreakerConfig", "fetchSeriesBlocksBatchConcurrency", "fetchSeriesBlocksBatchSize", "useV2BatchAPIs",
        )
    ]  # fmt: skip


def test_a_retry_block_leaves_what_it_does_not_name_to_the_general_defaults(tmp_path: Path) -> None:
    options = client_of(tmp_path, SERVICE, "writeRetry: {jitter: false}\nfetchRetry: {jitter: false}").session_options()
    for retry in (options.write_retry, options.fetch_retry):
        assert [retry.delay_s(number) for number in (1, 2, 3)] == [1.0, 2.0, None]


def test_static(tmp_path: Path) -> None:
    (cluster,) = load(
        tmp_path, f"static: {{{STATIC}}}", "hashing: {seed: 7}", "{namespace: default, retention: 48h}"
    ).value.clusters
    config = cluster.client.config.synchronous
    assert isinstance(config, StaticClusterConfig)
    found = config.topology.found
    assert found.hosts == (Host("a", "a:9000"), Host("b", "b:9000"))
    assert (found.num_shards, found.replicas) == (4, 2)
    assert cluster.client.session_options().hash_seed == 0


def test_a_list_of_one_cluster(tmp_path: Path) -> None:
    config = client_of(tmp_path, f"services: [{{async: false, {SERVICE}}}]").config
    assert config.synchronous is config.services[0]


@pytest.mark.parametrize(
    ("config", "more", "problem"),
    [
        ("", "", "must supply either service or static config"),
        (f"{SERVICE}, static: {{{STATIC}}}", "", "must supply either service or static config"),
        (f"services: [{{async: true, {SERVICE}}}]", "", "must supply exactly one synchronous cluster"),
        (f"services: [{{{SERVICE}}}, {{{SERVICE}}}]", "", "must supply exactly one synchronous cluster"),
        (f"services: [{{async: true, {SERVICE}}}, {{{SERVICE}}}]", "", "(async: true) are not supported"),
        (
            f"services: [{{{SERVICE}, clientOverrides: {{targetHostQueueFlushSize: 1}}}}]", "",
            "target host queue flush size must be larger than zero but was: 1",
        ),
        (
            f"services: [{{{SERVICE}, clientOverrides: {{hostQueueFlushInterval: -5ms}}}}]", "",
            "host queue flush interval must be larger than zero but was: -5ms",
        ),
        ("static: {topology: {shards: 4, replicas: 2, hosts: [{hostID: a, listenAddress: 'a:1'}]}}", "", "number of hosts must be >=RF"),
        ("static: {topology: {shards: 4, hosts: []}}", "", "number of hosts, shards, and RF must be positive"),
        (f"static: {{{STATIC}}}", "", "list them under namespaces"),
        (SERVICE, "writeTimeout: -1s", "m3db client writeTimeout was: -1000000000 but must be >= 0"),
        (SERVICE, "writeTimeout: 0s", "writeTimeout must be more than 0"),
        (SERVICE, "fetchTimeout: -1s", "m3db client fetchTimeout was: -1000000000 but must be >= 0"),
        (SERVICE, "connectTimeout: -1s", "m3db client connectTimeout was: -1000000000 but must be >= 0"),
        (SERVICE, "logErrorSampleRate: 1.5", "invalid sample rate: actual=1.500000, valid=[0.0,1.0]"),
        (
            SERVICE, "backgroundHealthCheckFailLimit: 11",
            "m3db client backgroundHealthCheckFailLimit was: 11 but must be >= 0 and <=10",
        ),
        (
            SERVICE, "backgroundHealthCheckFailThrottleFactor: -0.5",
            "m3db client backgroundHealthCheckFailThrottleFactor was: -0.500000 but must be >= 0 and <=10",
        ),
        (SERVICE, "asyncWriteWorkerPoolSize: 0", "m3db client async write worker pool size was: 0 but must be >0"),
        (SERVICE, "asyncWriteMaxConcurrency: -1", "m3db client async write max concurrency was: -1 but must be >0"),
        (
            SERVICE, "shardsLeavingCountTowardsConsistency: true\nshardsLeavingAndInitializingCountTowardsConsistency: true",
            "m3db client cannot have both shardsLeavingCountTowardsConsistency and "
            "shardsLeavingAndInitializingCountTowardsConsistency as true",
        ),
        (
            SERVICE, "writeConsistencyLevel: most",
            "invalid ConsistencyLevel 'most' valid types are: 'none', 'one', 'majority', 'all'",
        ),
        (
            SERVICE, "readConsistencyLevel: most",
            "invalid ReadConsistencyLevel 'most' valid types are: 'none', 'one', 'unstrict_majority', 'majority', "
            "'unstrict_all', 'all'",
        ),
        (SERVICE, "connectConsistencyLevel: ''", "consistency level not specified"),
        (SERVICE, "hashing: {seed: -1}", "seed must be a number of 32 bits"),
        (SERVICE, "proto: {enabled: true}", "typed values (proto) are not supported"),
        (SERVICE, "useV2BatchApis: true", "unknown key; did you mean 'useV2BatchAPIs'?"),
    ],
)  # fmt: skip
def test_what_cannot_be(tmp_path: Path, config: str, more: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, config, more)
    (line,) = raised.value.problems
    assert problem in line
