"""What a session is told; the defaults are M3's where M3 has such a thing (docs/m3/m3db_cluster.md, configuration of a client)."""

from dataclasses import dataclass, field

from m3db.consistency import ConnectLevel, CopyRules, ReadLevel, WriteLevel
from m3db.topology import Host
from m3x.retry import Backoff

__all__ = ["HostOptions", "RetryOptions", "SessionOptions", "StaticTopology"]


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """How often something is tried again, and when."""

    backoff: Backoff
    retries: int | None
    """After the first attempt; None: for ever."""

    def delay_s(self, retry: int) -> float | None:
        """Before that retry (1 is the first); None: there is no such one."""
        return None if self.retries is not None and retry > self.retries else self.backoff.delay(retry)


@dataclass(frozen=True, slots=True)
class HostOptions:
    """Connections to one host, and what may be on its way there."""

    connections: int = 2
    connect_timeout_s: float = 5.0
    """TCP, handshake and the first health call, each."""
    health_interval_s: float = 4.0
    health_jitter_s: float = 2.0
    """A random part of it is added to each interval."""
    health_timeout_s: float = 5.0
    health_fail_limit: int = 4
    """So many failed checks in a row end a connection."""
    health_throttle_factor: float = 0.5
    """Times the connect timeout, but at least a second: the pause after a check that failed."""
    reconnect: Backoff = field(default_factory=lambda: Backoff(0.1, 2.0, 2.0))
    max_outstanding_bytes: int = 16 << 20
    """Sent without an answer; beyond it a host that answers is waited for, and one that does not is left out."""
    stalled_after_s: float = 1.0
    """Without any answer for so long a host is not waited for."""

    @property
    def health_pause_s(self) -> float:
        """After a check that failed."""
        return max(1.0, self.health_throttle_factor * self.connect_timeout_s)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """One cluster of nodes."""

    rules: CopyRules = field(default_factory=CopyRules)
    """Of writes: their level, and which copies count."""
    read_level: ReadLevel = ReadLevel.UNSTRICT_MAJORITY
    connect_level: ConnectLevel = ConnectLevel.ANY
    connect_timeout_s: float = 20.0
    """Of each step of the wait for ``connect_level``."""
    write_timeout_s: float = 10.0
    write_retry: RetryOptions = field(default_factory=lambda: RetryOptions(Backoff(0.5, 3.0), 2))
    fetch_retry: RetryOptions = field(default_factory=lambda: RetryOptions(Backoff(0.5, 2.0), 3))
    """For whoever reads."""
    elements_per_call: int = 512
    """M3 has 128. More make a value cheaper, here and at the node (``m3db.write.MOST_ELEMENTS``); but a node that indexes new series before
    it answers works through a call one by one."""
    host: HostOptions = field(default_factory=HostOptions)
    hash_seed: int = 0
    """For whoever computes shards of ids; a static topology has seed 0."""
    write_timestamp_offset_ns: int = 0
    """For whoever fills ``WriteRows``: taken off every timestamp before it is cut to its unit."""
    equal_timestamps: str = "iterate_last_pushed"
    """For whoever merges replicas."""

    @property
    def write_level(self) -> WriteLevel:
        """Of writes."""
        return self.rules.level


@dataclass(frozen=True, slots=True)
class StaticTopology:
    """Hosts that a file names."""

    hosts: tuple[Host, ...]
    num_shards: int
    replicas: int
