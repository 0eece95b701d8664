"""Topic handlers (docs/m3/cluster.md, topic API)."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from coordinator.api.answers import APIError, body_of, environment_of, header, message_answer, zone_of
from coordinator.api.context import AdminContext
from coordinator.api.requests import TOPIC_UPDATE_REQUEST
from m3cluster.keys import topic_key
from m3cluster.kv import KeyNotFoundError, Store, VersionMismatchError
from m3cluster.proto import DecodeError, parse_json
from m3cluster.proto.messages import TOPIC_ADD_REQUEST, TOPIC_GET_RESPONSE, TOPIC_INIT_REQUEST
from m3cluster.topic import (
    ServiceID,
    Topic,
    TopicError,
    consumer_from_message,
    decode_topic,
    encode_topic,
    topic_to_message,
    validate_topic,
)

__all__ = ["TopicHandlers"]

DEFAULT_TOPIC = "aggregated_metrics"


class TopicHandlers:
    """The handlers of ``/api/v1/topic``. As in M3 they do not know the coordinator's own environment, only ``default_env``."""

    def __init__(self, context: AdminContext) -> None:
        self._context = context

    def _where(self, request: Request) -> tuple[Store, str, str]:
        """Store, key and name of the topic that the headers name."""
        name = header(request, "Topic-Name", DEFAULT_TOPIC)
        return self._context.store_of(zone_of(request)), topic_key(environment_of(request), name), name

    async def init(self, request: Request) -> Response:
        """``POST /api/v1/topic/init``: makes a topic without consumers."""
        message = parse_json(TOPIC_INIT_REQUEST, await body_of(request))
        store, key, name = self._where(request)
        return await _write(store, key, Topic(name, message["number_of_shards"]))

    async def get(self, request: Request) -> Response:
        """``GET /api/v1/topic``."""
        store, key, _ = self._where(request)
        try:
            return _answer(await _read(store, key))
        except KeyNotFoundError:
            raise APIError(404, "key not found") from None
        except DecodeError as error:
            raise APIError(404, error.reason) from error
        except TopicError as error:
            raise APIError(404, str(error)) from error

    async def add(self, request: Request) -> Response:
        """``POST /api/v1/topic``: adds a consumer service."""
        message = parse_json(TOPIC_ADD_REQUEST, await body_of(request))["consumer_service"]
        store, key, _ = self._where(request)
        topic = await _read(store, key)
        if message is None or message["service_id"] is None:
            missing = "consumerService" if message is None else "consumerService.serviceId"
            raise APIError(500, f"{missing} is missing in the request")
        try:
            consumer = consumer_from_message(message)
        except TopicError as error:
            raise APIError(400, str(error)) from error
        if any(str(c.service_id) == str(consumer.service_id) for c in topic.consumer_services):
            raise APIError(500, f"service {consumer.service_id} is already consuming the topic")
        consumers = (*topic.consumer_services, consumer)
        return await _write(store, key, msgspec.structs.replace(topic, consumer_services=consumers))

    async def update(self, request: Request) -> Response:
        """``PUT /api/v1/topic``: replaces all consumer services if the topic still has the version that is named."""
        message = parse_json(TOPIC_UPDATE_REQUEST, await body_of(request))
        store, key, name = self._where(request)
        try:
            topic = await _read(store, key)
        except KeyNotFoundError:
            raise APIError(404, "key not found") from None
        consumers = []
        for number, item in enumerate(message["consumer_services"]):
            if item["service_id"] is None:
                raise APIError(500, f"consumerServices[{number}].serviceId is missing in the request")
            try:
                consumers.append(consumer_from_message(item))
            except TopicError as error:
                service = ServiceID(**item["service_id"])
                raise APIError(400, f"error converting consumer service '{service}': {error}") from error
        changed = msgspec.structs.replace(topic, consumer_services=tuple(consumers), version=message["version"])
        try:
            return await _write(store, key, changed)
        except (TopicError, VersionMismatchError) as error:
            text = str(error) if isinstance(error, TopicError) else "key is not at the specified version"
            # M3 says so, too.
            raise APIError(500, f"error deleting service '{name}': {text}") from error

    async def delete(self, request: Request) -> Response:
        """``DELETE /api/v1/topic``."""
        store, key, name = self._where(request)
        try:
            await store.delete(key)
        except KeyNotFoundError:
            raise APIError(400, f"error deleting service '{name}': key not found") from None
        return Response()


async def _read(store: Store, key: str) -> Topic:
    value = await store.get(key)
    return decode_topic(value.data, value.version)


async def _write(store: Store, key: str, topic: Topic) -> Response:
    """Checks the topic and writes it at the version that it was read with."""
    validate_topic(topic)
    version = await store.check_and_set(key, topic.version, encode_topic(topic))
    return _answer(msgspec.structs.replace(topic, version=version))


def _answer(topic: Topic) -> Response:
    return message_answer(TOPIC_GET_RESPONSE, {"topic": topic_to_message(topic), "version": topic.version})
