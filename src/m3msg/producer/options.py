"""The ``producer`` section of a configuration file (docs/m3/m3msg.md, producer options).

A duration of zero in a retry block means the default of M3's generic retrier, as in M3; absent blocks mean the component's defaults.
"""

from collections.abc import Callable
from typing import Literal

import msgspec

from m3cluster.keys import topic_key
from m3cluster.kv.sections import KVOverride
from m3msg.producer.rows import FRAME_OVERHEAD
from m3x.config import Duration, Meaningless, Section
from m3x.pools import BucketizedPoolConfig, ObjectPoolConfig
from m3x.retry import Backoff
from m3x.sections import RetryConfig
from m3x.tls import ClientTLSConfig

__all__ = [
    "BufferOptions", "CodecOptions", "ConnectionOptions", "MessageRetryOptions", "ProducerOptions", "StaticRetryOptions",
    "WriterOptions",
]  # fmt: skip

_SECOND = 1_000_000_000
LOOPBACK_BYTES = 512 << 20
"""More than the rollups of a million series at one flush; memory is only used while messages wait."""


class MessageRetryOptions(RetryConfig, frozen=True):
    """``messageRetry``: when an unacked message is sent again. Absent: 5 s, doubling; present without initialBackoff: 1 s, as in M3."""


class StaticRetryOptions(Section, frozen=True):
    """``staticMessageRetry``: the waits one by one; the last one repeats."""

    backoff: list[Duration] = []

    def __post_init__(self) -> None:
        if not self.backoff or any(wait < 0 for wait in self.backoff):
            raise ValueError("staticMessageRetry.backoff needs at least one wait, none of them negative")


class CodecOptions(Section, frozen=True):
    """``encoder`` and ``decoder``: the largest payload of a frame."""

    max_message_size: int = 4 << 20
    bytes_pool: Meaningless[BucketizedPoolConfig] = None

    def __post_init__(self) -> None:
        if self.max_message_size < 64:
            raise ValueError(f"maxMessageSize {self.max_message_size} is too small for a frame with an empty message")


class BufferOptions(Section, frozen=True):
    """``buffer``: bytes held until they are acked, for each consumer instance on its own (docs/architecture.md §4)."""

    on_full_strategy: Literal["dropOldest", "returnError"] = "dropOldest"
    """returnError: ``produce`` refuses where no replica of a shard has room; dropOldest: it never refuses."""
    max_buffer_size: int = 100 << 20
    max_message_size: int = 1 << 20
    forwarded_buffer_size: int = 0
    """Our own key: limit for forwarded (rollup) messages, apart from the rest; 0: as maxBufferSize."""
    loopback_buffer_size: int = 0
    """Our own key: limit for forwarded messages to this very instance, which are never held back; 0: ``LOOPBACK_BYTES``, or
    forwardedBufferSize where that is more."""
    close_check_interval: Meaningless[Duration] = None
    drop_oldest_interval: Meaningless[Duration] = None
    scan_batch_size: Meaningless[int] = None
    allowed_spillover_ratio: Meaningless[float] = None
    cleanup_retry: Meaningless[RetryConfig] = None

    def __post_init__(self) -> None:
        if self.max_buffer_size <= 0 or self.max_message_size <= 0:
            raise ValueError("maxBufferSize and maxMessageSize must be positive")
        if self.forwarded_buffer_size < 0 or self.loopback_buffer_size < 0:
            raise ValueError("forwardedBufferSize and loopbackBufferSize must not be negative")
        if self.max_message_size > self.max_buffer_size:
            raise ValueError(f"maxMessageSize {self.max_message_size} exceeds maxBufferSize {self.max_buffer_size}")

    @property
    def forwarded_bytes(self) -> int:
        """Limit for forwarded messages of one instance."""
        return self.forwarded_buffer_size or self.max_buffer_size

    @property
    def loopback_bytes(self) -> int:
        """Limit for forwarded messages to ourselves."""
        return self.loopback_buffer_size or max(LOOPBACK_BYTES, self.forwarded_bytes)


