"""The ``client`` section of what sends metrics to aggregators, the same in both services (docs/m3/coordinator.md, aggregator client).

Type ``m3msg`` is a producer; the keys of type ``legacy``, which speaks M3's older protocol over TCP, are resolved by ``legacy``.
"""

from typing import Literal

import msgspec

from m3cluster.keys import kv_key
from m3cluster.kv.sections import KVOverride, PlacementWatcherSection
from m3msg.legacy.options import LegacyOptions
from m3msg.producer.options import ProducerOptions
from m3x.config import Duration, EmptyIsDefault, Meaningless, Section
from m3x.pools import BucketizedPoolConfig
from m3x.retry import Backoff
from m3x.sections import RetryConfig
from m3x.tls import ClientTLSConfig

__all__ = ["ClientConfig", "M3MsgClientConfig"]

_SECOND = 1_000_000_000
_MINUTE = 60 * _SECOND
_LEAST_QUEUE_BYTES = 1 << 20


class LegacyEncoderConfig(Section, frozen=True, kw_only=True):
    """``client.encoder``."""

    init_buffer_size: Meaningless[int] = None
    max_message_size: int = 50 << 20
    """A metric that is longer is refused."""
    bytes_pool: Meaningless[BucketizedPoolConfig] = None


class LegacyTLSConfig(Section, frozen=True, kw_only=True):
    """``client.connection.tls``."""

    enabled: bool = False
    insecure_skip_verify: bool = False
    tls_handshake_on_connect: Meaningless[bool] = None
    server_name: str = ""
    ca_file: str = msgspec.field(default="", name="caFile")
    cert_file: str = ""
    key_file: str = ""
    certificates_ttl: Duration = msgspec.field(name="certificatesTTL", default=Duration(0))

    def client(self) -> ClientTLSConfig:
        """The same for a client of ours."""
        return ClientTLSConfig(
            enabled=self.enabled,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            server_name=self.server_name,
            insecure_skip_verify=self.insecure_skip_verify,
            certificates_ttl=self.certificates_ttl,
        )


class LegacyConnectionConfig(Section, frozen=True, kw_only=True):
    """``client.connection``; a zero means the default, as in M3."""

    connection_timeout: Duration = Duration(_SECOND)
    connection_keep_alive: bool = True
    read_timeout: Meaningless[Duration] = None
    write_timeout: Duration = Duration(15 * _SECOND)
    init_reconnect_threshold: Meaningless[int] = None
    max_reconnect_threshold: Meaningless[int] = None
    reconnect_threshold_multiplier: Meaningless[int] = None
    max_reconnect_duration: Duration = Duration(20 * _SECOND)
    """The longest pause between two attempts to connect."""
    write_retries: RetryConfig = RetryConfig(max_retries=1, max_backoff=Duration(_SECOND))
    """How often what could not be written is written again."""
    tls: LegacyTLSConfig = LegacyTLSConfig()


class M3MsgClientConfig(Section, frozen=True, kw_only=True):
    """``client.m3msg``."""

    producer: ProducerOptions


class ClientConfig(Section, frozen=True, kw_only=True):
    """``client``: how rollups reach the instances that own their shards."""

    type: EmptyIsDefault[Literal["legacy", "m3msg", "tcp"]] = "legacy"
    m3msg: M3MsgClientConfig | None = None
    placement_kv: KVOverride | None = msgspec.field(default=None, name="placementKV")
    """This and what follows: of type ``legacy``."""
    placement_watcher: PlacementWatcherSection | None = None
    hash_type: EmptyIsDefault[Literal["murmur32"]] = "murmur32"
    shard_cutover_warmup_duration: Duration = Duration(10 * _MINUTE)
    shard_cutoff_linger_duration: Duration = Duration(60 * _MINUTE)
    encoder: LegacyEncoderConfig = LegacyEncoderConfig()
    flush_size: Meaningless[int] = None
    flush_worker_count: Meaningless[int] = None
    force_flush_every: Meaningless[Duration] = None
    max_batch_size: int = 8 << 20
    """Times ``queueSize``: bytes that may wait for one instance."""
    max_timer_batch_size: Meaningless[int] = None
    queue_size: int = 128
    queue_drop_type: EmptyIsDefault[Literal["oldest", "current"]] = "oldest"
    connection: LegacyConnectionConfig = LegacyConnectionConfig()

    def __post_init__(self) -> None:
        if self.type == "m3msg" and self.m3msg is None:
            raise ValueError("type m3msg needs m3msg.producer")

    def legacy(self, environment: str, most_bytes: int) -> LegacyOptions | None:
        """The options of type ``legacy``; None: it is another one. ``environment``: the KV's own; ``most_bytes``: of what waits for one
        instance, whatever the file says."""
        if self.type != "legacy" or self.placement_kv is None or self.placement_watcher is None:
            return None
        connection, place = self.connection, self.placement_kv
        retries = connection.write_retries
        key = self.placement_watcher.key or "m3aggregator"
        return LegacyOptions(
            placement_key=kv_key(place.environment or environment, key, place.namespace),
            warmup_ns=int(self.shard_cutover_warmup_duration),
            linger_ns=int(self.shard_cutoff_linger_duration),
            max_message_bytes=self.encoder.max_message_size or 50 << 20,
            queue_bytes=max(
                min((self.queue_size or 128) * (self.max_batch_size or 8 << 20), most_bytes), _LEAST_QUEUE_BYTES
            ),
            drop=self.queue_drop_type,
            connect_timeout_s=connection.connection_timeout.seconds or 1.0,
            write_timeout_s=connection.write_timeout.seconds or 15.0,
            keep_alive=connection.connection_keep_alive,
            max_reconnect_s=connection.max_reconnect_duration.seconds or 20.0,
            write_retries=retries.max_retries,
            retry=Backoff(
                retries.initial_backoff.seconds or 0.1,
                retries.backoff_factor or 2.0,
                retries.max_backoff.seconds or 1.0,
            ),
            tls=connection.tls.client(),
        )
