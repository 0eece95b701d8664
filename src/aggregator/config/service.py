"""The whole file: one section per top-level key (docs/m3/aggregation.md, top-level sections).

M3 gives defaults per top-level section, all or nothing: the default of a *field* below is what M3 uses when the section is absent, the
defaults *inside* a section class are what it uses for a key omitted from a section that is present.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from aggregator.config.aggregator import AggregatorSection, aggregator_when_absent
from aggregator.config.blocks import MINUTE, SECOND, CodecConfig
from m3cluster.kv.sections import KVOverride, StoreSection
from m3x.access import SecurityConfig
from m3x.config import Address, Duration, Meaningless, Section, check_listeners, parse_address
from m3x.endpoints import check_endpoint, is_unix
from m3x.memory import UNLIMITED
from m3x.pools import BucketizedPoolConfig, MessagePoolConfig
from m3x.sections import DebugConfig, LoggingConfig, PrometheusConfig, RetryConfig
from m3x.sections import MetricsConfig as CommonMetricsConfig
from m3x.tls import ServerTLSConfig

__all__ = [
    "LONGEST_RUN_DIRECTORY",
    "HTTPConfig",
    "InstanceSection",
    "KVClientConfig",
    "M3MsgConfig",
    "MetricsConfig",
    "RuntimeOptionsConfig",
    "ServiceConfig",
]


LONGEST_RUN_DIRECTORY = 55
"""Unix socket paths end at 107 characters; the directory that an instance makes below it, and its sockets' names, take the rest."""
_LEAST_MEMORY_BYTES = 16 << 20
_LONGEST_RECORD_BYTES = 256 << 20
"""What the front takes of long frames that arrive, all together."""


class PrometheusPageConfig(PrometheusConfig, frozen=True, kw_only=True):
    """``metrics.prometheus``."""

    listen_address: str = ""
    """Empty: the page is served by the HTTP server of ``http``."""

    def __post_init__(self) -> None:
        if self.listen_address:
            parse_address(self.listen_address)
        super().__post_init__()


class MetricsConfig(CommonMetricsConfig, frozen=True, kw_only=True):
    """``metrics``."""

    prometheus: PrometheusPageConfig | None = None
    """None: no page at all."""


class M3MsgServerConfig(Section, frozen=True, kw_only=True):
    """``m3msg.server``."""

    listen_address: Address
    """Or ``unix:PATH``, ours."""
    retry: Meaningless[RetryConfig] = None
    keep_alive_enabled: bool = True
    keep_alive_period: Duration = Duration(10 * SECOND)
    tls: ServerTLSConfig = ServerTLSConfig()

    def __post_init__(self) -> None:
        check_endpoint(self.listen_address)


class ConsumerConfig(Section, frozen=True, kw_only=True):
    """``m3msg.consumer``."""

    encoder: CodecConfig = CodecConfig()
    decoder: CodecConfig = CodecConfig()
    message_pool: Meaningless[MessagePoolConfig] = None
    ack_flush_interval: Meaningless[Duration] = None
    ack_buffer_size: Meaningless[int] = None
    connection_write_buffer_size: int = 1 << 20
    connection_read_buffer_size: int = 1 << 20
    connection_write_timeout: Duration = Duration(5 * SECOND)


class M3MsgConfig(Section, frozen=True, kw_only=True):
    """``m3msg``."""

    server: M3MsgServerConfig
    consumer: ConsumerConfig = ConsumerConfig()


class HTTPConfig(Section, frozen=True, kw_only=True):
    """``http``."""

    listen_address: Address
    """Or ``unix:PATH``, ours."""
    read_timeout: Duration = Duration(10 * SECOND)
    write_timeout: Duration = Duration(10 * SECOND)

    def __post_init__(self) -> None:
        check_endpoint(self.listen_address)


class KVClientConfig(StoreSection, frozen=True, kw_only=True):
    """``kvClient``: where the cluster state is."""

    def __post_init__(self) -> None:
        if self.etcd is None and self.zookeeper is None and self.embedded is None:
            raise ValueError(
                "one of etcd, zookeeper and embedded is needed; for a single machine: embedded: {path: FILE}"
            )


