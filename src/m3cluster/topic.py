"""Topics: which services consume what (reference/m3msg.md §5, reference/cluster.md §13)."""

import enum

import msgspec


class ConsumptionType(enum.IntEnum):
    """How the instances of a consumer service share messages; numbers as on the wire."""

    UNKNOWN = 0
    SHARED = 1
    """Each message goes to one of the instances that own its shard."""
    REPLICATED = 2
    """Each message goes to every instance that owns its shard."""


class ServiceID(msgspec.Struct, frozen=True):
    """Names a service of the cluster."""

    name: str
    environment: str = ""
    zone: str = ""

    def __str__(self) -> str:
        return f"[name: {self.name}, env: {self.environment}, zone: {self.zone}]"


class Filters(msgspec.Struct, frozen=True):
    """Dynamic filters of a consumer service; what is None is not filtered on."""

    storage_policies: tuple[str, ...] | None = None
    percentage: float | None = None
    shard_set: str | None = None
    routing_traffic_types: tuple[str, ...] | None = None
    routing_is_default: bool = False


class ConsumerService(msgspec.Struct, frozen=True):
    """One consumer service of a topic."""

    service_id: ServiceID
    consumption_type: ConsumptionType
    message_ttl_ns: int = 0
    """0 or less: messages never expire."""
    filters: Filters | None = None


class Topic(msgspec.Struct, frozen=True):
    """A topic as stored under ``/topic/{env}/{name}``; ``version`` is the key's version, not part of the bytes."""

    name: str
    number_of_shards: int
    consumer_services: tuple[ConsumerService, ...] = ()
    version: int = 0
