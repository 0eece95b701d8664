"""The files that ship, the how-to's sections, and one error line for each problem."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.config import load_coordinator
from m3cluster.kv import Embedded, Etcd
from m3x.config import ConfigError

ROOT = Path(__file__).parents[3]

HOW_TO = """
downsample:
  remoteAggregator:
    client:
      type: m3msg
      m3msg:
        producer:
          writer:
            topicName: aggregator_ingest
            topicServiceOverride: {zone: embedded, environment: namespace/m3db-cluster-name}
            placement: {isStaged: true}
            placementServiceOverride: {namespaces: {placement: /placement}}
            connection: {numConnections: 4}
            messagePool: {size: 16384, watermark: {low: 0.2, high: 0.5}}
ingest:
  ingester:
    workerPoolSize: 10000
    opPool: {size: 10000}
    retry: {maxRetries: 3, jitter: true}
    logSampleRate: 0.01
  m3msg:
    server:
      listenAddress: "0.0.0.0:7507"
      retry: {maxBackoff: 10s, jitter: true}
"""


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_shipped_file_has_the_sections_of_the_how_to() -> None:
    shipped: dict[str, Any] = yaml.safe_load((ROOT / "configs/m3coordinator.yml").read_text())
    for section, content in yaml.safe_load(HOW_TO).items():
        assert shipped[section] == content


@pytest.mark.parametrize("name", ["m3coordinator.yml", "local/m3coordinator.yml"])
def test_shipped_files_load(name: str) -> None:
    config = load_coordinator([ROOT / "configs" / name]).value
    assert config.remote_producer is not None
    assert not config.aggregates_inside
    writer = config.remote_producer.writer
    assert (writer.topic_name, writer.placement.is_staged) == ("aggregator_ingest", True)
    assert writer.placement_service_override.namespaces.placement == "/placement"
    assert [(n.resolution_ns, n.retention_ns) for n in config.namespaces] == [
        (10 * 10**9, 48 * 3600 * 10**9),
        (60 * 10**9, 40 * 86400 * 10**9),
    ]


def test_keys_without_meaning_are_listed(tmp_path: Path) -> None:
    loaded = load_coordinator([_write(tmp_path / "a.yml", HOW_TO)])
    assert "downsample.remoteAggregator.client.m3msg.producer.writer.messagePool" in loaded.meaningless
    assert loaded.value.listen_address == "0.0.0.0:7201"
    assert loaded.value.metrics.prometheus.listen_address == "0.0.0.0:7203"


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("listenAdress: 0.0.0.0:1", "listenAdress", "did you mean 'listenAddress'"),
        ("listenAddress: 7201", "listenAddress", "expected host:port"),
        (
            "ingest: {ingester: {workerPoolSize: 0}, m3msg: {server: {listenAddress: 'a:1'}}}",
            "ingest.ingester",
            "worker pool size too small",
        ),
        (
            "downsample: {remoteAggregator: {client: {type: legacy}}}",
            "downsample.remoteAggregator.client.placementKV",
            "no placement KV config set",
        ),
        (
            "downsample: {remoteAggregator: {client: {placementKV: {namespace: /placement}}}}",
            "downsample.remoteAggregator.client.placementWatcher",
            "no placement watcher config set",
        ),
        (
            "downsample: {remoteAggregator: {client: {type: tcp}}}",
            "downsample.remoteAggregator.client.type",
            "unknown client type",
        ),
        (
            "downsample: {remoteAggregator: {client: {type: m3msg}}}",
            "downsample.remoteAggregator.client",
            "missing m3msg options",
        ),
        ("tagOptions: {idScheme: graphite}", "tagOptions.idScheme", "graphite"),
        (
            "ingest: {noNamespaceGrace: -1s, ingester: {workerPoolSize: 1}, m3msg: {server: {listenAddress: 'a:1'}}}",
            "ingest",
            "noNamespaceGrace must not be negative",
        ),
        (
            "carbon: {ingester: {rules: [{pattern: 5, continue: maybe}]}}",
            "carbon.ingester.rules[0].continue",
            "true or false",
        ),
        (
            "clusters: [{namespaces: [{namespace: a, type: aggregated, retention: 6h}]}]",
            "clusters[0].namespaces[0]",
            "needs a positive resolution",
        ),
        (
            "clusters: [{namespaces: [{namespace: a, retention: soon}]}]",
            "clusters[0].namespaces[0].retention",
            "not a duration",
        ),
        (
            "clusters: [{namespaces: [{namespace: a, retention: 1h}, {namespace: b, retention: 2h}]}]",
            "(top level)",
            "only one unaggregated",
        ),
        ("logging: {level: loud}", "logging", "unknown log level"),
        ("writes: {ack: stored}", "writes.ack", "stored"),
        ("writes: {ackTimeout: 0s}", "writes", "ackTimeout must be positive"),
    ],
)
def test_problems_name_file_path_and_expectation(tmp_path: Path, text: str, path: str, expected: str) -> None:
    file = _write(tmp_path / "bad.yml", text)
    with pytest.raises(ConfigError) as caught:
        load_coordinator([file])
    assert len(caught.value.problems) == 1
    problem = caught.value.problems[0]
    assert problem.startswith(f"{file}:1: {path}: ")
    assert expected in problem


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    file = _write(tmp_path / "bad.yml", "nonsense: 1\nlogging: {level: loud}\ningest: {}\n")
    with pytest.raises(ConfigError) as caught:
        load_coordinator([file])
    assert len(caught.value.problems) == 4


def test_an_embedded_overlay_wins_over_etcd(tmp_path: Path) -> None:
    etcd = _write(
        tmp_path / "etcd.yml",
        "clusterManagement: {etcd: {env: e, zone: z, service: s, etcdClusters: [{zone: z, endpoints: ['a:2379']}]}}",
    )
    config = load_coordinator([etcd]).value
    assert config.unsupported() == []
    assert config.cluster_management.store(tmp_path) == Etcd(("a:2379",), zone="z", service="s")
    overlay = _write(tmp_path / "local.yml", "clusterManagement: {embedded: {path: kv.sqlite}}")
    config = load_coordinator([etcd, overlay]).value
    assert config.cluster_management.store(tmp_path) == Embedded(tmp_path / "kv.sqlite")
    assert (config.cluster_management.environment, config.cluster_management.zone) == ("e", "z")


CLIENT = (
    "{client: {config: {service: {env: e, zone: z, service: m3db, etcdClusters: [{zone: z, endpoints: ['e:2379']}]}}}}"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backend: m3db", "takes a cluster with a client"),
        ("backend: m3db\nclusters: [{namespaces: [{namespace: a, retention: 1h}]}]", "takes a cluster with a client"),
        (f"clusters: [{CLIENT}, {CLIENT}]", "leave one entry"),
        (f"clusters: [{CLIENT}, {{namespaces: [{{namespace: a, retention: 1h}}]}}]", "leave one entry"),
        (f"clusters: [{CLIENT}]\nsinks: [{{type: embedded}}]", "list them under clusters[].namespaces"),
        ("backend: grpc", "set m3db, embedded or prom-remote"),
    ],
)
def test_what_is_not_there_yet_is_refused_with_advice(tmp_path: Path, text: str, expected: str) -> None:
    ((path, why),) = load_coordinator([_write(tmp_path / "a.yml", text)]).value.unsupported()
    problem = f"{path}: {why}"
    assert expected in problem


@pytest.mark.parametrize(
    ("text", "store", "knows"),
    [
        ("", "embedded", True),
        (f"clusters: [{CLIENT}]", "m3db", False),
        (f"backend: m3db\nclusters: [{CLIENT}]", "m3db", False),
        (f"clusters: [{CLIENT[:-1]}, namespaces: [{{namespace: a, retention: 1h}}]}}]", "m3db", True),
        (f"backend: embedded\nclusters: [{CLIENT}]", "embedded", True),
        (f"backend: noop-etcd\nclusters: [{CLIENT}]", "noop-etcd", True),
    ],
)
def test_a_client_means_m3db_unless_another_backend_is_named(
    tmp_path: Path, text: str, store: str, *, knows: bool
) -> None:
    config = load_coordinator([_write(tmp_path / "a.yml", text)]).value
    assert config.unsupported() == []
    assert (config.store, config.knows_namespaces) == (store, knows)
    assert (config.m3db_client is not None) == (store == "m3db")
    in_vain = ["clusters[].client is without effect: that takes backend: m3db, or none"]
    assert config.in_vain == (in_vain if "client" in text and store != "m3db" else [])


@pytest.mark.parametrize(
    ("management", "expected", "is_own"),
    [
        ("", Etcd(("e:2379",), zone="z", service="m3db"), True),
        ("clusterManagement: {embedded: {}}", Embedded("kv.sqlite"), False),
        (
            "clusterManagement: {etcd: {env: f, zone: w, service: s, etcdClusters: [{zone: w, endpoints: ['e:2379']}]}}",
            Etcd(("e:2379",), zone="w", service="s"),
            True,
        ),
        (
            "clusterManagement: {etcd: {env: f, zone: w, service: s, etcdClusters: [{zone: w, endpoints: ['f:2379']}]}}",
            Etcd(("f:2379",), zone="w", service="s"),
            False,
        ),
    ],
)
def test_the_kv_is_that_of_the_nodes_where_no_other_is_named(
    tmp_path: Path, management: str, expected: Any, *, is_own: bool
) -> None:
    config = load_coordinator([_write(tmp_path / "a.yml", f"clusters: [{CLIENT}]\n{management}")]).value
    found = config.cluster_state.store(None)
    assert found == (Embedded(Path("kv.sqlite")) if isinstance(expected, Embedded) else expected)
    client = config.m3db_client
    assert client is not None
    assert client.config.service is not None
    assert config.is_own_etcd(client.config.service) == is_own
    assert config.cluster_state.environment == (
        "e" if not management else "default_env" if "embedded" in management else "f"
    )


REMOTE = """
backend: prom-remote
prometheusRemoteBackend:
  endpoints: [{{name: a, address: 'http://h/w', storagePolicy: {{resolution: 10s, retention: 48h}}, queue: {{{queue}}}}}]
sinks: [{sinks}]
"""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (REMOTE.format(queue="maxBytes: -5", sinks=""), "queue of sink a: maxBytes must be at least 8388608, found -5"),
        (
            REMOTE.format(queue="windowBytes: 1", sinks=""),
            "queue of sink a: segmentBytes and windowBytes must be at least",
        ),
        (
            REMOTE.format(queue="", sinks="{type: file, path: '-', queue: {syncInterval: 0s}}"),
            "queue of sink file: syncInterval must be positive",
        ),
        (
            REMOTE.format(queue="", sinks="{type: file, path: '-', policies: ['1m:40d']}"),
            "sinks: file: no namespace has the policy 1m:40d",
        ),
        (REMOTE.format(queue="", sinks="{type: file, path: '-', name: a}"), "the name 'a' is taken twice"),
        ("backend: embedded\nsinks: [{type: embedded, name: again}]", "there is one embedded store only"),
    ],
)
def test_sinks_that_cannot_be(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "coordinator.yml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_coordinator([file])
    assert len(raised.value.problems) == 1
    assert problem in raised.value.problems[0]
