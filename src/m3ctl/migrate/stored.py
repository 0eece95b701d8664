"""A cluster as its KV has it, read as M3's processes read it: no coordinator is asked, and nothing is written."""

from typing import TypeVar

import msgspec

from m3cluster.environments import environments
from m3cluster.keys import placement_key, topic_key
from m3cluster.kv import KeyNotFoundError, Store, Value
from m3cluster.placement import decode_placement, decode_staged_placement
from m3cluster.placement.codec import placement_to_message
from m3cluster.proto import DecodeError, Message, MessageValue, decode, render_json
from m3cluster.proto.messages import PLACEMENT, TOPIC
from m3cluster.proto.rules import NAMESPACES, RULE_SET
from m3cluster.topic import decode_topic, topic_to_message
from m3ctl import kv
from m3ctl.answers import Environment, Placement, PlacementAnswer, Topic, TopicAnswer
from m3ctl.client import CtlError
from m3ctl.cluster import AGGREGATOR, Cluster, Missing
from m3metrics.rules import RulesError, namespaces_from, rule_set_from

__all__ = ["StoredCluster"]

_NAMESPACES = "//namespaces"

Body = TypeVar("Body")


class StoredCluster(Cluster):
    """``Cluster`` whose placements, topics and environments come from ``settings.kv``. All methods raise ``CtlError``."""

    def placement(self, service: str, environment: str = "", zone: str = "") -> PlacementAnswer:
        """See ``Cluster``. A value that this release cannot read is an error that says so."""
        key = placement_key(environment or self.settings.environment, service)
        value = self._value(key, f"no placement of {service}")
        read = decode_staged_placement if service == AGGREGATOR else decode_placement
        try:
            found = read(value.data, value.version)
        except ValueError as error:
            raise CtlError(_unreadable(key, value, error)) from error
        return PlacementAnswer(_answered(PLACEMENT, placement_to_message(found), Placement), value.version)

    def topic(self, name: str) -> TopicAnswer:
        """See ``Cluster``."""
        key = topic_key(self.settings.environment, name)
        value = self._value(key, f"no topic {name}")
        try:
            found = decode_topic(value.data, value.version)
        except ValueError as error:
            raise CtlError(_unreadable(key, value, error)) from error
        return TopicAnswer(_answered(TOPIC, topic_to_message(found), Topic), value.version)

    def environments(self) -> list[Environment]:
        """See ``Cluster``."""
        found = kv.look(self.settings, environments)
        return [Environment(name, has) for name, has in found.items()]

    def unusable_rules(self) -> list[str]:
        """Rules of any environment that this release cannot use, one line each."""

        async def read(store: Store) -> list[str]:
            found = []
            for key, value in await store.keys("_kv/"):
                if not key.endswith(_NAMESPACES):
                    continue
                try:
                    names = [one.name for one in namespaces_from(decode(NAMESPACES, value.data))]
                except (DecodeError, RulesError) as error:
                    found.append(_unreadable(key, value, error))
                    continue
                for name in names:
                    found += await _unusable(store, f"{key.removesuffix(_NAMESPACES)}//ruleset/{name}")
            return found

        return kv.look(self.settings, read)

    def _value(self, key: str, missing: str) -> Value:
        async def read(store: Store) -> Value | None:
            try:
                return await store.get(key)
            except KeyNotFoundError:
                return None

        value = kv.look(self.settings, read)
        if value is None:
            raise Missing(
                f"{missing} in environment {self.settings.environment!r}: {kv.where(self.settings)} has no key {key}"
            )
        return value


async def _unusable(store: Store, key: str) -> list[str]:
    try:
        value = await store.get(key)
    except KeyNotFoundError:
        return []
    try:
        rule_set_from(decode(RULE_SET, value.data), value.version)
    except (DecodeError, RulesError) as error:
        return [_unreadable(key, value, error)]
    return []


def _unreadable(key: str, value: Value, error: Exception) -> str:
    return f"version {value.version} of {key} is nothing that this release can use: {error}"


def _answered(table: Message, message: MessageValue, shape: type[Body]) -> Body:
    """As the admin API would answer it."""
    return msgspec.json.decode(render_json(table, message), type=shape, strict=False)
