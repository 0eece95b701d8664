"""The whole file of a coordinator (docs/m3/coordinator.md, configuration)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from coordinator.config.carbon import CarbonConfig, policy_problems
from coordinator.config.client import RemoteAggregatorConfig
from coordinator.config.cluster import ClusterConfig, ClusterManagementConfig, Namespace, namespaces_of
from coordinator.config.forwarding import WriteForwardingConfig, leads_to
from coordinator.config.idle import (
    ExperimentalConfig,
    FilterConfig,
    HTTPConfig,
    LocalConfig,
    MatcherCacheConfig,
    MiddlewareConfig,
    MultiProcessConfig,
    ResultOptionsConfig,
    RPCConfig,
    TagFilterConfig,
    WorkerPoolConfig,
)
from coordinator.config.ingest import IngestConfig
from coordinator.config.inside import LEAST_BYTES, EmbeddedAggregatorConfig
from coordinator.config.m3db import DynamicClusterConfig, M3DBClientConfig
from coordinator.config.memory import MemoryShares, memory_shares
from coordinator.config.prom_remote import PromRemoteConfig, endpoint_namespaces, required_backend, sink_name
from coordinator.config.query import LimitsConfig, QueryConfig
from coordinator.config.rules import RulesConfig
from coordinator.config.sinks import UNAGGREGATED_POLICY, QueueConfig, QueueOverrides, SinkConfig
from coordinator.config.tracing import TracingConfig
from coordinator.config.write_limits import WriteLimitsConfig
from m3cluster.kv import Etcd
from m3cluster.kv.sections import EtcdSection, StoreSection
from m3metrics.past_limits import DEFAULT_PAST_LIMITS, PastLimits
from m3metrics.policy import format_duration
from m3metrics.sections import AggregationTypesConfig, BufferPastLimitConfig, past_limits_of
from m3msg.legacy import LegacyOptions
from m3msg.producer.options import ProducerOptions
from m3x.access import SecurityConfig
from m3x.config import (
    Address,
    ConfigError,
    Duration,
    EmptyIsDefault,
    Loaded,
    Meaningless,
    Section,
    check_listeners,
    load,
    parse_address,
)
from m3x.memory import UNLIMITED, MemoryLimit, memory_limit
from m3x.pools import ObjectPoolConfig
from m3x.sections import DebugConfig, LoggingConfig, PrometheusConfig, ScopeConfig
from m3x.sections import MetricsConfig as CommonMetricsConfig


class CoordinatorScopeConfig(ScopeConfig, frozen=True):
    """``metrics.scope``."""

    prefix: str = "coordinator"


class PrometheusPageConfig(PrometheusConfig, frozen=True):
    """``metrics.prometheus``."""

    listen_address: Address = "0.0.0.0:7203"

    def __post_init__(self) -> None:
        parse_address(self.listen_address)
        super().__post_init__()


class MetricsConfig(CommonMetricsConfig, frozen=True):
    """``metrics``."""

    scope: CoordinatorScopeConfig = CoordinatorScopeConfig()
    prometheus: PrometheusPageConfig = PrometheusPageConfig()


class TagOptionsConfig(Section, frozen=True):
    """``tagOptions``: names of two labels and what labels may be."""

    metric_name: str = "__name__"
    bucket_name: str = "le"
    id_scheme: EmptyIsDefault[Literal["quoted", "prepend_meta"]] = "quoted"
    filters: Meaningless[list[TagFilterConfig]] = None
    allow_tag_name_duplicates: bool = False
    allow_tag_value_empty: bool = False

    def __post_init__(self) -> None:
        if not self.metric_name or not self.bucket_name:
            raise ValueError("metricName and bucketName must not be empty")


class MatcherConfig(Section, frozen=True):
    """``downsample.matcher``."""

    cache: Meaningless[MatcherCacheConfig] = None
    namespace_tag: str = "__m3_namespace__"
    require_namespace_watch_on_init: bool = False


class DownsampleConfig(Section, frozen=True):
    """``downsample``."""

    remote_aggregator: RemoteAggregatorConfig | None = None
    """None: aggregation happens inside the coordinator, where the further keys but ``matcher``, ``rules`` and ``untimedRollups`` count."""
    matcher: MatcherConfig = MatcherConfig()
    rules: RulesConfig | None = None
    aggregation_types: AggregationTypesConfig | None = None
    counter_elem_pool: Meaningless[ObjectPoolConfig] = None
    timer_elem_pool: Meaningless[ObjectPoolConfig] = None
    gauge_elem_pool: Meaningless[ObjectPoolConfig] = None
    buffer_past_limits: list[BufferPastLimitConfig] = []
    """How late samples may be; empty: M3's."""
    entry_ttl: Duration = msgspec.field(name="entryTTL", default=Duration(0))
    """How long series without samples are remembered; 0: an hour."""
    untimed_rollups: bool = False

    def __post_init__(self) -> None:
        if self.entry_ttl < 0:
            raise ValueError("entryTTL must not be negative")


