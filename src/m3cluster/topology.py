"""A topic and the placements of its consumer services as the KV has them, followed once for everybody in a process who asks."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from m3cluster.following import follow
from m3cluster.keys import placement_key
from m3cluster.kv import Store, Value
from m3cluster.placement import Placement, decode_placement, decode_staged_placement
from m3cluster.topic import ServiceID, Topic, decode_topic

__all__ = ["Fault", "Topology", "staged_placement_of", "topic_of"]

Fault = tuple[int, ValueError]
"""The version of a value that cannot be read, and why."""


def topic_of(value: Value) -> Topic:
    """The topic that a key holds. Raises ``ValueError``."""
    return decode_topic(value.data, value.version)


def placement_of(value: Value) -> Placement:
    """The placement that a key holds. Raises ``ValueError``."""
    return decode_placement(value.data, value.version)


def staged_placement_of(value: Value) -> Placement:
    """The placement that a key holds, stored with its stages. Raises ``ValueError``."""
    return decode_staged_placement(value.data, value.version)


class Topology:
    """``run`` it as long as it is used. ``environment`` is where services live that name none; ``staged``: so placements are stored."""

    def __init__(
        self, store: Store, topic_key: str, environment: str, *, placement_namespace: str, staged: bool = False
    ) -> None:
        self.topic_key = topic_key
        self.topic: Topic | None = None
        """The last good one; None: there is none, or the KV has not said so yet."""
        self.topic_fault: Fault | None = None
        """Of the newest value, if that is none; the last good topic counts then."""
        self.placements: dict[ServiceID, Placement | None] = {}
        """By consumer service, the last good ones, as far as the KV has told; None: it was deleted."""
        self.placement_faults: dict[ServiceID, Fault] = {}
        """Of the newest values that are none."""
        self.kept: Iterable[ServiceID] = ()
        """Services whose placements are wanted though the topic may not name them any more."""
        self.listeners: list[Callable[[ServiceID | None], None]] = []
        """Told after every change whose placement it was; None: it was the topic."""
        self._store = store
        self._environment = environment
        self._placement_namespace = placement_namespace
        self._placement_of = staged_placement_of if staged else placement_of
        self._named: set[ServiceID] = set()
        """By the last topic that there was."""
        self._following: dict[ServiceID, asyncio.Task[None]] = {}

    def placement_key(self, service: ServiceID) -> str:
        """Where the placement of a service is."""
        return placement_key(service.environment or self._environment, service.name, self._placement_namespace)

    def trouble(self) -> str | None:
        """See ``Store.trouble``."""
        return self._store.trouble()

    async def run(self) -> None:
        """Follows topic and placements until cancelled."""
        async with asyncio.TaskGroup() as group:
            changed = partial(self._topic_changed, group)
            await follow(self._store, self.topic_key, topic_of, changed, self._topic_refused)

    def _topic_changed(self, group: asyncio.TaskGroup, topic: Topic | None) -> None:
        self.topic, self.topic_fault = topic, None
        if topic is not None:
            self._named = {consumer.service_id for consumer in topic.consumer_services}
        self._tell(None)
        wanted = self._named.union(self.kept)
        for service in wanted - self._following.keys():
            self._following[service] = group.create_task(self._follow_placement(service))
        for service in self._following.keys() - wanted:
            self._following.pop(service).cancel()
            self.placements.pop(service, None)
            self.placement_faults.pop(service, None)

    def _topic_refused(self, value: Value, error: ValueError) -> None:
        self.topic_fault = (value.version, error)
        self._tell(None)

    async def _follow_placement(self, service: ServiceID) -> None:
        def changed(placement: Placement | None) -> None:
            self.placements[service] = placement
            self.placement_faults.pop(service, None)
            self._tell(service)

        def refused(value: Value, error: ValueError) -> None:
            self.placement_faults[service] = (value.version, error)
            self._tell(service)

        await follow(self._store, self.placement_key(service), self._placement_of, changed, refused)

    def _tell(self, service: ServiceID | None) -> None:
        for listener in self.listeners:
            listener(service)