class RuntimeOptionsConfig(Section, frozen=True, kw_only=True):
    """``runtimeOptions``: limits that KV may change while running (docs/m3/aggregation.md, runtime options)."""

    kv_config: KVOverride = KVOverride()
    write_values_per_metric_limit_per_second_key: str = "write-values-per-metric-limit-per-second"
    write_values_per_metric_limit_per_second: int = 0
    write_new_metric_limit_cluster_per_second_key: str = "write-new-metric-limit-cluster-per-second"
    write_new_metric_limit_cluster_per_second: int = 0
    write_new_metric_no_limit_warmup_duration: Duration = Duration(0)

    def __post_init__(self) -> None:
        self.refuse_negative("write_values_per_metric_limit_per_second", "write_new_metric_limit_cluster_per_second")


class InstanceSection(Section, frozen=True, kw_only=True):
    """``instance``: this implementation's own keys, all optional."""

    workers: int = 0
    """Worker processes; 0: one per CPU; at most one for each shard of the instance. A reload takes another number without a restart, if
    there are journals."""
    run_directory: str = ""
    """Sockets and option files of the processes of this instance; empty: a private temporary directory."""
    data_directory: str = ""
    """Where relative paths of the file are taken from, unless ``--data-dir`` is given; empty: the working directory."""
    journal: bool = True
    """Whether what is acked survives the death of its process, in ``{dataDirectory}/journal/{instance id}`` (``aggregator.journal``)."""
    journal_sync: Literal["os", "interval", "always"] = "os"
    """What it survives besides: ``os``: nothing; ``interval``: a power cut, but for the last 100 ms; ``always``: any."""
    memory_limit_bytes: int = 0
    """Of all that workers keep of series, together; 0: half of what the machine or its control group has; -1: no limit. From seven eighths
    on no new series are taken."""
    timer_samples_per_series_cap: int = 1 << 20
    shutdown_timeout: Duration = Duration(15 * SECOND)
    """SIGTERM: longest wait for acknowledgements of what was emitted."""
    transit_time: Duration = Duration(0)
    """Not zero: whoever sends timed samples has judged how late they are (``engine.options``: ``transit_ns``). With
    ``aggregator.bufferPastLimits`` only."""
    hand_over_timeout: Duration = Duration(60 * SECOND)
    """SIGTERM: longest wait for an instance that is there, but was restarted a moment ago and lacks open windows."""

    def __post_init__(self) -> None:
        self.refuse_negative("workers", "shutdown_timeout", "hand_over_timeout", "transit_time")
        if self.memory_limit_bytes not in (0, UNLIMITED) and self.memory_limit_bytes < _LEAST_MEMORY_BYTES:
            raise ValueError(
                f"memoryLimitBytes must be 0, {UNLIMITED} (no limit) or at least {_LEAST_MEMORY_BYTES}, "
                f"found {self.memory_limit_bytes}"
            )
        if self.timer_samples_per_series_cap < 1:
            raise ValueError("timerSamplesPerSeriesCap must be at least 1")
        if self.run_directory and len(str(Path(self.run_directory).resolve())) > LONGEST_RUN_DIRECTORY:
            raise ValueError(
                f"runDirectory is too long for the names of sockets: {self.run_directory!r} has more than "
                f"{LONGEST_RUN_DIRECTORY} characters"
            )


class ProtobufIteratorConfig(Section, frozen=True, kw_only=True):
    """``rawtcp.protobufIterator``."""

    init_buffer_size: Meaningless[int] = None
    max_message_size: int = 50 << 20
    """Of one metric; a longer one ends its connection."""
    bytes_pool: Meaningless[BucketizedPoolConfig] = None

    def __post_init__(self) -> None:
        if not 0 < self.max_message_size <= _LONGEST_RECORD_BYTES:
            raise ValueError(
                f"maxMessageSize must be above 0 and at most {_LONGEST_RECORD_BYTES}, found {self.max_message_size}"
            )


