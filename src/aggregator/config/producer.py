"""An m3msg producer in YAML: ``producer: {buffer, writer}`` (reference/m3msg.md §22.4-22.6)."""

from typing import Literal

import msgspec

from m3x.config import Duration, Meaningless, Section
from m3x.retry import Backoff

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
MINUTE = 60 * SECOND


class RetryConfig(Section):
    """M3's generic retry block: a zero in YAML means the default (reference/aggregator_core.md §15.2)."""

    initial_backoff: Duration = Duration(0)
    backoff_factor: float = 0.0
    max_backoff: Duration = Duration(0)
    """0: unbounded."""
    max_retries: int = 0
    forever: bool | None = None
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.initial_backoff < 0 or self.max_backoff < 0 or self.backoff_factor < 0 or self.max_retries < 0:
            raise ValueError("initialBackoff, maxBackoff, backoffFactor and maxRetries must not be negative")

    def backoff(self) -> Backoff:
        """The delays that this block asks for."""
        return Backoff(
            initial_s=(self.initial_backoff or Duration(SECOND)).seconds,
            factor=self.backoff_factor or 2.0,
            max_s=self.max_backoff.seconds or float("inf"),
            jitter=self.jitter,
        )

    @property
    def retries(self) -> int:
        """How often to try again; M3's 0 is 2."""
        return self.max_retries or 2


class ServiceIDConfig(Section):
    """``serviceID: {name, environment, zone}``."""

    name: str = ""
    environment: str = ""
    zone: str = ""


class KVOverride(Section):
    """``kvConfig`` and ``topicServiceOverride``: what is empty is the KV client's own."""

    zone: str = ""
    environment: str = ""
    namespace: str = ""


class NamespacesConfig(Section):
    """Namespaces of keys that belong to services."""

    placement: str = ""
    """Empty: ``_sd.placement``."""
    metadata: Meaningless = None


class PlacementServiceOverride(Section):
    """``placementServiceOverride``."""

    namespaces: NamespacesConfig = NamespacesConfig()


class PlacementOptionsConfig(Section):
    """``placement`` of a writer: only ``isStaged`` matters to m3msg."""

    is_staged: bool = False
    is_sharded: Meaningless = None
    is_mirrored: Meaningless = None
    allow_partial_replace: Meaningless = None
    allow_all_zones: Meaningless = None
    add_all_candidates: Meaningless = None
    shard_state_mode: Meaningless = None
    skip_port_mirroring: Meaningless = None
    valid_zone: Meaningless = None


class CodecConfig(Section):
    """Largest frame, length prefix included."""

    max_message_size: int = 4 << 20
    bytes_pool: Meaningless = None


class ConnectionConfig(Section):
    """``connection`` of a writer."""

    num_connections: int = 4
    dial_timeout: Duration = Duration(5 * SECOND)
    write_timeout: Duration = Duration(5 * SECOND)
    keep_alive_period: Duration = Duration(5 * SECOND)
    reset_delay: Duration = Duration(2 * SECOND)
    retry: RetryConfig = RetryConfig()
    flush_interval: Duration = Duration(SECOND)
    write_buffer_size: int = 65536
    read_buffer_size: int = 65536
    abort_on_server_close: bool = False
    forced_flush_timeout: Duration = Duration(5 * SECOND)

    def __post_init__(self) -> None:
        if self.num_connections < 1:
            raise ValueError("numConnections must be at least 1")


class StaticRetryConfig(Section):
    """``staticMessageRetry``: the waits one by one."""

    backoff: list[Duration] = []


class BufferConfig(Section):
    """``buffer`` of a producer."""

    on_full_strategy: Literal["dropOldest", "returnError"] = "dropOldest"
    max_buffer_size: int = 100 << 20
    max_message_size: int = 1 << 20
    close_check_interval: Meaningless = None
    drop_oldest_interval: Meaningless = None
    scan_batch_size: Meaningless = None
    allowed_spillover_ratio: float = 0.2
    cleanup_retry: Meaningless = None

    def __post_init__(self) -> None:
        if not 0 < self.max_message_size <= self.max_buffer_size:
            raise ValueError("expected 0 < maxMessageSize <= maxBufferSize")


class WriterConfig(Section):
    """``writer`` of a producer."""

    topic_name: str
    topic_service_override: KVOverride = KVOverride()
    topic_watch_init_timeout: Duration = Duration(2 * SECOND)
    placement: PlacementOptionsConfig = PlacementOptionsConfig()
    placement_service_override: PlacementServiceOverride = PlacementServiceOverride()
    placement_watch_init_timeout: Duration = Duration(2 * SECOND)
    message_pool: Meaningless = None
    message_queue_new_writes_scan_interval: Duration = Duration(200 * MILLISECOND)
    message_queue_full_scan_interval: Duration = Duration(5 * SECOND)
    message_queue_scan_batch_size: Meaningless = None
    initial_ack_map_size: Meaningless = None
    close_check_interval: Meaningless = None
    ack_error_retry: RetryConfig = RetryConfig()
    encoder: CodecConfig = CodecConfig()
    decoder: CodecConfig = CodecConfig()
    connection: ConnectionConfig = ConnectionConfig()
    static_message_retry: StaticRetryConfig = StaticRetryConfig()
    message_retry: RetryConfig = RetryConfig(initial_backoff=Duration(5 * SECOND))
    ignore_cutoff_cutover: bool = False
    without_consumer_scope: bool = False
    message_writer_graceful_close_key: Meaningless = None
    message_writer_graceful_close_kv_override: Meaningless = msgspec.field(
        default=None, name="messageWriterGracefulCloseKVOverride"
    )

    def __post_init__(self) -> None:
        if not self.topic_name:
            raise ValueError("topicName must not be empty")


class ProducerConfig(Section, kw_only=True):
    """``producer``."""

    buffer: BufferConfig = BufferConfig()
    writer: WriterConfig
