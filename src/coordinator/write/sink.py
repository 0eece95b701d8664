"""Where encoded messages go: the producer of the ingest topic, seen from the write handlers."""

from typing import Protocol

from m3msg.batch import MessageBatch


class RefusedError(Exception):
    """Messages cannot be taken now; the text says why, the sender shall try again after ``retry_after_s``."""

    def __init__(self, reason: str, retry_after_s: int = 5) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class MessageSink(Protocol):
    """Takes batches of messages for the aggregators."""

    @property
    def largest_message(self) -> int:
        """Bytes of the largest message that is taken."""

    @property
    def largest_batch(self) -> int:
        """Bytes of the largest batch of which nothing is lost where no message is acknowledged yet."""

    def ready(self, nbytes: int) -> int | None:
        """The topic's shard count if about ``nbytes`` of payload are taken at once, else None."""

    async def admit(self, nbytes: int) -> int:
        """Waits (not long) until they are taken; returns the topic's shard count. Raises ``RefusedError``."""

    def produce(self, batch: MessageBatch) -> bool:
        """Takes a batch, in the same step of the event loop in which ``ready`` or ``admit`` returned; False: not, after all."""


class AggregatorSink(MessageSink, Protocol):
    """The same, of a coordinator as a whole."""

    def refusal(self) -> str | None:
        """Why nothing can be sent now; None: it can."""
