"""``downsample.remoteAggregator``: the client of the aggregators (docs/m3/coordinator.md, aggregator client)."""

from collections.abc import Iterator

from m3msg.producer.client import ClientConfig
from m3x.config import Section


class RemoteClientConfig(ClientConfig, frozen=True):
    """``remoteAggregator.client``."""

    def __post_init__(self) -> None:
        if self.type == "m3msg" and self.m3msg is None:
            raise ValueError("m3msg aggregator client: missing m3msg options")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.type == "tcp":
            yield "type", "unknown client type: tcp, which M3 refuses as well; write legacy or m3msg"
        if self.type != "legacy":
            return
        if self.placement_kv is None:
            yield "placementKV", "no placement KV config set: type legacy needs it, such as {namespace: /placement}"
        elif self.placement_watcher is None:
            yield (
                "placementWatcher",
                "no placement watcher config set: type legacy needs it, such as {key: m3aggregator}",
            )


class RemoteAggregatorConfig(Section, frozen=True):
    """``downsample.remoteAggregator``."""

    client: RemoteClientConfig
