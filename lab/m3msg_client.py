"""A producer of m3msg to a port of this machine, and values as aggregators hand them over."""

from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3msg.client import Client

__all__ = ["M3MsgClient", "aggregated"]


def aggregated(labels: dict[str, str], time_ns: int, value: float, policy: str) -> bytes:
    """A value as an aggregator hands it over."""
    tags = [(name.encode(), text.encode()) for name, text in sorted(labels.items())]
    return encode_aggregated(
        AggregatedMetric(id=encode_tags(tags), time_ns=time_ns, value=value, storage_policy=StoragePolicy.parse(policy))
    )


class M3MsgClient(Client):
    """One connection at a time to ``127.0.0.1:port``."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port))
