"""Topics: which services consume what (docs/m3/m3msg.md, topics)."""

import enum
from typing import Any

import msgspec

from m3cluster.proto import MessageValue, decode, encode
from m3cluster.proto.messages import TOPIC
from m3metrics.shard import too_many_shards

__all__ = [
    "ConsumerService",
    "ConsumptionType",
    "Filters",
    "MissingServiceError",
    "ServiceID",
    "Topic",
    "TopicError",
    "consumer_from_message",
    "decode_topic",
    "encode_topic",
    "topic_to_message",
    "validate_topic",
]


class TopicError(ValueError):
    """A topic that M3 would refuse; the message is M3's."""


class MissingServiceError(TopicError):
    """A consumer service that does not say whose it is: M3 panics over it."""


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


def encode_topic(topic: Topic) -> bytes:
    """The bytes stored under ``/topic/{env}/{name}`` (topicpb.Topic)."""
    return encode(TOPIC, topic_to_message(topic))


def decode_topic(data: bytes, version: int) -> Topic:
    """The topic of stored bytes; 0 bytes are an empty topic.

    Raises ``DecodeError``, or ``TopicError`` for an unknown consumption type and for too many shards.
    """
    message = decode(TOPIC, data)
    _check_shards(message["number_of_shards"])
    consumers = tuple(consumer_from_message(c) for c in message["consumer_services"])
    return Topic(message["name"], message["number_of_shards"], consumers, version)


def topic_to_message(topic: Topic) -> MessageValue:
    """The topic as a message of table ``TOPIC``."""
    return {
        "name": topic.name,
        "number_of_shards": topic.number_of_shards,
        "consumer_services": [_consumer_to_message(c) for c in topic.consumer_services],
    }


def consumer_from_message(message: MessageValue) -> ConsumerService:
    """The consumer service of a message of table ``CONSUMER_SERVICE``.

    Raises ``TopicError`` for a consumption type that M3 refuses, ``MissingServiceError`` without a service.
    """
    number = message["consumption_type"]
    if number not in (ConsumptionType.SHARED, ConsumptionType.REPLICATED):
        name = "UNKNOWN" if number == 0 else number
        raise TopicError(f"invalid consumption type in protobuf: {name}")
    if message["service_id"] is None:
        raise MissingServiceError("a consumer service has no serviceId")
    return ConsumerService(
        service_id=ServiceID(**message["service_id"]),
        consumption_type=ConsumptionType(number),
        message_ttl_ns=message["message_ttl_nanos"],
        filters=None if message["filters"] is None else _filters_from_message(message["filters"]),
    )


def _consumer_to_message(consumer: ConsumerService) -> MessageValue:
    return {
        "service_id": msgspec.structs.asdict(consumer.service_id),
        "consumption_type": int(consumer.consumption_type),
        "message_ttl_nanos": consumer.message_ttl_ns,
        "filters": None if consumer.filters is None else _filters_to_message(consumer.filters),
    }


def _filters_from_message(message: MessageValue) -> Filters:
    policies, percentage = message["storage_policy_filter"], message["percentage_filter"]
    shard_set, routing = message["shard_set_filter"], message["routing_policy_filter"]
    return Filters(
        storage_policies=None if policies is None else tuple(policies["storage_policies"]),
        percentage=None if percentage is None else percentage["percentage"],
        shard_set=None if shard_set is None else shard_set["shard_set"],
        routing_traffic_types=None if routing is None else tuple(routing["allowed_traffic_types"]),
        routing_is_default=False if routing is None else routing["is_default"],
    )


def _filters_to_message(filters: Filters) -> MessageValue:
    def submessage(present: object, **fields: Any) -> MessageValue | None:
        return None if present is None else fields

    return {
        "storage_policy_filter": submessage(
            filters.storage_policies, storage_policies=list(filters.storage_policies or ())
        ),
        "percentage_filter": submessage(filters.percentage, percentage=filters.percentage),
        "shard_set_filter": submessage(filters.shard_set, shard_set=filters.shard_set),
        "routing_policy_filter": submessage(
            filters.routing_traffic_types,
            allowed_traffic_types=list(filters.routing_traffic_types or ()),
            is_default=filters.routing_is_default,
        ),
    }


def validate_topic(topic: Topic) -> None:
    """What M3 checks on every write (docs/m3/cluster.md, topic API); raises ``TopicError`` with M3's text."""
    if not topic.name:
        raise TopicError("invalid topic: empty name")
    if topic.number_of_shards == 0:
        raise TopicError("invalid topic: zero shards")
    _check_shards(topic.number_of_shards)
    seen: set[str] = set()
    for consumer in topic.consumer_services:
        name = str(consumer.service_id)
        if name in seen:
            raise TopicError(f"invalid topic: duplicated consumer {name}")
        seen.add(name)
        if consumer.filters is not None:
            _validate_filters(consumer.filters, name)


def _check_shards(number: int) -> None:
    if wrong := too_many_shards(number):
        raise TopicError(f"invalid topic: {wrong}")


def _validate_filters(filters: Filters, consumer: str) -> None:
    if filters.shard_set is not None and not filters.shard_set:
        raise TopicError(f"invalid topic: empty shard set in filter for consumer {consumer}")
    # As in M3 a percentage that is not a number passes.
    if filters.percentage is not None and (filters.percentage <= 0 or filters.percentage >= 100):
        raise TopicError(f"invalid topic: invalid percentage in filter for consumer {consumer}")
    if filters.storage_policies is not None:
        if not filters.storage_policies:
            raise TopicError(f"invalid topic: empty storage policy filter for consumer {consumer}")
        if "" in filters.storage_policies:
            raise TopicError(f"invalid topic: empty storage policy in filter for consumer {consumer}")
