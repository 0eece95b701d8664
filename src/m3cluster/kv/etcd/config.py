"""What names an etcd cluster and how to talk to it (docs/m3/cluster.md, etcd block). Needs no gRPC."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Etcd", "EtcdTLS"]


@dataclass(frozen=True, slots=True)
class EtcdTLS:
    """PEM files. ``ca_path`` empty: the roots that gRPC brings along. Certificate and key: both or neither."""

    ca_path: str | Path = ""
    cert_path: str | Path = ""
    key_path: str | Path = ""

    def __post_init__(self) -> None:
        if bool(str(self.cert_path)) != bool(str(self.key_path)):
            raise ValueError("a client certificate needs both its certificate file and its key file")


@dataclass(frozen=True, slots=True)
class Etcd:
    """An etcd v3 cluster (3.4 or newer). Defaults are M3's; all times are in seconds.

    ``endpoints`` are ``host:port``, with ``http://`` or ``https://`` in front if you like; ``https`` or ``tls`` turn TLS on. They are tried
    in this order and kept for as long as they answer. ``keepalive_s`` (0: off) plus a random part of ``keepalive_jitter_s`` is gRPC's
    ping period, ``keepalive_timeout_s`` how long a ping may take. A watch stream that is silent for ``watch_silence_s`` is asked for its
    progress, and opened anew if that long again passes without an answer.

    ``cache_dir`` (empty: none) keeps the last known values in ``{service}_{zone}.json``; ``cache_dir_mode`` is for creating it.
    """

    endpoints: tuple[str, ...]
    tls: EtcdTLS | None = None
    dial_timeout_s: float = 15.0
    request_timeout_s: float = 10.0
    keepalive_s: float = 20.0
    keepalive_jitter_s: float = 10.0
    keepalive_timeout_s: float = 10.0
    watch_silence_s: float = 3.0
    cache_dir: str | Path = ""
    cache_dir_mode: int = 0o755
    zone: str = ""
    service: str = ""

    def __post_init__(self) -> None:
        if not self.endpoints or not all(endpoint.strip() for endpoint in self.endpoints):
            raise ValueError(
                "etcd needs at least one endpoint, and none may be empty; write host:port, such as etcd01:2379"
            )
        for name in ("dial_timeout_s", "request_timeout_s", "watch_silence_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"etcd {name} must be above 0, not {getattr(self, name)}")
        for name in ("keepalive_s", "keepalive_jitter_s", "keepalive_timeout_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"etcd {name} must not be negative: {getattr(self, name)}")

    def cache_path(self) -> Path | None:
        """The cache file, named by M3's rule: parts joined by ``_``, slashes replaced (docs/m3/cluster.md, cache file)."""
        if not str(self.cache_dir):
            return None
        name = "_".join(part for part in (self.service, self.zone) if part) or "kv"
        return Path(self.cache_dir) / f"{name.replace('/', '_')}.json"
