"""The ingest topic: follows topic and placements, and refuses with a reason while nothing can be sent."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from coordinator.write.readiness import Verdict, judge
from coordinator.write.sink import RefusedError
from m3cluster.following import follow
from m3cluster.keys import placement_key
from m3cluster.kv import Store
from m3cluster.placement import Placement, decode_placement, decode_staged_placement
from m3cluster.topic import ServiceID, Topic, decode_topic
from m3msg.batch import MessageBatch
from m3msg.producer import ProducerClosedError
from m3msg.producer.options import ProducerOptions
from m3x.clock import wall_ns
from m3x.log import logger

ROOM_TIMEOUT_S = 5.0
"""How long a request waits for room in the producer's buffer before the sender is told to come again."""

_TICK_S = 1.0

log = logger(__name__)


class Producer(Protocol):
    """What is needed of ``m3msg.producer.Producer``."""

    @property
    def num_shards(self) -> int:
        """Of the topic; 0 while it is not known."""

    def produce(self, batch: MessageBatch) -> bool:
        """Takes a batch, or not."""

    def room(self) -> int:
        """Payload bytes that can be produced now."""

    async def wait_room(self, nbytes: int = 1) -> None:
        """Returns when there is room. Raises ``ProducerClosedError`` where there will be none."""


class IngestTopic:
    """The ``MessageSink`` of a coordinator; ``run`` it as long as it is used.

    The producer follows the topic by itself; this looks at the same keys to tell senders whether their messages would arrive.
    """

    def __init__(
        self,
        store: Store,
        options: ProducerOptions,
        environment: str,
        producer: Producer,
        now_ns: Callable[[], int] = wall_ns,
    ) -> None:
        writer = options.writer
        self._store = store
        self._name = writer.topic_name
        self._key = writer.topic_key(environment)
        self._environment = environment
        self._placement_namespace = writer.placement_service_override.namespaces.placement
        self._staged = writer.placement.is_staged
        self._ignore_cutover = writer.ignore_cutoff_cutover
        self.largest_message = options.largest_message
        """See ``MessageSink``."""
        self.largest_batch = options.buffer.max_buffer_size
        """See ``MessageSink``."""
        self._most_bytes = options.buffer.max_buffer_size // 4
        self._producer = producer
        self._now_ns = now_ns
        self._topic: Topic | None = None
        self._placements: dict[ServiceID, Placement | None] = {}
        self._following: dict[ServiceID, asyncio.Task[None]] = {}
        self._verdict: Verdict = judge(self._name, None, {}, now_ns())
        self._said = ""
        self._failed: str | None = None

    def fail(self, reason: str) -> None:
        """From now on everything is refused."""
        self._failed = reason

    def ready(self, nbytes: int) -> int | None:
        """See ``MessageSink``."""
        if self._failed is not None or self._verdict.opens_ns is None or self._now_ns() < self._verdict.opens_ns:
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

    def refusal(self) -> str | None:
        """Why nothing can be sent now; None: it can."""
        if self._failed is not None:
            return self._failed
        reason = self._verdict.refusal(self._now_ns())
        if self._topic is None and (trouble := self._store.trouble()) is not None:
            return trouble
        if reason is None and not self._producer.num_shards:
            return f"the producer of {self._name} is starting"
        return reason

    async def run(self) -> None:
        """Follows topic and placements until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick(), name="ingest topic readiness")
            await follow(
                self._store,
                self._key,
                lambda value: decode_topic(value.data, value.version),
                partial(self._topic_changed, group),
            )

    def _topic_changed(self, group: asyncio.TaskGroup, topic: Topic | None) -> None:
        self._topic = topic
        wanted = {consumer.service_id for consumer in topic.consumer_services} if topic is not None else set()
        for service in wanted - self._following.keys():
            self._following[service] = group.create_task(self._follow_placement(service))
        for service in self._following.keys() - wanted:
            self._following.pop(service).cancel()
            self._placements.pop(service, None)
        self._judge()

    async def _follow_placement(self, service: ServiceID) -> None:
        key = placement_key(service.environment or self._environment, service.name, self._placement_namespace)
        decode = decode_staged_placement if self._staged else decode_placement

        def changed(placement: Placement | None) -> None:
            self._placements[service] = placement
            self._judge()

        await follow(self._store, key, lambda value: decode(value.data, value.version), changed)

    async def _tick(self) -> None:
        """Shards are cut off when their time comes, too."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._judge()

    def _judge(self) -> None:
        now = self._now_ns()
        self._verdict = judge(self._name, self._topic, self._placements, now, self._ignore_cutover)
        refusal = self._verdict.refusal(now)
        if self._topic is None and self._store.trouble() is not None:
            # The store says so itself.
            return
        said = self._verdict.reason if refusal is not None else "messages are accepted"
        if said != self._said:
            self._said = said
            log.info("ingest topic", topic=self._name, state=refusal or said)