class RawTCPConfig(Section, frozen=True, kw_only=True):
    """``rawtcp``: M3's older transport, without acks."""

    former = {
        "msgpackIterator": "remove it; what sent msgpack has to send protobuf, or over m3msg",
    }
    listen_address: Address
    """Or ``unix:PATH``, ours."""
    error_log_limit_per_second: Meaningless[int] = None
    keep_alive_enabled: bool = True
    keep_alive_period: Duration = Duration(10 * SECOND)
    retry: Meaningless[RetryConfig] = None
    read_buffer_size: Meaningless[int] = None
    protobuf_iterator: ProtobufIteratorConfig = ProtobufIteratorConfig()
    tls: ServerTLSConfig = ServerTLSConfig()

    def __post_init__(self) -> None:
        check_endpoint(self.listen_address)


class ServiceConfig(Section, frozen=True, kw_only=True):
    """The configuration file of an aggregator instance."""

    logging: LoggingConfig = LoggingConfig()
    metrics: MetricsConfig = MetricsConfig(prometheus=PrometheusPageConfig(listen_address="0.0.0.0:6002"))
    m3msg: M3MsgConfig | None = None
    rawtcp: RawTCPConfig | None = None
    """Beside ``m3msg`` or instead of it."""
    http: HTTPConfig = HTTPConfig(
        listen_address="0.0.0.0:6001", read_timeout=Duration(MINUTE), write_timeout=Duration(MINUTE)
    )
    kv_client: KVClientConfig
    runtime_options: RuntimeOptionsConfig = RuntimeOptionsConfig()
    debug: Meaningless[DebugConfig] = None
    aggregator: AggregatorSection = aggregator_when_absent()
    instance: InstanceSection = InstanceSection()
    security: SecurityConfig = SecurityConfig()
    """Not a section of M3."""

    def __post_init__(self) -> None:
        prometheus = self.metrics.prometheus
        listeners = {
            "m3msg.server.listenAddress": self.server.server.listen_address if self.server is not None else "",
            "rawtcp.listenAddress": self.rawtcp.listen_address if self.rawtcp is not None else "",
            "http.listenAddress": self.http.listen_address,
            "metrics.prometheus.listenAddress": prometheus.listen_address if prometheus is not None else "",
        }
        check_listeners({key: address for key, address in listeners.items() if not is_unix(address)})

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.instance.transit_time and not self.aggregator.buffer_past_limits:
            yield "instance.transitTime", "takes aggregator.bufferPastLimits"
        # An instance has one etcd, that of its own zone; for the other stores a zone is a mere name.
        if self.kv_client.embedded is not None or self.kv_client.zookeeper is not None:
            return
        own, section = self.kv_client.zone, self.aggregator
        for path, zone in (
            ("aggregator.placementManager.kvConfig.zone", section.placement_manager.kv_config.zone),
            ("aggregator.flushTimesManager.kvConfig.zone", section.flush_times_manager.kv_config.zone),
            ("aggregator.electionManager.serviceID.zone", section.election_manager.service_id.zone),
            ("runtimeOptions.kvConfig.zone", self.runtime_options.kv_config.zone),
        ):
            if zone not in ("", own):
                yield path, f"an instance uses the etcd of one zone, that of kvClient ({own}); found {zone}"

    @property
    def server(self) -> M3MsgConfig | None:
        """The m3msg listener, M3's default when neither m3msg nor rawtcp is configured; None: there is only raw TCP."""
        if self.m3msg is None and self.rawtcp is None:
            return M3MsgConfig(server=M3MsgServerConfig(listen_address="0.0.0.0:6000"))
        return self.m3msg

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """Where metrics come in: over m3msg, over raw TCP, as far as configured. The last one's port is in ``host_id_port``."""
        found = [] if self.server is None else [self.server.server.listen_address]
        return (*found, *([] if self.rawtcp is None else [self.rawtcp.listen_address]))
