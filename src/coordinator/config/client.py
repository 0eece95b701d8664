"""``downsample.remoteAggregator``: the client of the aggregators (docs/m3/coordinator.md, aggregator client); its producer is m3msg's."""

from typing import Literal

from m3msg.producer.options import ProducerOptions
from m3x.config import Section


class M3MsgClientConfig(Section, frozen=True):
    """``client.m3msg``."""

    producer: ProducerOptions


class RemoteClientConfig(Section, frozen=True):
    """``remoteAggregator.client``; the legacy TCP client of M3 is not offered."""

    type: Literal["legacy", "m3msg", "tcp"] = "legacy"
    m3msg: M3MsgClientConfig | None = None

    def __post_init__(self) -> None:
        if self.type != "m3msg":
            raise ValueError(f"client type {self.type!r} is not supported; set type: m3msg")
        if self.m3msg is None:
            raise ValueError("m3msg aggregator client: missing m3msg options")


class RemoteAggregatorConfig(Section, frozen=True):
    """``downsample.remoteAggregator``."""

    client: RemoteClientConfig
