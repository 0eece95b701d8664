"""``ingest``: the m3msg server that takes aggregated metrics (reference/coordinator.md §11.1, m3msg.md §22.1-22.3)."""

from typing import Literal

import msgspec

from m3msg.producer.options import CodecOptions, RetryOptions
from m3x.config import Address, Duration, Meaningless, Section, parse_address

_MILLISECOND = 1_000_000


class IngesterConfig(Section):
    """``ingest.ingester``: how often a failed write is tried again before its message is left unacknowledged."""

    worker_pool_size: int
    op_pool: Meaningless = None
    retry: RetryOptions = RetryOptions()
    log_sample_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.worker_pool_size <= 0:
            raise ValueError(f"pooled worker pool size too small: {self.worker_pool_size}")
        if not 0.0 <= self.log_sample_rate <= 1.0:
            raise ValueError(f"logSampleRate must be between 0 and 1, found {self.log_sample_rate}")


class TLSConfig(Section):
    """``server.tls``: only ``disabled`` is offered."""

    mode: Literal["disabled", "permissive", "enforced"] = "disabled"
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = msgspec.field(name="clientCAFile", default="")
    certificates_ttl: Duration = msgspec.field(name="certificatesTTL", default=Duration(0))
    m_tls_enabled: bool = msgspec.field(name="mTLSEnabled", default=False)

    def __post_init__(self) -> None:
        if self.mode != "disabled":
            raise ValueError(f"TLS mode {self.mode!r} is not supported; set mode: disabled")


class ServerConfig(Section):
    """``m3msg.server``."""

    listen_address: Address
    retry: Meaningless = None
    keep_alive_enabled: bool = True
    keep_alive_period: Duration = Duration(10_000 * _MILLISECOND)
    tls: TLSConfig = TLSConfig()

    def __post_init__(self) -> None:
        parse_address(self.listen_address)


class ConsumerConfig(Section):
    """``m3msg.consumer``: acknowledgements."""

    encoder: CodecOptions = CodecOptions()
    decoder: CodecOptions = CodecOptions()
    message_pool: Meaningless = None
    ack_flush_interval: Duration = Duration(200 * _MILLISECOND)
    ack_buffer_size: int = 1 << 20
    connection_write_buffer_size: Meaningless = None
    connection_read_buffer_size: Meaningless = None
    connection_write_timeout: Duration = Duration(5_000 * _MILLISECOND)


class HandlerConfig(Section):
    """``m3msg.handler``."""

    protobuf_decoder_pool: Meaningless = None
    blackhole_policies: list[str] = []
    """Storage policies whose values are acknowledged and thrown away."""


class M3MsgServerConfig(Section):
    """``ingest.m3msg``."""

    server: ServerConfig
    handler: HandlerConfig = HandlerConfig()
    consumer: ConsumerConfig = ConsumerConfig()


class IngestConfig(Section):
    """``ingest``."""

    ingester: IngesterConfig
    m3msg: M3MsgServerConfig
