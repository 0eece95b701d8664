"""The ``server`` and ``consumer`` sections of an m3msg server (docs/m3/m3msg.md, consumer and server)."""

from m3msg.producer.options import CodecOptions
from m3x.config import Address, Duration, Meaningless, Section, parse_address
from m3x.pools import MessagePoolConfig
from m3x.sections import RetryConfig
from m3x.tls import ServerTLSConfig

__all__ = ["ConsumerOptions", "ServerOptions"]

_MILLISECOND = 1_000_000


class ConsumerOptions(Section, frozen=True):
    """``consumer``: acks, frame sizes, and how much one connection may have in work."""

    encoder: CodecOptions = CodecOptions()
    """Largest ack frame."""
    decoder: CodecOptions = CodecOptions()
    """Largest message frame."""
    message_pool: Meaningless[MessagePoolConfig] = None
    ack_flush_interval: Duration = Duration(200 * _MILLISECOND)
    """Acks of a batch whose handler still runs leave after this time; otherwise they leave when it returns."""
    ack_buffer_size: int = 1 << 20
    """Acks that leave at once, whatever the interval."""
    connection_write_buffer_size: Meaningless[int] = None
    connection_read_buffer_size: Meaningless[int] = None
    connection_write_timeout: Duration = Duration(5_000 * _MILLISECOND)
    """A connection that does not read its acks for so long is closed; 0: never."""
    in_flight_size: int = 8 << 20
    """Our own key: bytes of one connection that handlers may have in work before it is not read any more."""

    def __post_init__(self) -> None:
        if self.ack_buffer_size <= 0 or self.in_flight_size <= 0:
            raise ValueError("ackBufferSize and inFlightSize must be positive")


class ServerOptions(Section, frozen=True):
    """``server``: where to listen."""

    listen_address: Address
    retry: Meaningless[RetryConfig] = None
    keep_alive_enabled: bool = True
    keep_alive_period: Duration = Duration(10_000 * _MILLISECOND)
    tls: ServerTLSConfig = ServerTLSConfig()

    def __post_init__(self) -> None:
        parse_address(self.listen_address)
