"""``downsample.remoteAggregator``: the client of the aggregators (docs/m3/coordinator.md, aggregator client); its producer is m3msg's."""

from m3msg.producer.client import ClientConfig
from m3x.config import Section


class RemoteClientConfig(ClientConfig, frozen=True):
    """``remoteAggregator.client``; the legacy TCP client of M3 is not offered."""

    def __post_init__(self) -> None:
        if self.type != "m3msg":
            raise ValueError(f"client type {self.type!r} is not supported; set type: m3msg")
        if self.m3msg is None:
            raise ValueError("m3msg aggregator client: missing m3msg options")


class RemoteAggregatorConfig(Section, frozen=True):
    """``downsample.remoteAggregator``."""

    client: RemoteClientConfig
