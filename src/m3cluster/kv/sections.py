"""The YAML that names a store, the same in both services: M3's ``etcd`` block (docs/m3/cluster.md, etcd block), and our own keys beside it.

A service's own section (``kvClient``, ``clusterManagement``) is a ``StoreSection``.
"""

from pathlib import Path

from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE
from m3cluster.kv.etcd.config import Etcd, EtcdTLS
from m3cluster.kv.open import Embedded, StoreConfig
from m3cluster.kv.zookeeper.config import ZooKeeper
from m3x.config import Duration, Meaningless, Section
from m3x.sections import RetryConfig
from m3x.tls import ClientTLSConfig

__all__ = [
    "EmbeddedSection",
    "EtcdClusterSection",
    "EtcdSection",
    "KVOverride",
    "PlacementWatcherSection",
    "StoreSection",
    "ZooKeeperSection",
]

_SECOND = 1_000_000_000
_SHORTEST_PING = Duration(10 * _SECOND)
"""Go's gRPC, and so M3, never pings more often; etcd hangs up on who does."""
_PING_TIMEOUT = Duration(20 * _SECOND)
"""What Go's gRPC takes for a ping timeout of 0."""


class KVOverride(Section, frozen=True, kw_only=True):
    """``kvConfig`` and ``topicServiceOverride``: where in the KV something is; what is empty is the KV client's own."""

    zone: str = ""
    environment: str = ""
    namespace: str = ""


class PlacementWatcherSection(Section, frozen=True, kw_only=True):
    """``placementWatcher``."""

    key: str = ""
    init_watch_timeout: Duration = Duration(10 * _SECOND)


class KeepAliveSection(Section, frozen=True, kw_only=True):
    """``keepAlive``: where it is present, what it leaves out is zero, as in M3."""

    enabled: bool = False
    period: Duration = Duration(0)
    jitter: Duration = Duration(0)
    timeout: Duration = Duration(0)

    def __post_init__(self) -> None:
        if self.period < 0 or self.jitter < 0 or self.timeout < 0:
            raise ValueError("period, jitter and timeout must not be negative")


class EtcdTLSSection(Section, frozen=True, kw_only=True):
    """``tls``: PEM files; no ``crtPath``, no TLS."""

    crt_path: str = ""
    ca_crt_path: str = ""
    key_path: str = ""

    def __post_init__(self) -> None:
        if self.crt_path and not (self.key_path and self.ca_crt_path):
            raise ValueError("crtPath needs keyPath and caCrtPath beside it")

    def files(self) -> EtcdTLS | None:
        """The files as the client takes them."""
        return EtcdTLS(self.ca_crt_path, self.crt_path, self.key_path) if self.crt_path else None


class EtcdClusterSection(Section, frozen=True, kw_only=True):
    """``etcdClusters[]``: the cluster of one zone."""

    zone: str = ""
    endpoints: list[str] = []
    keep_alive: KeepAliveSection | None = None
    tls: EtcdTLSSection = EtcdTLSSection()
    auto_sync_interval: Meaningless[Duration] = None
    dial_timeout: Duration = Duration(0)

    def __post_init__(self) -> None:
        if not self.endpoints or not all(endpoint.strip() for endpoint in self.endpoints):
            raise ValueError("endpoints must name at least one host:port, such as dbnode01:2379, and none may be empty")
        if self.dial_timeout < 0:
            raise ValueError("dialTimeout must not be negative")


class ServiceDiscoveryConfig(Section, frozen=True, kw_only=True):
    """``m3sd``."""

    init_timeout: Duration = Duration(0)


