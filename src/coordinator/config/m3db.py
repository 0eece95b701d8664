"""``clusters[].client``: M3DB as storage (docs/m3/m3db_cluster.md, configuration of a client).

What is ``Meaningless`` or only checked here is listed in docs/compatibility.md, "Configuration".
"""

import enum
from collections.abc import Mapping
from typing import Literal

import msgspec

from coordinator.config.m3db_idle import CircuitBreakerMiddlewareConfig, NodeNamespaceConfig, SeedNodesConfig
from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE
from m3cluster.kv.sections import EtcdClusterSection, EtcdSection
from m3db.consistency import ConnectLevel, CopyRules, ReadLevel, WriteLevel
from m3db.options import HostOptions, RetryOptions, SessionOptions, StaticTopology
from m3db.topology import Host, Topology, TopologyError
from m3x.config import Address, Duration, Meaningless, Section, Text, parse_address
from m3x.golang import go_duration
from m3x.sections import RetryConfig

__all__ = ["DynamicClusterConfig", "EnvironmentConfig", "M3DBClientConfig", "StaticClusterConfig"]

_MILLISECOND = 1_000_000


def _level(kind: str, valid: type[enum.StrEnum], text: str) -> None:
    if not text:
        raise ValueError("consistency level not specified")
    if text not in set(valid):
        names = ", ".join(f"'{level}'" for level in valid)
        raise ValueError(f"invalid {kind} '{text}' valid types are: {names}")


class WriteLevelText(Text):
    """``majority``."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        _level("ConsistencyLevel", WriteLevel, text)


class ReadLevelText(Text):
    """``unstrict_majority``."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        _level("ReadConsistencyLevel", ReadLevel, text)


