"""The way to aggregators over M3's raw TCP (``m3msg.legacy``): nothing is acknowledged, so nothing holds writes back."""

from coordinator.write.sink import RefusedError
from m3msg.batch import MessageBatch
from m3msg.legacy import LegacyClient, LegacyOptions

__all__ = ["RawTCP"]


class RawTCP:
    """An ``AggregatorSink``: refuses while there is no placement; what is more than its queues hold is dropped, counted, as in M3."""

    def __init__(self, options: LegacyOptions, client: LegacyClient) -> None:
        self.largest_message = options.max_message_bytes
        """See ``MessageSink``."""
        self.largest_batch = options.queue_bytes
        """See ``MessageSink``."""
        self._client = client

    def ready(self, nbytes: int) -> int | None:
        """See ``MessageSink``."""
        return None if self.refusal() is not None else self._client.num_shards

    async def admit(self, nbytes: int) -> int:
        """See ``MessageSink``."""
        if (refusal := self.refusal()) is not None:
            raise RefusedError(f"{refusal}; nothing was accepted, send it again")
        return self._client.num_shards

    def produce(self, batch: MessageBatch) -> bool:
        """See ``MessageSink``."""
        self._client.produce(batch)
        return True

    def refusal(self) -> str | None:
        """See ``AggregatorSink``."""
        return self._client.trouble()
