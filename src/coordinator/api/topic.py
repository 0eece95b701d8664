"""Topic handlers (docs/m3/cluster.md, topic API)."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from coordinator.api.answers import APIError, body_of, environment_of, header, message_answer, zone_of
from coordinator.api.context import AdminContext
from coordinator.api.requests import TOPIC_UPDATE_REQUEST
from m3cluster.keys import topic_key
from m3cluster.kv import KeyNotFoundError, Store, VersionMismatchError
from m3cluster.proto import DecodeError, parse_json, render_text
from m3cluster.proto.messages import CONSUMER_SERVICE, TOPIC_ADD_REQUEST, TOPIC_GET_RESPONSE, TOPIC_INIT_REQUEST
from m3cluster.topic import (
    MissingServiceError,
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

    async def _write(self, request: Request, topic: Topic) -> Response:
        """Checks the topic and writes it at the version that it was read with, as in M3 under the name that it says it has."""
        validate_topic(topic)
        store = self._context.store_of(zone_of(request))
        key = topic_key(environment_of(request), topic.name)
        version = await store.check_and_set(key, topic.version, encode_topic(topic))
        return _answer(msgspec.structs.replace(topic, version=version))

    async def init(self, request: Request) -> Response:
        """``POST /api/v1/topic/init``: makes a topic without consumers."""
        message = parse_json(TOPIC_INIT_REQUEST, await body_of(request))
        _, _, name = self._where(request)
        return await self._write(request, Topic(name, message["number_of_shards"]))

    async def get(self, request: Request) -> Response:
        """``GET /api/v1/topic``."""
        store, key, _ = self._where(request)
        return _answer(await _read_or_404(store, key))

    async def add(self, request: Request) -> Response:
        """``POST /api/v1/topic``: adds a consumer service."""
        message = parse_json(TOPIC_ADD_REQUEST, await body_of(request))["consumer_service"]
        store, key, _ = self._where(request)
        topic = await _read(store, key)
        if message is None:
            raise APIError(500, "consumerService is missing in the request")
        try:
            consumer = consumer_from_message(message)
        except MissingServiceError as error:
            raise APIError(500, "consumerService.serviceId is missing in the request") from error
        except TopicError as error:
            raise APIError(400, str(error)) from error
        if any(str(c.service_id) == str(consumer.service_id) for c in topic.consumer_services):
            raise APIError(500, f"service {consumer.service_id} is already consuming the topic")
        consumers = (*topic.consumer_services, consumer)
        changed = msgspec.structs.replace(topic, consumer_services=consumers)
        return await self._write(request, changed)

    async def update(self, request: Request) -> Response:
        """``PUT /api/v1/topic``: replaces all consumer services if the topic still has the version that is named."""
        message = parse_json(TOPIC_UPDATE_REQUEST, await body_of(request))
        store, key, name = self._where(request)
        topic = await _read_or_404(store, key)
        consumers = []
        for number, item in enumerate(message["consumer_services"]):
            if item is None:
                raise APIError(500, f"consumerServices[{number}] is missing in the request")
            try:
                consumers.append(consumer_from_message(item))
            except MissingServiceError as error:
                raise APIError(500, f"consumerServices[{number}].serviceId is missing in the request") from error
            except TopicError as error:
                service = render_text(CONSUMER_SERVICE, item)
                raise APIError(400, f"error converting consumer service '{service}': {error}") from error
        changed = msgspec.structs.replace(topic, consumer_services=tuple(consumers), version=message["version"])
        try:
            return await self._write(request, changed)
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
    try:
        return decode_topic(value.data, value.version)
    except MissingServiceError as error:
        raise APIError(500, f"{error} in the stored topic; delete or overwrite the topic") from error


async def _read_or_404(store: Store, key: str) -> Topic:
    try:
        return await _read(store, key)
    except KeyNotFoundError:
        raise APIError(404, "key not found") from None
    except DecodeError as error:
        raise APIError(404, error.reason) from error
    except TopicError as error:
        raise APIError(404, str(error)) from error


def _answer(topic: Topic) -> Response:
    return message_answer(TOPIC_GET_RESPONSE, {"topic": topic_to_message(topic), "version": topic.version})