class ConnectLevelText(Text):
    """``any``."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        _level("ConnectConsistencyLevel", ConnectLevel, text)


class ClientOverridesConfig(Section, frozen=True, kw_only=True):
    """``clientOverrides``: checked, without effect, as there are no queues to flush."""

    host_queue_flush_interval: Duration | None = None
    target_host_queue_flush_size: int | None = None

    def __post_init__(self) -> None:
        size, interval = self.target_host_queue_flush_size, self.host_queue_flush_interval
        if size is not None and size <= 1:
            raise ValueError(f"target host queue flush size must be larger than zero but was: {size}")
        if interval is not None and interval <= 0:
            raise ValueError(f"host queue flush interval must be larger than zero but was: {go_duration(interval)}")


class NodesSection(EtcdSection, frozen=True, kw_only=True):
    """``service``: name and environment of the nodes' placement, and the etcd that has it. Without ``etcdClusters``, which M3 wants, it is
    in the KV of ``clusterManagement``."""

    etcd_clusters: list[EtcdClusterSection] = []

    def __post_init__(self) -> None:
        if self.etcd_clusters:
            super().__post_init__()
        elif not self.service:
            raise ValueError("service must not be empty; it names the placement of M3DB's nodes: write m3db")


class DynamicClusterConfig(Section, frozen=True, kw_only=True):
    """``config.services[]``: a cluster whose placement is in etcd."""

    service: NodesSection
    asynchronous: bool = msgspec.field(name="async", default=False)
    client_overrides: ClientOverridesConfig = ClientOverridesConfig()

    @property
    def environment(self) -> str:
        """Of the keys of placement and registry."""
        return self.service.env or DEFAULT_ENVIRONMENT

    @property
    def zone(self) -> str:
        """The zone of the etcd."""
        return self.service.zone or DEFAULT_ZONE


class StaticHostConfig(Section, frozen=True, kw_only=True):
    """``topology.hosts[]``."""

    host_id: str = msgspec.field(name="hostID")
    listen_address: Address

    def __post_init__(self) -> None:
        parse_address(self.listen_address)


class StaticTopologyConfig(Section, frozen=True, kw_only=True):
    """``static.topology``: shards are dealt out to the hosts in turn."""

    shards: int
    replicas: int = 0
    hosts: list[StaticHostConfig]

    def __post_init__(self) -> None:
        found = self.found
        try:
            Topology.static(found.hosts, found.num_shards, found.replicas)
        except TopologyError as error:
            raise ValueError(f"unable to create shard set for static config: {error}") from error

    @property
    def found(self) -> StaticTopology:
        """As the session takes it."""
        return StaticTopology(
            tuple(Host(host.host_id, host.listen_address) for host in self.hosts), self.shards, self.replicas
        )


class StaticClusterConfig(Section, frozen=True, kw_only=True):
    """``config.static``, ``config.statics[]``: a cluster whose hosts the file names."""

    topology: StaticTopologyConfig
    asynchronous: bool = msgspec.field(name="async", default=False)
    client_overrides: ClientOverridesConfig = ClientOverridesConfig()
    namespaces: Meaningless[list[NodeNamespaceConfig]] = None
    listen_address: Meaningless[str] = None


class EnvironmentConfig(Section, frozen=True, kw_only=True):
    """``client.config``."""

    service: NodesSection | None = None
    services: list[DynamicClusterConfig] = []
    static: StaticClusterConfig | None = None
    statics: list[StaticClusterConfig] = []
    seed_nodes: Meaningless[SeedNodesConfig] = None

    def __post_init__(self) -> None:
        if bool(self.dynamic) == bool(self.fixed):
            raise ValueError("must supply either service or static config")
        if sum(not cluster.asynchronous for cluster in self._clusters()) != 1:
            raise ValueError("must supply exactly one synchronous cluster")
        if any(cluster.asynchronous for cluster in self._clusters()):
            raise ValueError(
                "clusters that are written to in the background (async: true) are not supported; remove them"
            )

    @property
    def dynamic(self) -> list[DynamicClusterConfig]:
        """Clusters in etcd; ``service`` alone stands for one, and wins over ``services``."""
        return self.services if self.service is None else [DynamicClusterConfig(service=self.service)]

    @property
    def fixed(self) -> list[StaticClusterConfig]:
        """Clusters of the file; ``static`` wins over ``statics``."""
        return self.statics if self.static is None else [self.static]

    @property
    def synchronous(self) -> DynamicClusterConfig | StaticClusterConfig:
        """The one cluster that there is."""
        return next(cluster for cluster in self._clusters() if not cluster.asynchronous)

    def _clusters(self) -> list[DynamicClusterConfig | StaticClusterConfig]:
        return [*self.dynamic, *self.fixed]


class ProtoSchemaConfig(Section, frozen=True, kw_only=True):
    """``proto.schema_registry`` of one namespace."""

    message_name: str = ""
    schema_deploy_id: str = msgspec.field(name="schemaDeployID", default="")
    schema_file_path: str = ""


class ProtoConfig(Section, frozen=True, kw_only=True):
    """``proto``: typed values, which nothing here writes."""

    enabled: bool = False
    schema_registry: dict[str, ProtoSchemaConfig] = msgspec.field(name="schema_registry", default_factory=dict)

    def __post_init__(self) -> None:
        if self.enabled:
            raise ValueError("typed values (proto) are not supported; remove the section or set enabled: false")


class HashingConfig(Section, frozen=True, kw_only=True):
    """``hashing``: how ids become shards; has to be as the nodes have it in ``db.hashing``."""

    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed must be a number of 32 bits, found {self.seed}")


class M3DBClientConfig(Section, frozen=True, kw_only=True):
    """``clusters[].client``."""

    config: EnvironmentConfig
    write_consistency_level: WriteLevelText = WriteLevelText(WriteLevel.MAJORITY)
    read_consistency_level: ReadLevelText = ReadLevelText(ReadLevel.UNSTRICT_MAJORITY)
    connect_consistency_level: ConnectLevelText = ConnectLevelText(ConnectLevel.ANY)
    write_timeout: Duration = Duration(10_000 * _MILLISECOND)
    fetch_timeout: Duration = Duration(15_000 * _MILLISECOND)
    """Checked, without effect: of fetches that M3's coordinator does not make either."""
    connect_timeout: Duration = Duration(20_000 * _MILLISECOND)
    write_retry: RetryConfig = RetryConfig(
        initial_backoff=Duration(500 * _MILLISECOND), backoff_factor=3.0, max_retries=2
    )
    fetch_retry: RetryConfig = RetryConfig(
        initial_backoff=Duration(500 * _MILLISECOND), backoff_factor=2.0, max_retries=3
    )
    log_error_sample_rate: float = 0.0
    """Checked, without effect, as the other two: errors are logged at a limited rate."""
    log_host_write_error_sample_rate: float = 0.0
    log_host_fetch_error_sample_rate: float = 0.0
    background_health_check_fail_limit: int = 4
    background_health_check_fail_throttle_factor: float = 0.5
    hashing: HashingConfig = HashingConfig()
    proto: ProtoConfig = ProtoConfig()
    async_write_worker_pool_size: int = 128
    """Checked, without effect: there are no workers."""
    async_write_max_concurrency: int = 4096
    """Checked, without effect: nothing is written in the background."""
    use_v2_batch_apis: Meaningless[bool] = msgspec.field(name="useV2BatchAPIs", default=None)
    write_timestamp_offset: Duration = Duration(0)
    write_shards_initializing: bool = True
    shards_leaving_count_towards_consistency: bool = False
    shards_leaving_and_initializing_count_towards_consistency: bool = False
    iterate_equal_timestamp_strategy: Literal[
        "iterate_last_pushed", "iterate_highest_value", "iterate_lowest_value", "iterate_highest_frequency_value"
    ] = "iterate_last_pushed"
    circuit_breaker_config: Meaningless[CircuitBreakerMiddlewareConfig] = None
    fetch_series_blocks_batch_concurrency: Meaningless[int] = None
    fetch_series_blocks_batch_size: Meaningless[int] = None

    def __post_init__(self) -> None:
        _check_timeouts({"write": self.write_timeout, "fetch": self.fetch_timeout, "connect": self.connect_timeout})
        if not self.write_timeout:
            raise ValueError("writeTimeout must be more than 0: no node answers in no time")
        rates = (
            self.log_error_sample_rate,
            self.log_host_write_error_sample_rate,
            self.log_host_fetch_error_sample_rate,
        )
        for rate in rates:
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"invalid sample rate: actual={rate:f}, valid=[0.0,1.0]")
        self._check_health()
        if self.async_write_worker_pool_size <= 0:
            raise ValueError(
                f"m3db client async write worker pool size was: {self.async_write_worker_pool_size} but must be >0"
            )
        if self.async_write_max_concurrency <= 0:
            raise ValueError(
                f"m3db client async write max concurrency was: {self.async_write_max_concurrency} but must be >0"
            )
        if (
            self.shards_leaving_count_towards_consistency
            and self.shards_leaving_and_initializing_count_towards_consistency
        ):
            raise ValueError(
                "m3db client cannot have both shardsLeavingCountTowardsConsistency and "
                "shardsLeavingAndInitializingCountTowardsConsistency as true"
            )

    def _check_health(self) -> None:
        limit, factor = self.background_health_check_fail_limit, self.background_health_check_fail_throttle_factor
        key = "m3db client backgroundHealthCheckFail"
        if not 0 <= limit <= 10:
            raise ValueError(f"{key}Limit was: {limit} but must be >= 0 and <=10")
        if not 0 <= factor <= 10:
            raise ValueError(f"{key}ThrottleFactor was: {factor:f} but must be >= 0 and <=10")

    def session_options(self) -> SessionOptions:
        """As the session of the synchronous cluster takes them."""
        return SessionOptions(
            rules=CopyRules(
                level=WriteLevel(self.write_consistency_level),
                write_initializing=self.write_shards_initializing,
                leaving_counts=self.shards_leaving_count_towards_consistency,
                pair_counts=self.shards_leaving_and_initializing_count_towards_consistency,
            ),
            read_level=ReadLevel(self.read_consistency_level),
            connect_level=ConnectLevel(self.connect_consistency_level),
            connect_timeout_s=self.connect_timeout.seconds,
            write_timeout_s=self.write_timeout.seconds,
            write_retry=_retry(self.write_retry),
            fetch_retry=_retry(self.fetch_retry),
            host=HostOptions(
                health_fail_limit=self.background_health_check_fail_limit,
                health_throttle_factor=self.background_health_check_fail_throttle_factor,
            ),
            hash_seed=0 if self.config.fixed else self.hashing.seed,
            write_timestamp_offset_ns=int(self.write_timestamp_offset),
            equal_timestamps=self.iterate_equal_timestamp_strategy,
        )


def _check_timeouts(found: Mapping[str, Duration]) -> None:
    for name, value in found.items():
        if value < 0:
            raise ValueError(f"m3db client {name}Timeout was: {int(value)} but must be >= 0")


def _retry(section: RetryConfig) -> RetryOptions:
    return RetryOptions(section.backoff(), None if section.forever else section.max_retries or 2)
