"""The ingest topic: waits for topic and placements, starts the producer, refuses with a reason while nothing can be sent."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from coordinator.write.readiness import Verdict, judge
from coordinator.write.sink import RefusedError
from m3cluster.keys import placement_key, topic_key
from m3cluster.kv import KVError, Store, Value
from m3cluster.placement import Placement, decode_placement, decode_staged_placement
from m3cluster.proto import DecodeError
from m3cluster.topic import ServiceID, Topic, decode_topic
from m3msg.batch import MessageBatch
from m3msg.producer.options import ProducerOptions
from m3x.clock import wall_ns
from m3x.log import logger
from m3x.retry import Backoff

ROOM_TIMEOUT_S = 5.0
"""How long a request waits for room in the producer's buffer before the sender is told to come again."""

log = logger(__name__)


class Producer(Protocol):
    """What is needed of ``m3msg.producer.Producer``."""

    def produce(self, batch: MessageBatch) -> None: ...

    def room(self) -> bool: ...

    async def wait_room(self) -> None: ...


class IngestTopic:
    """The ``MessageSink`` of a coordinator. ``open_producer`` starts the producer of a topic; it is called once, when the topic first exists."""

    def __init__(
        self,
        store: Store,
        config: ProducerOptions,
        environment: str,
        open_producer: Callable[[Topic], Awaitable[Producer]],
        now_ns: Callable[[], int] = wall_ns,
    ) -> None:
        writer = config.writer
        self._store = store
        self._name = writer.topic_name
        self._key = topic_key(writer.topic_service_override.environment or environment, writer.topic_name)
        self._environment = environment
        self._placement_namespace = writer.placement_service_override.namespaces.placement
        self._staged = writer.placement.is_staged
        self._ignore_cutover = writer.ignore_cutoff_cutover
        self._open_producer = open_producer
        self._now_ns = now_ns
        self._topic: Topic | None = None
        self._placements: dict[ServiceID, Placement | None] = {}
        self._verdict: Verdict = judge(self._name, None, {}, now_ns())
        self._producer: Producer | None = None
        self._num_shards = 0
        self._said = ""

    def ready(self) -> int | None:
        """See ``MessageSink``."""
        if self._producer is None or self._verdict.opens_ns is None or self._now_ns() < self._verdict.opens_ns:
            return None
        return self._num_shards if self._producer.room() else None

    async def admit(self) -> int:
        """See ``MessageSink``; waits up to ``ROOM_TIMEOUT_S`` for room."""
        refusal = self.refusal()
        if refusal is not None:
            raise RefusedError(f"{refusal}; the write was not accepted, send it again")
        assert self._producer is not None
        try:
            async with asyncio.timeout(ROOM_TIMEOUT_S):
                await self._producer.wait_room()
        except TimeoutError:
            raise RefusedError(
                "the buffer towards the aggregators is full; the write was not accepted, send it again"
            ) from None
        return self._num_shards

    def produce(self, batch: MessageBatch) -> None:
        """See ``MessageSink``."""
        assert self._producer is not None
        self._producer.produce(batch)

    def refusal(self) -> str | None:
        """Why nothing can be sent now; None: it can."""
        reason = self._verdict.refusal(self._now_ns())
        if reason is None and self._producer is None:
            return f"the producer of {self._name} is starting"
        return reason

    async def run(self) -> None:
        """Follows topic and placements until cancelled."""
        attempt = 0
        while True:
            try:
                await self._follow()
            except* (KVError, OSError) as group:
                attempt += 1
                delay = Backoff(initial_s=1.0, factor=2.0, max_s=30.0, jitter=True).delay(attempt)
                log.error("lost the topic's watch", topic=self._name, error=str(group.exceptions[0]), retry_in_s=delay)
            else:
                delay = 1.0
            await asyncio.sleep(delay)

    async def _follow(self) -> None:
        watchers: dict[ServiceID, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick(), name="ingest topic readiness")
            watch = self._store.watch(self._key)
            try:
                async for value in watch:
                    await self._on_topic(value)
                    wanted = {c.service_id for c in self._topic.consumer_services} if self._topic else set()
                    for service in wanted - watchers.keys():
                        watchers[service] = group.create_task(self._follow_placement(service))
                    for service in watchers.keys() - wanted:
                        watchers.pop(service).cancel()
                        self._placements.pop(service, None)
                    self._judge()
            finally:
                await watch.close()

    async def _on_topic(self, value: Value | None) -> None:
        if value is None:
            self._topic = None
            return
        try:
            topic = decode_topic(value.data, value.version)
        except DecodeError as error:
            log.error("the topic cannot be decoded; the last good one stays in use", topic=self._name, error=str(error))
            return
        if self._producer is not None and topic.number_of_shards != self._num_shards:
            log.error(
                "the topic's shard count has changed, which a running coordinator cannot follow: restart it",
                topic=self._name, was=self._num_shards, now=topic.number_of_shards,
            )  # fmt: skip
            return
        self._topic = topic
        if self._producer is None:
            self._num_shards = topic.number_of_shards
            self._producer = await self._open_producer(topic)
            log.info("producing to the ingest topic", topic=self._name, shards=topic.number_of_shards)

    async def _follow_placement(self, service: ServiceID) -> None:
        key = placement_key(service.environment or self._environment, service.name, self._placement_namespace)
        watch = self._store.watch(key)
        try:
            async for value in watch:
                placement = None
                if value is not None:
                    decode = decode_staged_placement if self._staged else decode_placement
                    try:
                        placement = decode(value.data, value.version)
                    except DecodeError as error:
                        log.error(
                            "a placement cannot be decoded; the last good one stays in use", key=key, error=str(error)
                        )
                        continue
                self._placements[service] = placement
                self._judge()
        finally:
            await watch.close()

    async def _tick(self) -> None:
        """Shards are cut off, too, when their time comes."""
        while True:
            self._judge()
            await asyncio.sleep(1.0)

    def _judge(self) -> None:
        now = self._now_ns()
        self._verdict = judge(self._name, self._topic, self._placements, now, self._ignore_cutover)
        reason = self._verdict.reason if self._verdict.refusal(now) is not None else "ready"
        if reason != self._said:
            self._said = reason
            log.info("ingest topic: " + (self._verdict.refusal(now) or "messages are accepted"), topic=self._name)