class ConnectionOptions(Section, frozen=True):
    """``writer.connection``: TCP connections to one consumer instance."""

    num_connections: int = 4
    dial_timeout: Duration = Duration(5 * _SECOND)
    write_timeout: Duration = Duration(5 * _SECOND)
    """A connection that takes nothing and acks nothing for twelve times as long is made anew; 0: never. M3 does so after the time itself,
    but every reset sends messages twice, and a consumer that applies back-pressure is not dead."""
    keep_alive_period: Duration = Duration(5 * _SECOND)
    reset_delay: Duration = Duration(2 * _SECOND)
    """A connection that ends sooner than this counts as a failed attempt."""
    retry: RetryConfig = RetryConfig()
    flush_interval: Meaningless[Duration] = None
    write_buffer_size: Meaningless[int] = None
    read_buffer_size: Meaningless[int] = None
    abort_on_server_close: Meaningless[bool] = None
    forced_flush_timeout: Meaningless[Duration] = None
    tls: ClientTLSConfig = ClientTLSConfig(enabled=False)
    """Our own key, with those of M3's TLS clients. Present, it is on unless it says otherwise."""
    window_size: int = 16 << 20
    """Our own key: unacked payload bytes on the wire of one connection."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_connections <= 64:
            raise ValueError(f"numConnections must be between 1 and 64, found {self.num_connections}")
        if self.window_size <= 0:
            raise ValueError("windowSize must be positive")


class PlacementNamespaces(Section, frozen=True):
    """KV namespaces of placements and service metadata."""

    placement: str = "_sd.placement"
    metadata: str = "_sd.metadata"


class PlacementServiceOverride(Section, frozen=True):
    """``placementServiceOverride``."""

    namespaces: PlacementNamespaces = PlacementNamespaces()


class PlacementOptions(Section, frozen=True):
    """``writer.placement``: of its keys only ``isStaged`` matters to a producer."""

    is_staged: bool = False
    is_sharded: Meaningless[bool] = None
    is_mirrored: Meaningless[bool] = None
    allow_partial_replace: Meaningless[bool] = None
    allow_all_zones: Meaningless[bool] = None
    add_all_candidates: Meaningless[bool] = None
    shard_state_mode: Meaningless[int] = None
    skip_port_mirroring: Meaningless[bool] = None
    valid_zone: Meaningless[str] = None


class WriterOptions(Section, frozen=True):
    """``writer``: the topic, its placements and how messages travel."""

    topic_name: str
    topic_service_override: KVOverride = KVOverride()
    topic_watch_init_timeout: Duration = Duration(2 * _SECOND)
    placement: PlacementOptions = PlacementOptions()
    placement_service_override: PlacementServiceOverride = PlacementServiceOverride()
    placement_watch_init_timeout: Duration = Duration(2 * _SECOND)
    message_pool: Meaningless[ObjectPoolConfig] = None
    message_queue_new_writes_scan_interval: Meaningless[Duration] = None
    message_queue_full_scan_interval: Meaningless[Duration] = None
    message_queue_scan_batch_size: Meaningless[int] = None
    initial_ack_map_size: Meaningless[int] = None
    close_check_interval: Meaningless[Duration] = None
    ack_error_retry: Meaningless[RetryConfig] = None
    encoder: CodecOptions = CodecOptions()
    decoder: CodecOptions = CodecOptions()
    connection: ConnectionOptions = ConnectionOptions()
    static_message_retry: StaticRetryOptions | None = None
    message_retry: MessageRetryOptions | None = None
    ignore_cutoff_cutover: bool = False
    without_consumer_scope: Meaningless[bool] = None
    message_writer_graceful_close_key: Meaningless[str] = None
    message_writer_graceful_close_kv_override: Meaningless[KVOverride] = msgspec.field(
        name="messageWriterGracefulCloseKVOverride", default=None
    )

    def __post_init__(self) -> None:
        if not self.topic_name:
            raise ValueError("topicName must not be empty")
        if self.static_message_retry is not None and self.message_retry is not None:
            raise ValueError("messageRetry and staticMessageRetry exclude each other")

    def topic_key(self, environment: str) -> str:
        """The topic's key in the KV; ``environment`` is the service's own."""
        place = self.topic_service_override
        return topic_key(place.environment or environment, self.topic_name, place.namespace)

    def retry_delay_ns(self) -> Callable[[int], int]:
        """From the number of attempts made to the wait before the next one (docs/m3/m3msg.md, message retry)."""
        if self.static_message_retry is not None:
            waits = self.static_message_retry.backoff
            return lambda attempt: int(waits[min(attempt, len(waits)) - 1])
        backoff = self.message_retry.backoff() if self.message_retry is not None else Backoff(5.0)
        return lambda attempt: int(min(backoff.delay(attempt), 86_400 * 365.0) * _SECOND)


class ProducerOptions(Section, frozen=True):
    """``producer``."""

    writer: WriterOptions
    buffer: BufferOptions = BufferOptions()

    @property
    def largest_message(self) -> int:
        """Payload bytes of the largest message that a producer takes; it counts larger ones, and they are lost."""
        return min(self.buffer.max_message_size, self.writer.encoder.max_message_size - FRAME_OVERHEAD)
