"""``downsample.remoteAggregator``: the client of the aggregators (docs/m3/coordinator.md, aggregator client); its producer is m3msg's."""

from collections.abc import Iterator

from m3msg.producer.client import ClientConfig
from m3x.config import Section

_M3MSG = "type: m3msg, m3msg: {producer: {writer: {topicName: aggregator_ingest}}}"


class RemoteClientConfig(ClientConfig, frozen=True):
    """``remoteAggregator.client``; the legacy TCP client of M3 is not offered."""

    def __post_init__(self) -> None:
        if self.type == "m3msg" and self.m3msg is None:
            raise ValueError("m3msg aggregator client: missing m3msg options")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.type != "m3msg":
            yield "type", f"{self.type} (the default) is not supported; write {_M3MSG}"


class RemoteAggregatorConfig(Section, frozen=True):
    """``downsample.remoteAggregator``."""

    client: RemoteClientConfig
