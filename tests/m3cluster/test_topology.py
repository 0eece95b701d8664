"""A topic and the placements of its services: one watch each, the last good ones kept for who works with them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from m3cluster.keys import placement_key, topic_key
from m3cluster.kv import MemoryServer, Store
from m3cluster.placement import Placement, encode_placement, encode_staged_placement
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic, encode_topic
from m3cluster.topology import Topology

TOPIC = topic_key("e", "t")
A, B, C = ServiceID("a"), ServiceID("b", "other"), ServiceID("c")
KEYS = {A: "_sd.placement/e/a", B: "_sd.placement/other/b", C: "_sd.placement/e/c"}


class World:
    """A KV, and a topology on it that is followed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.topology = Topology(store, TOPIC, "e", placement_namespace="_sd.placement")
        self.topology.listeners.append(self.changed)
        self.told: list[tuple[Any, ...]] = []
        self.open: list[str] = []
        """Keys that are watched."""
        self._watch = store.watch
        store.watch = self.watch  # type: ignore[method-assign]

    def changed(self, service: ServiceID | None) -> None:
        if service is None:
            found, fault = self.topology.topic, self.topology.topic_fault
        else:
            found, fault = self.topology.placements.get(service), self.topology.placement_faults.get(service)
        self.told.append((service and service.name, found and found.version, fault and fault[0]))

    def watch(self, key: str) -> Any:
        watch = self._watch(key)
        close = watch.close

        async def closed() -> None:
            self.open.remove(key)
            await close()

        self.open.append(key)
        watch.close = closed  # type: ignore[method-assign]
        return watch

    async def topic(self, *services: ServiceID) -> None:
        consumers = tuple(ConsumerService(service, ConsumptionType.SHARED) for service in services)
        await self.store.set(TOPIC, encode_topic(Topic("t", 4, consumers)))

    async def heard(self, service: ServiceID | None, version: int | None, unusable: int | None = None) -> None:
        """Waits until somebody is told: which version counts, and which newer one is not usable."""
        await until(lambda: self.told)
        assert self.told == [(service and service.name, version, unusable)]
        self.told.clear()

    async def watched(self, *keys: str) -> None:
        await until(lambda: sorted(self.open) == sorted(keys))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    server = MemoryServer()
    world = World(server.client())
    task = asyncio.create_task(world.topology.run())
    yield world
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.open == []
    await world.store.close()
    server.close()


async def test_what_is_good_counts_until_something_better_is_there(world: World) -> None:
    assert (world.topology.topic, world.topology.placements) == (None, {})
    await world.store.set(TOPIC, b"\xff\xff")
    await world.heard(None, None, 1)
    await world.topic(A)
    await world.heard(None, 2)
    await world.store.set(KEYS[A], b"\xff\xff")
    await world.heard(A, None, 1)
    await world.store.set(KEYS[A], encode_placement(Placement(num_shards=4)))
    await world.heard(A, 2)
    await world.store.set(TOPIC, b"\xff\xff")
    await world.heard(None, 2, 3)
    await world.store.set(KEYS[A], b"\xff\xff")
    await world.heard(A, 2, 3)
    assert world.topology.topic is not None
    assert world.topology.topic.number_of_shards == 4
    await world.store.delete(KEYS[A])
    await world.heard(A, None)
    assert world.topology.placements == {A: None}
    await world.store.delete(TOPIC)
    await world.heard(None, None)


async def test_each_key_is_watched_once_and_as_long_as_it_is_wanted(world: World) -> None:
    await world.watched(TOPIC)
    await world.topic(A, B)
    await world.watched(TOPIC, KEYS[A], KEYS[B])
    await world.topic(B, C)
    await world.watched(TOPIC, KEYS[B], KEYS[C])
    # Who works with the topology may not be able to use a topic: then it goes on with what it had.
    world.topology.kept = {B}
    await world.topic(A)
    await world.watched(TOPIC, KEYS[A], KEYS[B])
    await world.store.delete(TOPIC)
    await until(lambda: world.topology.topic is None)
    await world.watched(TOPIC, KEYS[A], KEYS[B])
    world.topology.kept = ()
    await world.topic()
    await world.watched(TOPIC)
    assert world.topology.placements == {}


async def test_staged_placements_and_other_namespaces() -> None:
    server = MemoryServer()
    store = server.client()
    topology = Topology(store, TOPIC, "e", placement_namespace="/placement", staged=True)
    assert topology.placement_key(A) == placement_key("e", "a", "/placement") == "/placement/e/a"
    await store.set(TOPIC, encode_topic(Topic("t", 4, (ConsumerService(A, ConsumptionType.SHARED),))))
    await store.set("/placement/e/a", encode_staged_placement(Placement(num_shards=7)))
    task = asyncio.create_task(topology.run())
    await until(lambda: A in topology.placements)
    placement = topology.placements[A]
    assert placement is not None
    assert placement.num_shards == 7
    assert topology.trouble() is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()
    server.close()
