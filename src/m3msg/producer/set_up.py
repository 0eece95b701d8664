"""What a producer makes of its topology: topic and placements go into the core, what is wrong with them is said."""

import asyncio
from collections.abc import Callable

from m3cluster.kv import Store
from m3cluster.placement import Placement
from m3cluster.topic import ServiceID, Topic
from m3cluster.topology import Topology
from m3msg.producer.block import Moment
from m3msg.producer.core import ProducerCore, TopicError
from m3msg.producer.options import WriterOptions
from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["SetUp"]

log = logger(__name__)


class SetUp:
    """Topic and placements that ``writer`` names. What is deleted or cannot be used changes nothing.

    ``environment`` is the service's own. ``reconcile`` is called when the core's services or their instances may have changed.
    """

    def __init__(
        self,
        core: ProducerCore,
        writer: WriterOptions,
        store: Store,
        environment: str,
        *,
        now: Callable[[], Moment],
        reconcile: Callable[[], None],
        scope: Scope,
        service_scope: Callable[[ServiceID], Scope],
    ) -> None:
        self.topology = Topology(
            store,
            writer.topic_key(environment),
            environment,
            placement_namespace=writer.placement_service_override.namespaces.placement,
            staged=writer.placement.is_staged,
        )
        self.topology.listeners.append(self._changed)
        self.news = asyncio.Event()
        """Topic or placements were looked at."""
        self._core = core
        self._name = writer.topic_name
        self._now = now
        self._reconcile = reconcile
        self._scope = scope
        self._service_scope = service_scope
        self._services: set[ServiceID] = set()
        """Of the core, as of the last topic."""
        self._problems: dict[str, str] = {}

    async def run(self) -> None:
        """Follows the topology until cancelled."""
        self._problems["topic"] = (
            f"topic {self._name!r} is not in KV (key {self.topology.topic_key}); create it with POST /api/v1/topic/init"
        )
        await self.topology.run()

    def problems(self) -> list[str]:
        """What is wrong, and what to do about it."""
        return [self._problems[key] for key in sorted(self._problems)]

    def placed(self) -> bool:
        """Whether every service has a placement."""
        return all(service.has_placement for service in self._core.services.values())

    def _changed(self, service: ServiceID | None) -> None:
        if service is None:
            self._topic_changed()
        elif service in self._services:
            self._placement_changed(service)

    def _topic_changed(self) -> None:
        topology = self.topology
        if topology.topic_fault is not None:
            self._refuse_topic(*topology.topic_fault)
        elif topology.topic is None:
            log.warning("the topic was deleted; the producer goes on with what it was", topic=self._name)
        else:
            self._use_topic(topology.topic)
        self.news.set()

    def _refuse_topic(self, version: int, error: ValueError) -> None:
        self._scope.count("topic-update-error" if isinstance(error, TopicError) else "invalid-topic")
        self._problems["topic"] = f"topic {self._name!r} (version {version}) cannot be used: {error}"
        log.error("the topic cannot be used; nothing changes", topic=self._name, version=version, problem=str(error))

    def _use_topic(self, topic: Topic) -> None:
        try:
            problems = self._core.set_topic(topic, self._now())
        except ValueError as error:
            self._refuse_topic(topic.version, error)
            return
        self._scope.count("topic-update-error" if problems else "topic-update-success")
        self._problems.pop("topic", None)
        if not self._core.services:
            self._problems["topic"] = f"topic {self._name!r} has no consumer services; add one with POST /api/v1/topic"
        elif problems:
            self._problems["topic"] = "; ".join(problems)
        for problem in problems:
            log.error("a consumer service of the topic cannot be followed", topic=self._name, problem=problem)
        self._scope.gauge("num-consumer-services", len(self._core.services))
        self._services_changed()
        self._reconcile()

    def _services_changed(self) -> None:
        before, topology = self._services, self.topology
        self._services = topology.kept = set(self._core.services)
        for service in before - self._services:
            self._problems.pop(_subject(service), None)
        for service in self._services - before:
            self._problems[_subject(service)] = (
                f"consumer service {service} has no placement (key {topology.placement_key(service)}); "
                "create it with POST …/placement/init"
            )
            if service in topology.placement_faults or topology.placements.get(service) is not None:
                # The topic named it before it could be used.
                self._placement_changed(service)

    def _placement_changed(self, service: ServiceID) -> None:
        placement = self.topology.placements.get(service)
        if (fault := self.topology.placement_faults.get(service)) is not None:
            self._refuse_placement(service, *fault)
        elif placement is None:
            log.warning("a placement was deleted; the producer goes on with what it was", service=str(service))
        else:
            self._use_placement(service, placement)

    def _refuse_placement(self, service: ServiceID, version: int, error: ValueError) -> None:
        self._service_scope(service).count("placement-error")
        self._problems[_subject(service)] = f"placement of {service} (version {version}) cannot be used: {error}"
        log.error("a placement cannot be used", service=str(service), version=version, problem=str(error))

    def _use_placement(self, service: ServiceID, placement: Placement) -> None:
        try:
            self._core.set_placement(service, placement, self._now())
        except ValueError as error:
            self._refuse_placement(service, placement.version, error)
            return
        self._service_scope(service).count("placement-update")
        self._problems.pop(_subject(service), None)
        if placement.is_sharded and placement.num_shards != self._core.num_shards:
            problem = (
                f"placement of {service} has {placement.num_shards} shards and the topic {self._core.num_shards}: "
                "messages of the others go nowhere; both must be equal"
            )
            self._problems[_subject(service)] = problem
            log.error("shard counts differ", problem=problem)
        self._reconcile()
        self.news.set()


def _subject(service: ServiceID) -> str:
    """Of a problem."""
    return f"placement {service}"