class EmbeddedStorageConfig(Section, frozen=True):
    """``embeddedStorage``: the file that holds aggregated series. Not a key of M3."""

    path: str = "metrics.duckdb"
    """A relative path is taken below the data directory."""


class WriteCacheConfig(Section, frozen=True):
    """``writeCache``: what the write path remembers of the series it has seen. Not a key of M3."""

    max_series: int = 0
    """0: as many as ``max_bytes`` hold."""
    max_bytes: int = 0
    """Of the coordinator; 0: a quarter of its memory limit, an eighth where it aggregates itself. Beyond it those not seen for minutes are
    forgotten, then those seen once; what is not remembered is prepared again when it comes."""

    def __post_init__(self) -> None:
        if (self.max_series and self.max_series < 1024) or (self.max_bytes and self.max_bytes < 1 << 20):
            raise ValueError("maxSeries must be 0 or at least 1024, and maxBytes 0 or at least 1048576")


class WritesConfig(Section, frozen=True):
    """``writes``: when remote writes for the aggregators are answered (docs/answers.md). Not a key of M3."""

    ack: Literal["buffered", "aggregated"] | None = None
    """When their messages are in the producer, as in M3; or when the aggregators have acknowledged them. None: the latter where aggregation
    happens inside the coordinator, else the former."""
    ack_timeout: Duration = Duration(25_000_000_000)
    """How long that is waited for: less than the ``remote_timeout`` of Prometheus (30 s), which is to hear why."""

    def __post_init__(self) -> None:
        if self.ack_timeout <= 0:
            raise ValueError(f"ackTimeout must be positive, found {self.ack_timeout}")


class OTLPConfig(Section, frozen=True):
    """``otlp``: what of OTLP's resources and scopes becomes labels of every series, besides job and instance. Not a key of M3; the names
    are those of Prometheus' file."""

    promote_resource_attributes: list[str] = []
    promote_scope_metadata: bool = False
    """As the labels ``otel_scope_…``."""


class RemoteWriteConfig(Section, frozen=True):
    """``remoteWrite``: what becomes of what no message to the aggregators has a place for. Not a key of M3."""

    native_histograms: Literal["drop", "classic"] = "drop"
    """``classic``: they become histograms with buckets by ``le``."""