class EtcdSection(Section, frozen=True, kw_only=True):
    """``etcd``. A zero, or nothing, means M3's default."""

    service: str
    zone: str = ""
    env: str = ""
    cache_dir: str = ""
    etcd_clusters: list[EtcdClusterSection]
    m3sd: Meaningless[ServiceDiscoveryConfig] = None
    watch_with_revision: Meaningless[int] = None
    new_directory_mode: int = 0o755
    retry: Meaningless[RetryConfig] = None
    request_timeout: Duration = Duration(0)
    watch_chan_init_timeout: Meaningless[Duration] = None
    watch_chan_check_interval: Meaningless[Duration] = None
    watch_chan_reset_interval: Meaningless[Duration] = None
    enable_fast_gets: Meaningless[bool] = None

    def __post_init__(self) -> None:
        if not self.service:
            raise ValueError("service must not be empty; it names the cache file: write m3aggregator or m3coordinator")
        if self.request_timeout < 0:
            raise ValueError("requestTimeout must not be negative")
        if not self.etcd_clusters:
            raise ValueError("etcdClusters must have an entry with the endpoints of etcd")
        self.cluster()

    def cluster(self) -> EtcdClusterSection:
        """The cluster of our zone. Raises ``ValueError`` if there is none."""
        zone = self.zone or DEFAULT_ZONE
        for cluster in self.etcd_clusters:
            if (cluster.zone or DEFAULT_ZONE) == zone:
                return cluster
        zones = ", ".join(cluster.zone or DEFAULT_ZONE for cluster in self.etcd_clusters)
        raise ValueError(f"no etcd cluster found for zone: {zone}; etcdClusters has {zones}")

    def client(self) -> Etcd:
        """The options of the client."""
        cluster = self.cluster()
        more: dict[str, float] = {}
        if cluster.dial_timeout:
            more["dial_timeout_s"] = cluster.dial_timeout.seconds
        if self.request_timeout:
            more["request_timeout_s"] = self.request_timeout.seconds
        if (ping := cluster.keep_alive) is not None:
            more["keepalive_s"] = max(ping.period, _SHORTEST_PING).seconds if ping.enabled else 0.0
            more["keepalive_jitter_s"] = ping.jitter.seconds
            more["keepalive_timeout_s"] = (ping.timeout or _PING_TIMEOUT).seconds
        return Etcd(
            tuple(cluster.endpoints),
            tls=cluster.tls.files(),
            cache_dir=self.cache_dir,
            cache_dir_mode=self.new_directory_mode,
            zone=self.zone or DEFAULT_ZONE,
            service=self.service,
            **more,
        )


class EmbeddedSection(Section, frozen=True, kw_only=True):
    """``embedded``: the cluster state of one machine in a file that all its processes share. Not a key of M3."""

    path: str = "kv.sqlite"
    """A relative path is taken below the data directory."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path must name a file")


class ZooKeeperSection(Section, frozen=True, kw_only=True):
    """``zookeeper``: an ensemble, and the node that everything is kept below. Not a key of M3.

    ``env`` and ``zone`` are as in ``etcd``: what keys begin with unless their own section says otherwise. ``maxValueBytes`` goes with the
    servers' ``jute.maxbuffer``.
    """

    servers: list[str]
    chroot: str = "/m3"
    env: str = ""
    zone: str = ""
    session_timeout: Duration = Duration(10 * _SECOND)
    connect_timeout: Duration = Duration(5 * _SECOND)
    request_timeout: Duration = Duration(10 * _SECOND)
    max_value_bytes: int = 1_000_000
    tls: ClientTLSConfig | None = None
    """Present, it is on unless it says otherwise."""

    def __post_init__(self) -> None:
        if min(self.session_timeout, self.connect_timeout, self.request_timeout) <= 0:
            raise ValueError("sessionTimeout, connectTimeout and requestTimeout must be positive")
        if self.max_value_bytes < 1:
            raise ValueError("maxValueBytes must be positive")
        self.client()

    def client(self) -> ZooKeeper:
        """The options of the client."""
        return ZooKeeper(
            tuple(self.servers),
            chroot=self.chroot,
            session_timeout_s=self.session_timeout.seconds,
            connect_timeout_s=self.connect_timeout.seconds,
            request_timeout_s=self.request_timeout.seconds,
            max_value_bytes=self.max_value_bytes,
            tls=self.tls if self.tls is not None and self.tls.enabled else None,
        )


class StoreSection(Section, frozen=True, kw_only=True):
    """Where the cluster state is. ``embedded`` wins over ``zookeeper``, and both over ``etcd``: a second file can move a cluster's file to
    one machine. The environment and the zone stay the defaults for keys: those of ``zookeeper`` if it names any, else those of ``etcd``."""

    etcd: EtcdSection | None = None
    zookeeper: ZooKeeperSection | None = None
    embedded: EmbeddedSection | None = None

    @property
    def environment(self) -> str:
        """Environment of keys that name none of their own."""
        return next((named.env for named in (self.zookeeper, self.etcd) if named and named.env), DEFAULT_ENVIRONMENT)

    @property
    def zone(self) -> str:
        """The zone that the store belongs to."""
        return next((named.zone for named in (self.zookeeper, self.etcd) if named and named.zone), DEFAULT_ZONE)

    def store(self, data_dir: Path | None) -> StoreConfig:
        """What ``open_store`` takes; where nothing is said it is the file ``kv.sqlite``. ``data_dir`` has the relative paths."""
        if self.embedded is None and self.zookeeper is not None:
            return self.zookeeper.client()
        if self.embedded is None and self.etcd is not None:
            return self.etcd.client()
        path = Path((self.embedded or EmbeddedSection()).path)
        return Embedded(data_dir / path if data_dir is not None else path)
