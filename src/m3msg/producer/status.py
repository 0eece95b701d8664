"""What ``/status`` and ``/ready`` show of a producer."""

from collections.abc import Sequence

import msgspec

from m3msg.producer.lane import Lane
from m3msg.producer.service_writer import ServiceWriter

__all__ = ["InstanceStatus", "Overtaken", "ProducerStatus", "ServiceStatus", "overtaken", "service_status"]


class Overtaken(msgspec.Struct, frozen=True):
    """Messages that an instance leaves unacked, though it acks what was sent after them."""

    instance: str
    policy: str
    messages: int
    example: bytes
    """The payload of the oldest."""


class InstanceStatus(msgspec.Struct, frozen=True):
    """The queue towards one consumer instance."""

    endpoint: str
    instance: str
    connected: bool
    """All connections stand and the instance answers."""
    connections: str
    """How many of them stand: ``3/4``."""
    queued_bytes: int
    """Bytes in its buffer, final output and forwarded messages."""
    unacked: int
    """Messages neither acked nor given up."""
    dropped: int
    """Messages given up because the buffer was full, since the instance is known."""
    last_error: str


class ServiceStatus(msgspec.Struct, frozen=True):
    """One consumer service of the topic."""

    service: str
    name: str
    """Of the service alone."""
    consumption_type: str
    has_placement: bool
    instances: list[InstanceStatus]
    waiting: int
    """Messages of a shared service for which no instance exists."""


class ProducerStatus(msgspec.Struct, frozen=True):
    """A producer as a whole."""

    topic: str
    num_shards: int
    """0: the topic does not exist (yet)."""
    problems: list[str]
    """What is wrong with the set-up and what to do; empty: nothing."""
    services: list[ServiceStatus]


def overtaken(writer: ServiceWriter, policies: Sequence[str]) -> list[Overtaken]:
    """What the instances of one service leave aside; ``policies``: names by number."""
    return [
        Overtaken(lane.instance, policies[number] if number >= 0 else "", messages, example)
        for lane in writer.lanes.values()
        for number, (messages, example) in lane.overtaken().items()
    ]


def service_status(writer: ServiceWriter) -> ServiceStatus:
    """The state of one service."""
    instances = [_instance_status(lane) for lane in writer.lanes.values()]
    spare = writer.writers.spare
    return ServiceStatus(
        str(writer.service.service_id),
        writer.service.service_id.name,
        writer.service.consumption_type.name.lower(),
        writer.has_placement,
        instances,
        spare.pending if spare is not None else 0,
    )


def _instance_status(lane: Lane) -> InstanceStatus:
    return InstanceStatus(
        endpoint=lane.endpoint,
        instance=lane.instance,
        connected=lane.reachable,
        connections=f"{lane.connected_links}/{len(lane.links)}",
        queued_bytes=sum(lane.held),
        unacked=lane.pending,
        dropped=lane.dropped,
        last_error=_last_error(lane.stalled, [link.last_error for link in lane.links if link.last_error]),
    )


def _last_error(stalled: bool, errors: list[str]) -> str:
    return "connected, but it acks nothing" if stalled else errors[0] if errors else ""
