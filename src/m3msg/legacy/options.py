"""What a client of raw TCP is told."""

from dataclasses import dataclass
from typing import Literal

from m3x.retry import Backoff
from m3x.tls import ClientTLSConfig

__all__ = ["LegacyOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyOptions:
    """Keys of M3's client, defaults included (docs/m3/coordinator.md, aggregator client)."""

    placement_key: str
    """Where in the KV the placement of the aggregators is."""
    warmup_ns: int
    """A shard gets metrics so long before its cutover …"""
    linger_ns: int
    """… and so long after its cutoff."""
    max_message_bytes: int
    queue_bytes: int
    """What may wait for one instance."""
    drop: Literal["oldest", "current"]
    """What is given up when it is more: what waits, or what comes."""
    connect_timeout_s: float
    write_timeout_s: float
    keep_alive: bool
    max_reconnect_s: float
    """The longest pause between two attempts to connect."""
    write_retries: int
    """How often what could not be written is written again, over a new connection."""
    retry: Backoff
    tls: ClientTLSConfig
