"""TLS of all sessions of a process with an ensemble: its files are loaded once, and again when they change. Needs no kazoo."""

import functools

from m3cluster.kv.store import KVError
from m3x.tls import ClientTLS, ClientTLSConfig, TLSError

__all__ = ["opened"]


@functools.lru_cache(maxsize=8)
def opened(config: ClientTLSConfig) -> ClientTLS:
    """Raises ``KVError`` for files that cannot be used."""
    try:
        return ClientTLS(config)
    except TLSError as error:
        raise KVError(f"zookeeper: {error}") from error