class CoordinatorConfig(Section, frozen=True):
    """A coordinator's file."""

    listen_address: Address = "0.0.0.0:7201"
    logging: LoggingConfig = LoggingConfig()
    metrics: MetricsConfig = MetricsConfig()
    backend: Literal["", "embedded", "m3db", "grpc", "noop-etcd", "prom-remote"] = ""
    """``embedded`` is ours, and what no value means unless a cluster names a client (``store``)."""
    clusters: list[ClusterConfig] = []
    cluster_management: ClusterManagementConfig = ClusterManagementConfig()
    tag_options: TagOptionsConfig = TagOptionsConfig()
    downsample: DownsampleConfig | None = None
    ingest: IngestConfig | None = None
    carbon: CarbonConfig = CarbonConfig()
    store_metrics_type: bool = False
    lookback_duration: Duration = Duration(300_000_000_000)
    embedded_storage: EmbeddedStorageConfig = EmbeddedStorageConfig()
    write_cache: WriteCacheConfig = WriteCacheConfig()
    sinks: list[SinkConfig] = []
    """Stores beside the one that ``backend`` names. Not a key of M3."""
    sink_queue: QueueConfig = QueueConfig()
    """Not a key of M3."""
    write_timeout: Duration = Duration(5_000_000_000)
    """How long a write that goes straight to stores waits for their answer. Not a key of M3."""
    writes: WritesConfig = WritesConfig()
    """Not a key of M3."""
    otlp: OTLPConfig = OTLPConfig()
    remote_write: RemoteWriteConfig = RemoteWriteConfig()
    """Not a key of M3."""
    write_limits: WriteLimitsConfig | None = None
    """Not a key of M3."""
    memory_limit_bytes: int = 0
    """Of all its processes and stores, shared out among their parts; 0: half of what the machine or its control group has; -1: no limit but
    those of the parts. Not a key of M3."""
    workers: int = 0
    """Processes that take writes; 1: the coordinator is one process; 0: one for each CPU. Not a key of M3."""
    next_worker_at: float = 0.8
    """How busy those of ``workers`` that take connections may be, as parts of a core each, before one more takes some; 0: all always do.
    Not a key of M3."""
    embedded_aggregator: EmbeddedAggregatorConfig = EmbeddedAggregatorConfig()
    """Not a key of M3."""
    security: SecurityConfig = SecurityConfig()
    """Not a key of M3."""
    prometheus_remote_backend: PromRemoteConfig | None = None
    write_forwarding: WriteForwardingConfig = WriteForwardingConfig()
    local: Meaningless[LocalConfig] = None
    tracing: Meaningless[TracingConfig] = None
    http: Meaningless[HTTPConfig] = None
    limits: LimitsConfig = LimitsConfig()
    query: QueryConfig = QueryConfig()
    read_worker_pool_policy: Meaningless[WorkerPoolConfig] = None
    write_worker_pool_policy: Meaningless[WorkerPoolConfig] = None
    result_options: Meaningless[ResultOptionsConfig] = None
    rpc: Meaningless[RPCConfig] = None
    filter: Meaningless[FilterConfig] = None
    middleware: Meaningless[MiddlewareConfig] = None
    multi_process: Meaningless[MultiProcessConfig] = None
    debug: Meaningless[DebugConfig] = None
    experimental: Meaningless[ExperimentalConfig] = None

    def __post_init__(self) -> None:
        parse_address(self.listen_address)
        if self.lookback_duration < 0:
            raise ValueError("lookbackDuration must not be negative")
        if self.write_timeout < 0:
            raise ValueError("writeTimeout must not be negative")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, found {self.workers}")
        if not 0 <= self.next_worker_at < 1:
            raise ValueError(
                f"nextWorkerAt must be at least 0 (all take connections) and below 1, found {self.next_worker_at}"
            )
        if self.memory_limit_bytes not in (0, UNLIMITED) and self.memory_limit_bytes < LEAST_BYTES:
            raise ValueError(
                f"memoryLimitBytes must be 0, {UNLIMITED} (no limit) or at least {LEAST_BYTES}, found {self.memory_limit_bytes}"
            )
        namespaces_of(self.clusters)
        if self.backend == "prom-remote":
            required_backend(self.prometheus_remote_backend)
        self._check_sinks()
        listeners = {
            "listenAddress": self.listen_address,
            "metrics.prometheus.listenAddress": self.metrics.prometheus.listen_address,
        }
        if self.takes_samples and self.carbon.ingester is not None:
            listeners["carbon.ingester.listenAddress"] = self.carbon.ingester.listen_address
        if self.takes_samples and self.ingest is not None:
            listeners["ingest.m3msg.server.listenAddress"] = self.ingest.m3msg.server.listen_address
        check_listeners(listeners)

    def problems(self) -> Iterator[tuple[str, str]]:
        for index, target in enumerate(self.write_forwarding.prom_remote_write.targets):
            if leads_to(target.url, self.listen_address):
                yield (
                    f"writeForwarding.promRemoteWrite.targets[{index}].url",
                    f"leads to this coordinator itself (listenAddress {self.listen_address}), which would forward each write to itself "
                    "again and again; name another one, or leave the target out",
                )
        if not self.takes_samples or self.carbon.ingester is None:
            return
        namespaces = self.namespaces if self.knows_namespaces else None
        for index, rule in enumerate(self.carbon.ingester.rules or ()):
            for relative, text in policy_problems(rule, namespaces):
                yield f"carbon.ingester.rules[{index}].{relative}", text

    def _check_sinks(self) -> None:
        """Raises ``ValueError``."""
        if not self.takes_samples:
            return
        stores = [sink.type for sink in self.sinks].count("embedded") + (self.store == "embedded")
        if stores > 1:
            raise ValueError("sinks: there is one embedded store only; with backend: embedded it is not named again")
        names = [sink.called for sink in self.sinks]
        if self.backend == "prom-remote" and self.prometheus_remote_backend is not None:
            names += [sink_name(endpoint.name) for endpoint in self.prometheus_remote_backend.endpoints]
        else:
            names.append(self.store)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sinks: the name {twice[0]!r} is taken twice; give one of them another name")
        for name, queue in self._queues():
            try:
                queue.over(self.sink_queue)
            except ValueError as error:
                raise ValueError(f"the queue of sink {name}: {error}") from error
        for sink in self.sinks if self.knows_namespaces else ():
            known = {(n.resolution_ns, n.retention_ns) if n.aggregated else (0, 0) for n in self.namespaces}
            unknown = (sink.attributes or frozenset()) - known
            if unknown:
                resolution, retention = min(unknown)
                named = (
                    f"{format_duration(resolution)}:{format_duration(retention)}" if resolution else UNAGGREGATED_POLICY
                )
                raise ValueError(
                    f"sinks: {sink.called}: no namespace has the policy {named}, so that nothing would reach it"
                )

    def _queues(self) -> list[tuple[str, QueueOverrides]]:
        """What the file says of each queue, by the name of its sink."""
        queues = [(sink.called, sink.queue) for sink in self.sinks]
        if self.backend == "prom-remote" and self.prometheus_remote_backend is not None:
            queues += [(one.name, one.queue) for one in self.prometheus_remote_backend.endpoints]
        return queues

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """The namespaces of storage, in the order of the file; with ``backend: prom-remote`` the endpoints are these."""
        if self.backend == "prom-remote" and self.prometheus_remote_backend is not None:
            return endpoint_namespaces(self.prometheus_remote_backend)
        return namespaces_of(self.clusters)

    @property
    def store(self) -> Literal["embedded", "m3db", "grpc", "noop-etcd", "prom-remote"]:
        """What ``backend`` means in this file."""
        if self.backend:
            return self.backend
        return "m3db" if any(cluster.client is not None for cluster in self.clusters) else "embedded"

    @property
    def m3db_client(self) -> M3DBClientConfig | None:
        """The client of M3DB, of a coordinator whose store that is; None: of another one, or of one that cannot start (``unsupported``)."""
        clients = [cluster.client for cluster in self.clusters if cluster.client is not None]
        return clients[0] if self.store == "m3db" and len(clients) == 1 else None

    @property
    def knows_namespaces(self) -> bool:
        """Whether its namespaces are those of this file, and not those of M3DB's registry."""
        return self.store != "m3db" or bool(self.namespaces)

    @property
    def cluster_state(self) -> StoreSection:
        """Where KV is: ``clusterManagement``, or the etcd of M3DB's nodes where that says nothing, as in M3."""
        section = self.cluster_management
        client = self.m3db_client
        if client is not None and not (section.etcd or section.zookeeper or section.embedded):
            cluster = client.config.synchronous
            if isinstance(cluster, DynamicClusterConfig) and cluster.service.etcd_clusters:
                return ClusterManagementConfig(etcd=cluster.service)
        return section

    def is_own_etcd(self, section: EtcdSection) -> bool:
        """Whether an etcd is that of ``cluster_state``."""
        own, other = self.cluster_state.store(None), section.client()
        return isinstance(own, Etcd) and (own.endpoints, own.tls) == (other.endpoints, other.tls)

    @property
    def has_embedded_store(self) -> bool:
        """Whether there is one, alone or among others."""
        return self.store == "embedded" or any(sink.type == "embedded" for sink in self.sinks)

    @property
    def embedded_alone(self) -> bool:
        """Whether all values go to the embedded store, and nowhere else."""
        return self.store == "embedded" and not self.sinks

    @property
    def takes_samples(self) -> bool:
        """Whether there is any way in for samples; without, the coordinator administrates only."""
        return self.backend != "noop-etcd"

    @property
    def sends_metadata(self) -> bool:
        """Whether there is an endpoint that is to be told what metrics are."""
        remote = self.prometheus_remote_backend
        return (
            self.backend == "prom-remote" and remote is not None and any(one.send_metadata for one in remote.endpoints)
        )

    @property
    def remote_producer(self) -> ProducerOptions | None:
        """The way to aggregators of their own; None: the file names none."""
        remote = self.downsample.remote_aggregator if self.downsample is not None else None
        if remote is None or remote.client.type != "m3msg" or remote.client.m3msg is None:
            return None
        return remote.client.m3msg.producer

    @property
    def remote_legacy(self) -> LegacyOptions | None:
        """The same over raw TCP."""
        remote = self.downsample.remote_aggregator if self.downsample is not None else None
        if remote is None:
            return None
        return remote.client.legacy(self.cluster_state.environment, self.memory_shares.buffer)

    @property
    def has_aggregators(self) -> bool:
        """Whether the file names aggregators of their own."""
        return self.downsample is not None and self.downsample.remote_aggregator is not None

    @property
    def aggregates_inside(self) -> bool:
        """Whether aggregation happens inside this coordinator: there are no aggregators of their own, and something to aggregate into."""
        wanted = self.takes_samples and not self.has_aggregators and self.embedded_aggregator.enabled
        return wanted and (not self.knows_namespaces or any(namespace.aggregated for namespace in self.namespaces))

    @property
    def waits_for_aggregators(self) -> bool:
        """Whether a remote write is answered when the aggregators have it."""
        if self.writes.ack is None:
            return self.aggregates_inside
        return self.writes.ack == "aggregated" and self.no_aggregators is None and self.remote_legacy is None

    @property
    def past_limits(self) -> PastLimits | None:
        """How late samples may be at the door; None: that is for the aggregators to judge."""
        if not self.aggregates_inside:
            return None
        given = self.downsample.buffer_past_limits if self.downsample is not None else []
        return past_limits_of(given) or DEFAULT_PAST_LIMITS

    @property
    def memory_shares(self) -> MemoryShares:
        """What each part may take. Without a limit it is as with that which is there by default."""
        limit = self.memory.nbytes or memory_limit(0).nbytes
        return memory_shares(max(limit, LEAST_BYTES), len(self._queues()) or 1, inside=self.aggregates_inside)

    @property
    def memory(self) -> MemoryLimit:
        """What all parts may take together."""
        inside = self.embedded_aggregator.memory_limit_bytes if self.aggregates_inside else 0
        return (
            memory_limit(inside, "embeddedAggregator.memoryLimitBytes")
            if inside
            else memory_limit(self.memory_limit_bytes)
        )

    @property
    def no_aggregators(self) -> str | None:
        """Why nothing can be sent to aggregators with this file; None: it can, or there is nothing to aggregate into."""
        if not self.takes_samples:
            return f"a coordinator with backend: {self.backend} administrates only"
        if not self.has_aggregators and not self.embedded_aggregator.enabled:
            return (
                "no aggregators are configured: set downsample.remoteAggregator in the coordinator's file, or leave "
                "embeddedAggregator.enabled out"
            )
        return None

    @property
    def in_vain(self) -> list[str]:
        """Sections that nothing comes of, one line each."""
        lines = []
        if self.prometheus_remote_backend is not None and self.backend != "prom-remote":
            lines.append("prometheusRemoteBackend is without effect: that takes backend: prom-remote")
        if self.store != "m3db" and any(cluster.client is not None for cluster in self.clusters):
            lines.append("clusters[].client is without effect: that takes backend: m3db, or none")
        if self.writes.ack == "aggregated" and (why := self.no_aggregators) is not None:
            lines.append(f"writes.ack: aggregated is without effect: {why}")
        if self.writes.ack == "aggregated" and self.remote_legacy is not None:
            lines.append("writes.ack: aggregated is without effect: a client of type legacy gets no acknowledgements")
        if self.downsample is not None and self.has_aggregators:
            section = self.downsample
            given = {
                "aggregationTypes": section.aggregation_types is not None,
                "bufferPastLimits": bool(section.buffer_past_limits),
                "entryTTL": bool(section.entry_ttl),
            }
            lines += [
                f"downsample.{key} is without effect with downsample.remoteAggregator, as in M3: the aggregators' files say it"
                for key, is_given in given.items()
                if is_given
            ]
        if self.write_forwarding.prom_remote_write.targets and not self.takes_samples:
            lines.append(
                f"writeForwarding is without effect: a coordinator with backend: {self.backend} administrates only"
            )
        if self.sinks and not self.takes_samples:
            lines.append(f"sinks are without effect: a coordinator with backend: {self.backend} administrates only")
        return lines

    def unsupported(self) -> list[tuple[str, str]]:
        """What this release cannot do: paths of keys, and texts; empty when the coordinator can start."""
        problems = []
        if self.backend == "grpc":
            problems.append(("backend", "'grpc' is not supported by this release; set m3db, embedded or prom-remote"))
        if self.store == "m3db":
            problems += self._m3db_problems()
        return problems

    def _m3db_problems(self) -> list[tuple[str, str]]:
        problems = []
        if not any(cluster.client is not None for cluster in self.clusters):
            text = "m3db takes a cluster with a client: clusters: [{client: {config: {service: …}}}]"
            problems.append(("backend", text))
        elif len(self.clusters) > 1:
            text = "several clusters are not supported by this release with M3DB as storage; leave one entry, with a client"
            problems.append(("clusters", text))
        if not self.namespaces and any(sink.type == "embedded" for sink in self.sinks):
            text = "an embedded store beside M3DB does not follow the registry of namespaces; list them under clusters[].namespaces"
            problems.append(("sinks", text))
        return problems


def load_coordinator(files: Sequence[str | Path]) -> Loaded[CoordinatorConfig]:
    """Reads the files. Raises ``ConfigError``. Whether this release can do what they ask for: ``CoordinatorConfig.unsupported``."""
    if not files:
        raise ConfigError(["no configuration file given; use -f FILE"])
    return load(files, CoordinatorConfig)
