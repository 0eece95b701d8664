"""``ingest``: the m3msg server that takes aggregated metrics (docs/m3/coordinator.md, ingest section)."""

from m3metrics.errors import PolicyError
from m3metrics.policy import StoragePolicy
from m3msg.consumer.options import ConsumerOptions, ServerOptions
from m3x.config import Duration, Meaningless, Section
from m3x.pools import ObjectPoolConfig
from m3x.sections import RetryConfig

NO_NAMESPACE_GRACE_NS = 60_000_000_000
"""Of ``IngestConfig.no_namespace_grace``."""


class IngesterConfig(Section, frozen=True):
    """``ingest.ingester``: how often a failed write is tried again before its message is left unacknowledged."""

    worker_pool_size: int
    op_pool: Meaningless[ObjectPoolConfig] = None
    retry: RetryConfig = RetryConfig()
    log_sample_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.worker_pool_size <= 0:
            raise ValueError(f"pooled worker pool size too small: {self.worker_pool_size}")
        if not 0.0 <= self.log_sample_rate <= 1.0:
            raise ValueError(f"logSampleRate must be between 0 and 1, found {self.log_sample_rate}")


class HandlerConfig(Section, frozen=True):
    """``m3msg.handler``."""

    protobuf_decoder_pool: Meaningless[ObjectPoolConfig] = None
    blackhole_policies: list[str] = []
    """Storage policies whose values are acknowledged and thrown away."""

    def __post_init__(self) -> None:
        for text in self.blackhole_policies:
            try:
                StoragePolicy.parse(text)
            except PolicyError as error:
                raise ValueError(f"blackholePolicies: {text!r}: {error}") from error

    @property
    def blackholes(self) -> tuple[StoragePolicy, ...]:
        """``blackholePolicies``, parsed."""
        return tuple(StoragePolicy.parse(text) for text in self.blackhole_policies)


class M3MsgServerConfig(Section, frozen=True):
    """``ingest.m3msg``."""

    server: ServerOptions
    handler: HandlerConfig = HandlerConfig()
    consumer: ConsumerOptions = ConsumerOptions()


class IngestConfig(Section, frozen=True):
    """``ingest``."""

    ingester: IngesterConfig
    m3msg: M3MsgServerConfig
    no_namespace_grace: Duration = Duration(NO_NAMESPACE_GRACE_NS)
    """Our own key: where namespaces are not those of the file, so long values without one are left unacknowledged, as it may come."""

    def __post_init__(self) -> None:
        if self.no_namespace_grace < 0:
            raise ValueError(f"noNamespaceGrace must not be negative, found {self.no_namespace_grace}")
