"""M3's YAML of an etcd cluster as options of the client."""

from pathlib import Path

import pytest

from m3cluster.kv import Embedded, Etcd, EtcdTLS, ZooKeeper
from m3cluster.kv.sections import StoreSection
from m3x.config import ConfigError, Section, load

FULL = """
store:
  etcd:
    zone: z1
    env: my/env
    service: m3aggregator
    cacheDir: /var/lib/m3kv
    etcdClusters:
      - zone: other
        endpoints: [far:2379]
      - zone: z1
        endpoints: [one:2379, two:2379]
        keepAlive: {enabled: true, period: 30s, jitter: 5s, timeout: 7s}
        tls: {crtPath: /c.pem, caCrtPath: /ca.pem, keyPath: /k.pem}
        autoSyncInterval: 1m
        dialTimeout: 3s
    m3sd: {initTimeout: 5s}
    watchWithRevision: 0
    newDirectoryMode: 0700
    retry: {initialBackoff: 1s, backoffFactor: 2, maxBackoff: 5s, maxRetries: 3, forever: false, jitter: true}
    requestTimeout: 4s
    watchChanInitTimeout: 10s
    watchChanCheckInterval: 10s
    watchChanResetInterval: 10s
    enableFastGets: false
"""


class File(Section, frozen=True, kw_only=True):
    """A file with a store."""

    store: StoreSection = StoreSection()


def read(folder: Path, text: str) -> StoreSection:
    (folder / "file.yml").write_text(text)
    return load([folder / "file.yml"], File, {}).value.store


def with_cluster(more: str) -> str:
    return f"store: {{etcd: {{service: s, etcdClusters: [{{endpoints: ['a:1'], {more}}}]}}}}"


def test_every_key_of_m3(tmp_path: Path) -> None:
    section = read(tmp_path, FULL)
    assert (section.environment, section.zone) == ("my/env", "z1")
    assert section.store(tmp_path) == Etcd(
        ("one:2379", "two:2379"),
        tls=EtcdTLS("/ca.pem", "/c.pem", "/k.pem"),
        dial_timeout_s=3,
        request_timeout_s=4,
        keepalive_s=30,
        keepalive_jitter_s=5,
        keepalive_timeout_s=7,
        cache_dir="/var/lib/m3kv",
        cache_dir_mode=0o700,
        zone="z1",
        service="m3aggregator",
    )


def test_what_is_left_out_is_m3s_default(tmp_path: Path) -> None:
    section = read(tmp_path, with_cluster(""))
    assert (section.environment, section.zone) == ("default_env", "embedded")
    assert section.store(None) == Etcd(("a:1",), zone="embedded", service="s")


@pytest.mark.parametrize(
    ("block", "period_s", "jitter_s", "timeout_s"),
    [
        ("{enabled: false}", 0, 0, 20),
        ("{period: 30s}", 0, 0, 20),
        ("{enabled: true}", 10, 0, 20),
        ("{enabled: true, period: 1s, jitter: 2s, timeout: 3s}", 10, 2, 3),
    ],
)
def test_a_keepalive_block_is_taken_as_written(
    tmp_path: Path, block: str, period_s: float, jitter_s: float, timeout_s: float
) -> None:
    found = read(tmp_path, with_cluster(f"keepAlive: {block}")).store(None)
    assert isinstance(found, Etcd)
    assert (found.keepalive_s, found.keepalive_jitter_s, found.keepalive_timeout_s) == (period_s, jitter_s, timeout_s)


def test_no_certificate_is_no_tls(tmp_path: Path) -> None:
    found = read(tmp_path, with_cluster("tls: {caCrtPath: /ca.pem}")).store(None)
    assert isinstance(found, Etcd)
    assert found.tls is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("store: {etcd: {service: s, etcdClusters: []}}", "etcdClusters must have an entry"),
        ("store: {etcd: {service: '', etcdClusters: [{endpoints: ['a:1']}]}}", "service must not be empty"),
        (
            "store: {etcd: {service: s, zone: z, etcdClusters: [{zone: other, endpoints: ['a:1']}]}}",
            "no etcd cluster found for zone: z; etcdClusters has other",
        ),
        ("store: {etcd: {service: s, etcdClusters: [{endpoints: []}]}}", "at least one host:port"),
        (with_cluster("tls: {crtPath: /c}"), "crtPath needs keyPath and caCrtPath"),
        (with_cluster("keepAlive: {period: -1s}"), "must not be negative"),
        (with_cluster("dialTimeout: -1s"), "must not be negative"),
        ("store: {embedded: {path: ''}}", "path must name a file"),
        ("store: {zookeeper: {servers: []}}", "at least one server"),
        ("store: {zookeeper: {}}", "servers"),
        ("store: {zookeeper: {servers: ['zk:port']}}", "'zk:port' is not host:port; write it such as zk01:2181"),
        ("store: {zookeeper: {servers: [zk], chroot: m3}}", "chroot must be a path such as /m3, or empty, not 'm3'"),
        ("store: {zookeeper: {servers: [zk], sessionTimeout: 0s}}", "sessionTimeout.* must be positive"),
        ("store: {zookeeper: {servers: [zk], maxValueBytes: 0}}", "maxValueBytes must be positive"),
        ("store: {zookeeper: {servers: [zk], endpoints: [zk]}}", "endpoints"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        read(tmp_path, text)


def test_our_own_keys_win_over_etcd(tmp_path: Path) -> None:
    ours = "  zookeeper: {servers: ['zk:2181'], chroot: /x}\n"
    assert read(tmp_path, FULL + ours).store(tmp_path) == ZooKeeper(("zk:2181",), chroot="/x")
    section = read(tmp_path, FULL + ours + "  embedded: {path: kv.sqlite}\n")
    assert section.store(tmp_path) == Embedded(tmp_path / "kv.sqlite")
    assert section.environment == "my/env"


def test_every_key_of_zookeeper(tmp_path: Path) -> None:
    text = (
        "zookeeper: {servers: [zk01, 'zk02:2182'], chroot: /a/b, env: e, zone: z, sessionTimeout: 4s, connectTimeout: 3s, "
        "requestTimeout: 2s, maxValueBytes: 77}"
    )
    section = read(tmp_path, FULL + f"  {text}\n")
    assert section.store(tmp_path) == ZooKeeper(
        ("zk01", "zk02:2182"),
        chroot="/a/b",
        session_timeout_s=4,
        connect_timeout_s=3,
        request_timeout_s=2,
        max_value_bytes=77,
    )
    assert (section.environment, section.zone) == ("e", "z")
    assert read(tmp_path, "store: {zookeeper: {servers: [zk]}}").store(None) == ZooKeeper(("zk",))


def test_nothing_said_is_a_file_in_the_data_directory(tmp_path: Path) -> None:
    assert read(tmp_path, "{}").store(tmp_path) == Embedded(tmp_path / "kv.sqlite")
    assert read(tmp_path, "store: {embedded: {path: /abs/kv}}").store(tmp_path) == Embedded(Path("/abs/kv"))
