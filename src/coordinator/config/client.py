"""``downsample.remoteAggregator.client``: the m3msg producer towards the aggregators (reference/coordinator.md §6.1, m3msg.md §22.4-22.6)."""

from typing import Literal

import msgspec

from m3x.config import Duration, Meaningless, Section

_SECOND = 1_000_000_000


class RetryConfig(Section):
    """M3's retry block (reference/coordinator.md §13): zero means the default."""

    initial_backoff: Duration = Duration(_SECOND)
    backoff_factor: float = 2.0
    max_backoff: Duration = Duration(0)
    """0: unbounded."""
    max_retries: int = 2
    forever: bool = False
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.initial_backoff < 0 or self.max_backoff < 0 or self.backoff_factor < 0 or self.max_retries < 0:
            raise ValueError("backoffs, the factor and maxRetries must not be negative")


class MessageRetryConfig(Section):
    """``messageRetry``: when an unacknowledged message is sent again; M3's own default for the first time is 5 s."""

    initial_backoff: Duration = Duration(_SECOND)
    backoff_factor: float = 2.0
    max_backoff: Duration = Duration(0)
    max_retries: int = 2
    forever: bool = False
    jitter: bool = True


class StaticRetryConfig(Section):
    """``staticMessageRetry``: the waits one by one."""

    backoff: list[Duration] = []


class CodecConfig(Section):
    """Largest frame, length prefix included."""

    max_message_size: int = 4 << 20
    bytes_pool: Meaningless = None


class BufferConfig(Section):
    """``producer.buffer``: bytes held until they are acknowledged."""

    on_full_strategy: Literal["dropOldest", "returnError"] = "dropOldest"
    max_buffer_size: int = 100 << 20
    max_message_size: int = 1 << 20
    close_check_interval: Meaningless = None
    drop_oldest_interval: Meaningless = None
    scan_batch_size: Meaningless = None
    allowed_spillover_ratio: Meaningless = None
    cleanup_retry: Meaningless = None

    def __post_init__(self) -> None:
        if self.max_buffer_size <= 0 or self.max_message_size <= 0:
            raise ValueError("maxBufferSize and maxMessageSize must be positive")


class ConnectionConfig(Section):
    """``writer.connection``: TCP connections to one aggregator instance."""

    num_connections: int = 4
    dial_timeout: Duration = Duration(5 * _SECOND)
    write_timeout: Duration = Duration(5 * _SECOND)
    keep_alive_period: Duration = Duration(5 * _SECOND)
    reset_delay: Duration = Duration(2 * _SECOND)
    retry: RetryConfig = RetryConfig()
    flush_interval: Duration = Duration(_SECOND)
    write_buffer_size: Meaningless = None
    read_buffer_size: Meaningless = None
    abort_on_server_close: Meaningless = None
    forced_flush_timeout: Meaningless = None

    def __post_init__(self) -> None:
        if self.num_connections < 1:
            raise ValueError(f"numConnections must be at least 1, found {self.num_connections}")


class ServiceOverrideConfig(Section):
    """Where in KV something lives, when not in the client's own zone and environment."""

    zone: str = ""
    environment: str = ""
    namespace: str = ""


class PlacementNamespacesConfig(Section):
    """KV namespaces of placements and service metadata."""

    placement: str = "_sd.placement"
    metadata: str = "_sd.metadata"


class PlacementOverrideConfig(Section):
    """``placementServiceOverride``."""

    namespaces: PlacementNamespacesConfig = PlacementNamespacesConfig()


class PlacementOptionsConfig(Section):
    """``writer.placement``: of its keys only ``isStaged`` matters to a producer."""

    is_staged: bool = False
    is_sharded: Meaningless = None
    is_mirrored: Meaningless = None
    allow_partial_replace: Meaningless = None
    allow_all_zones: Meaningless = None
    add_all_candidates: Meaningless = None
    shard_state_mode: Meaningless = None
    skip_port_mirroring: Meaningless = None
    valid_zone: Meaningless = None


class WriterConfig(Section):
    """``producer.writer``: topic, placements and how messages travel."""

    topic_name: str
    topic_service_override: ServiceOverrideConfig = ServiceOverrideConfig()
    topic_watch_init_timeout: Duration = Duration(2 * _SECOND)
    placement: PlacementOptionsConfig = PlacementOptionsConfig()
    placement_service_override: PlacementOverrideConfig = PlacementOverrideConfig()
    placement_watch_init_timeout: Duration = Duration(2 * _SECOND)
    message_pool: Meaningless = None
    message_queue_new_writes_scan_interval: Meaningless = None
    message_queue_full_scan_interval: Meaningless = None
    message_queue_scan_batch_size: Meaningless = None
    initial_ack_map_size: Meaningless = None
    close_check_interval: Meaningless = None
    ack_error_retry: Meaningless = None
    encoder: CodecConfig = CodecConfig()
    decoder: CodecConfig = CodecConfig()
    connection: ConnectionConfig = ConnectionConfig()
    static_message_retry: StaticRetryConfig | None = None
    message_retry: MessageRetryConfig | None = None
    ignore_cutoff_cutover: bool = False
    without_consumer_scope: Meaningless = None
    message_writer_graceful_close_key: str = ""
    message_writer_graceful_close_kv_override: Meaningless = msgspec.field(
        name="messageWriterGracefulCloseKVOverride", default=None
    )

    def __post_init__(self) -> None:
        if not self.topic_name:
            raise ValueError("topicName must not be empty")
        if self.static_message_retry is not None and self.message_retry is not None:
            raise ValueError("messageRetry and staticMessageRetry exclude each other")


class ProducerConfig(Section):
    """``m3msg.producer``."""

    writer: WriterConfig
    buffer: BufferConfig = BufferConfig()


class M3MsgClientConfig(Section):
    """``client.m3msg``."""

    producer: ProducerConfig


class RemoteClientConfig(Section):
    """``remoteAggregator.client``; the legacy TCP client of M3 is not offered."""

    type: Literal["legacy", "m3msg", "tcp"] = "legacy"
    m3msg: M3MsgClientConfig | None = None

    def __post_init__(self) -> None:
        if self.type != "m3msg":
            raise ValueError(f"client type {self.type!r} is not supported; set type: m3msg")
        if self.m3msg is None:
            raise ValueError("m3msg aggregator client: missing m3msg options")


class RemoteAggregatorConfig(Section):
    """``downsample.remoteAggregator``."""

    client: RemoteClientConfig
