"""Keys of ``clusters[].client`` that have no effect here, or are those of M3DB's nodes."""

import msgspec

from m3x.config import Duration, Nonzero, Section

__all__ = ["CircuitBreakerMiddlewareConfig", "NodeNamespaceConfig", "SeedNodesConfig"]


class IndexConfig(Section, frozen=True, kw_only=True):
    """``static.namespaces[].index``."""

    enabled: Nonzero[bool]
    block_size: Nonzero[Duration]


class RetentionConfig(Section, frozen=True, kw_only=True):
    """``static.namespaces[].retention``."""

    retention_period: Nonzero[Duration]
    future_retention_period: Nonzero[Duration]
    block_size: Nonzero[Duration]
    buffer_future: Nonzero[Duration]
    buffer_past: Nonzero[Duration]
    block_data_expiry: bool = False
    block_data_expiry_after_not_accessed_period: Duration = Duration(0)


class NodeNamespaceConfig(Section, frozen=True, kw_only=True):
    """``static.namespaces[]``."""

    id: Nonzero[str]
    bootstrap_enabled: bool = False
    flush_enabled: bool = False
    writes_to_commit_log: bool = False
    cleanup_enabled: bool = False
    repair_enabled: bool = False
    cold_writes_enabled: bool = False
    cache_blocks_on_retrieve: bool = False
    retention: RetentionConfig | None = None
    index: IndexConfig | None = None


class SeedNodeConfig(Section, frozen=True, kw_only=True):
    """``seedNodes.initialCluster[]``."""

    host_id: str = msgspec.field(name="hostID", default="")
    endpoint: str = ""
    cluster_state: str = ""


class SeedNodeSecurityConfig(Section, frozen=True, kw_only=True):
    """``seedNodes.peerTransportSecurity``."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    trusted_ca_file: str = ""
    client_cert_auth: bool = False
    auto_tls: bool = False


class SeedNodesConfig(Section, frozen=True, kw_only=True):
    """``seedNodes``."""

    root_dir: str = ""
    initial_advertise_peer_urls: list[str] = []
    advertise_client_urls: list[str] = []
    listen_peer_urls: list[str] = []
    listen_client_urls: list[str] = []
    initial_cluster: list[SeedNodeConfig] = []
    client_transport_security: SeedNodeSecurityConfig | None = None
    peer_transport_security: SeedNodeSecurityConfig | None = None


class CircuitBreakerConfig(Section, frozen=True, kw_only=True):
    """``circuitBreakerConfig.circuitBreakerConfig``."""

    window_size: int = 0
    bucket_duration: Duration = Duration(0)
    recovery_time: Duration = Duration(0)
    jitter: Duration = Duration(0)
    max_probe_time: Duration = Duration(0)
    minimum_requests: int = 0
    failure_ratio: float = 0.0
    probe_ratios: list[float] = []
    minimum_probe_requests: int = 0


class CircuitBreakerMiddlewareConfig(Section, frozen=True, kw_only=True):
    """``client.circuitBreakerConfig``."""

    circuit_breaker_config: CircuitBreakerConfig | None = None
