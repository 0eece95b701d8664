"""Who is where: every aggregator has a loopback address of its own, so that all use M3's ports, as on machines of their own.

With ``free_ports`` they still have their own addresses, but ports that nobody uses, the same for all: a mirrored placement pairs
hosts whose ports are equal.
"""

from dataclasses import dataclass

from lab.admin_calls import AggregatorInstance
from lab.ports import free_ports as ports_of

__all__ = ["Instance", "Layout", "make_layout"]


@dataclass(frozen=True)
class Instance:
    """One aggregator instance."""

    number: int
    """From 1."""
    host: str
    m3msg: int
    http: int
    metrics: int
    isolation_group: str

    @property
    def id(self) -> str:
        """Its id in the placement."""
        return f"agg{self.number}"

    @property
    def url(self) -> str:
        """Its HTTP server."""
        return f"http://{self.host}:{self.http}"

    def placed(self) -> AggregatorInstance:
        """As the placement has it."""
        return AggregatorInstance(self.id, f"{self.host}:{self.m3msg}", self.isolation_group, self.http)


@dataclass(frozen=True)
class Layout:
    """The ports of the coordinator on 127.0.0.1, and the aggregators."""

    http: int
    metrics: int
    carbon: int
    ingest: int
    instances: tuple[Instance, ...]

    @property
    def coordinator(self) -> str:
        """The coordinator's URL."""
        return f"http://127.0.0.1:{self.http}"

    @property
    def coordinator_ports(self) -> tuple[int, int, int, int]:
        """All ports of the coordinator: HTTP, metrics, carbon, m3msg."""
        return self.http, self.metrics, self.carbon, self.ingest


def make_layout(instances: int, replicas: int, *, free_ports: bool) -> Layout:
    """``instances`` is a multiple of ``replicas``."""
    hosts = [f"127.0.0.{10 + number}" for number in range(1, instances + 1)]
    m3msg, http, metrics = ports_of(3, hosts) if free_ports else [6000, 6001, 6002]
    own = ports_of(4) if free_ports else [7201, 7203, 7204, 7507]
    made = tuple(
        Instance(number, host, m3msg, http, metrics, f"group-{chr(ord('a') + (number - 1) % replicas)}")
        for number, host in enumerate(hosts, 1)
    )
    return Layout(own[0], own[1], own[2], own[3], made)
