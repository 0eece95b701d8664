"""The ``client`` section of what sends metrics to aggregators, the same in both services (docs/m3/coordinator.md, aggregator client).

Only type ``m3msg`` is offered. The keys of the others, which speak M3's older protocol over TCP, are read and are without effect.
"""

from typing import Literal

import msgspec

from m3cluster.kv.sections import KVOverride, PlacementWatcherSection
from m3msg.producer.options import ProducerOptions
from m3x.config import Duration, EmptyIsDefault, Meaningless, Section
from m3x.pools import BucketizedPoolConfig
from m3x.sections import RetryConfig

__all__ = ["ClientConfig", "M3MsgClientConfig"]


class LegacyEncoderConfig(Section, frozen=True, kw_only=True):
    """``client.encoder``."""

    init_buffer_size: int = 0
    max_message_size: int = 0
    bytes_pool: BucketizedPoolConfig | None = None


class LegacyTLSConfig(Section, frozen=True, kw_only=True):
    """``client.connection.tls``."""

    enabled: bool = False
    insecure_skip_verify: bool = False
    tls_handshake_on_connect: bool = False
    server_name: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    certificates_ttl: Duration = msgspec.field(name="certificatesTTL", default=Duration(0))


class LegacyConnectionConfig(Section, frozen=True, kw_only=True):
    """``client.connection``."""

    connection_timeout: Duration = Duration(0)
    connection_keep_alive: bool = False
    read_timeout: Duration = Duration(0)
    write_timeout: Duration = Duration(0)
    init_reconnect_threshold: int = 0
    max_reconnect_threshold: int = 0
    reconnect_threshold_multiplier: int = 0
    max_reconnect_duration: Duration = Duration(0)
    write_retries: RetryConfig | None = None
    tls: LegacyTLSConfig | None = None


class M3MsgClientConfig(Section, frozen=True, kw_only=True):
    """``client.m3msg``."""

    producer: ProducerOptions


class ClientConfig(Section, frozen=True, kw_only=True):
    """``client``: how rollups reach the instances that own their shards."""

    type: EmptyIsDefault[Literal["legacy", "m3msg", "tcp"]] = "legacy"
    m3msg: M3MsgClientConfig | None = None
    placement_kv: Meaningless[KVOverride] = msgspec.field(default=None, name="placementKV")
    placement_watcher: Meaningless[PlacementWatcherSection] = None
    hash_type: Meaningless[EmptyIsDefault[Literal["murmur32"]]] = None
    shard_cutover_warmup_duration: Meaningless[Duration] = None
    shard_cutoff_linger_duration: Meaningless[Duration] = None
    encoder: Meaningless[LegacyEncoderConfig] = None
    flush_size: Meaningless[int] = None
    flush_worker_count: Meaningless[int] = None
    force_flush_every: Meaningless[Duration] = None
    max_batch_size: Meaningless[int] = None
    max_timer_batch_size: Meaningless[int] = None
    queue_size: Meaningless[int] = None
    queue_drop_type: Meaningless[EmptyIsDefault[Literal["current", "oldest"]]] = None
    connection: Meaningless[LegacyConnectionConfig] = None

    def __post_init__(self) -> None:
        if self.type == "m3msg" and self.m3msg is None:
            raise ValueError("type m3msg needs m3msg.producer")
