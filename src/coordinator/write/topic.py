"""The ingest topic: judges topic and placements, and refuses with a reason while nothing can be sent."""

import asyncio
from collections.abc import Callable

from coordinator.write.readiness import Opening, judge
from coordinator.write.sink import RefusedError
from m3cluster.topic import ServiceID
from m3msg.batch import MessageBatch
from m3msg.producer import Producer, ProducerClosedError
from m3msg.producer.options import ProducerOptions
from m3x.clock import wall_ns
from m3x.log import logger

ROOM_TIMEOUT_S = 5.0
"""How long a request waits for room in the producer's buffer before the sender is told to come again."""

_TICK_S = 1.0
_MOST_NAMED = 3

log = logger(__name__)


class IngestTopic:
    """The ``MessageSink`` of a coordinator; ``run`` it as long as it is used.

    It judges the topology that the producer follows, to tell senders whether their messages would arrive.
    """

    def __init__(
        self,
        options: ProducerOptions,
        producer: Producer,
        now_ns: Callable[[], int] = wall_ns,
    ) -> None:
        writer = options.writer
        self._topology = producer.topology
        self._name = writer.topic_name
        self._ignore_cutover = writer.ignore_cutoff_cutover
        self.largest_message = options.largest_message
        """See ``MessageSink``."""
        self.largest_batch = options.buffer.max_buffer_size
        """See ``MessageSink``."""
        self._most_bytes = options.buffer.max_buffer_size // 4
        self._producer = producer
        self._now_ns = now_ns
        self._opening: Opening = judge(self._name, None, {}, now_ns())
        self._reported = ""
        self._failed: str | None = None
        self._topology.listeners.append(self._judge)

    def fail(self, reason: str) -> None:
        """From now on everything is refused."""
        self._failed = reason

    def ready(self, nbytes: int) -> int | None:
        """See ``MessageSink``."""
        if self._failed is not None or self._opening.opens_ns is None or self._now_ns() < self._opening.opens_ns:
            return None
        if self._producer.room() < self._needed(nbytes):
            return None
        return self._producer.num_shards or None

    async def admit(self, nbytes: int) -> int:
        """See ``MessageSink``; waits up to ``ROOM_TIMEOUT_S`` for room."""
        refusal = self.refusal()
        if refusal is not None:
            raise RefusedError(f"{refusal}; nothing was accepted, send it again")
        try:
            async with asyncio.timeout(ROOM_TIMEOUT_S):
                await self._producer.wait_room(self._needed(nbytes))
        except TimeoutError:
            raise RefusedError(
                "the buffer towards the aggregators is full; nothing was accepted, send it again"
            ) from None
        except ProducerClosedError as error:
            raise RefusedError(f"{error}; nothing was accepted, send it again") from error
        if self._failed is not None:
            raise RefusedError(f"{self._failed}; nothing was accepted, send it again")
        return self._producer.num_shards

    def _needed(self, nbytes: int) -> int:
        return max(1, min(nbytes, self._most_bytes))

    def produce(self, batch: MessageBatch) -> bool:
        """See ``MessageSink``."""
        return self._producer.produce(batch)

    def behind(self) -> str:
        """The instances that owe acks, and what is wrong with them; empty: none does."""
        owing = [
            f"{one.instance}: {one.unacked} messages, {one.last_error or 'connected'}"
            for service in self._producer.status().services
            for one in service.instances
            if one.unacked
        ]
        more = f"; and {len(owing) - _MOST_NAMED} more" if len(owing) > _MOST_NAMED else ""
        return "; ".join(owing[:_MOST_NAMED]) + more

    def refusal(self) -> str | None:
        """Why nothing can be sent now; None: it can."""
        if self._failed is not None:
            return self._failed
        reason = self._opening.refusal(self._now_ns())
        if self._topology.topic is None and (trouble := self._topology.trouble()) is not None:
            return trouble
        if reason is None and not self._producer.num_shards:
            return f"the producer of {self._name} is starting"
        return reason

    async def run(self) -> None:
        """Judges until cancelled: shards are cut off when their time comes, too."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._judge()

    def _judge(self, _: ServiceID | None = None) -> None:
        now = self._now_ns()
        topology = self._topology
        self._opening = judge(self._name, topology.topic, topology.placements, now, self._ignore_cutover)
        refusal = self._opening.refusal(now)
        if topology.topic is None and topology.trouble() is not None:
            # The store says so itself.
            return
        said = self._opening.reason if refusal is not None else "messages are accepted"
        if said != self._reported:
            self._reported = said
            log.info("ingest topic", topic=self._name, state=refusal or said)
