"""What the KV holds, written by others, and the bodies of the admin API: placements, topics, flush times, rule sets, limits, holdings."""

from collections.abc import Callable
from typing import Any

from tests.fuzz.parser import Parser

from aggregator.supervisor.flushing.holding import Gap, Holding, decode_holding, encode_holding
from coordinator.api import requests
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes, decode_flush_times, encode_flush_times
from m3cluster.placement import (
    Instance,
    InvalidPlacementError,
    Placement,
    PlacementError,
    Shard,
    ShardState,
    decode_placement,
    decode_staged_placement,
    encode_placement,
    encode_staged_placement,
    validate,
)
from m3cluster.placement.codec import placement_from_message, placement_to_message
from m3cluster.proto import JSONError, MessageValue, decode, encode, parse_json, render_json
from m3cluster.proto.messages import INT64_PROTO, PLACEMENT_INIT_REQUEST, TOPIC_ADD_REQUEST, TOPIC_INIT_REQUEST
from m3cluster.proto.rules import NAMESPACES, RULE_SET
from m3cluster.topic import (
    ConsumerService,
    ConsumptionType,
    Filters,
    ServiceID,
    Topic,
    TopicError,
    decode_topic,
    encode_topic,
    topic_to_message,
    validate_topic,
)
from m3db.errors import M3DBError
from m3db.namespaces import (
    Aggregation,
    Namespace,
    Retention,
    StagingState,
    decode_registry,
    encode_registry,
    targets_of,
)
from m3metrics.errors import MetricsError
from m3metrics.rules import namespaces_from, rule_set_from
from m3x.protobuf import DecodeError, Message

__all__ = ["PARSERS"]

SECOND = 10**9
_SHARDS = tuple(
    Shard(id=number, state=state, source_id="b" if number == 0 else "", cutover_ns=number, cutoff_ns=1 << 62)
    for number, state in enumerate(ShardState)
)
_INSTANCES = tuple(
    Instance(
        id=name, isolation_group=f"group-{name}", zone="embedded", weight=1, endpoint=f"{name}:6000", shards=_SHARDS,
        shard_set_id=1, hostname=name, port=6000,
    )
    for name in "ab"
)  # fmt: skip
_PLACEMENT = Placement(instances=_INSTANCES, num_shards=3, replica_factor=2, is_sharded=True, is_mirrored=True)
_SERVICE = ServiceID("m3aggregator", "default_env", "embedded")
_TOPIC = Topic(
    "aggregator_ingest",
    64,
    (
        ConsumerService(_SERVICE, ConsumptionType.REPLICATED, 300 * SECOND, Filters(("10s:2d",), 0.5, "0..4")),
        ConsumerService(_SERVICE, ConsumptionType.SHARED, filters=Filters(routing_traffic_types=("a",))),
    ),
)
_TIMES = ShardFlushTimes({10 * SECOND: 5}, {60 * SECOND: 6}, {10 * SECOND: {1: 7, 2: 8}}, True)
_POLICY = {
    "resolution": {"window_size": 10 * SECOND, "precision": SECOND},
    "retention": {"period": 48 * 3600 * SECOND},
}
_PIPELINE = {
    "ops": [
        {"type": 1, "transformation": {"type": 2}},
        {"type": 2, "rollup": {"new_name": "requests", "tags": ["job"], "aggregation_types": [7]}},
    ]
}
_RULES: MessageValue = {
    "namespace": "default",
    "mapping_rules": [
        {"uuid": "1", "snapshots": [{"name": "m", "filter": "job:a* le:{1,2}", "storage_policies": [_POLICY]}]}
    ],
    "rollup_rules": [
        {
            "uuid": "2",
            "snapshots": [
                {
                    "name": "r",
                    "filter": "job:!b",
                    "targets_v2": [{"pipeline": _PIPELINE, "storage_policies": [_POLICY]}],
                }
            ],
        }
    ],
}
_LISTED: MessageValue = {
    "namespaces": [{"name": "default", "snapshots": [{"for_ruleset_version": 3, "tombstoned": True}]}]
}
_JSON_WORDS = (
    b"[null]",
    b'"', b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"1e999", b"-", b"9", b"0", b" ", b"0.5", b'"\\ud800"', b'"9"', b'"NaN"',
    b'"id"', b'"shards"', b"\\u0000", b"\xc2\xb2", b'""', b"1", b'"version":', b'"placement":{"instances":{"a":null}}',
)  # fmt: skip


def _reread(decoded: Callable[[bytes, int], Any], encoded: Callable[[Any], bytes]) -> Callable[[bytes], Any]:
    """What was read is written and read again as the same."""

    def read(data: bytes) -> Any:
        found = decoded(data, 3)
        assert decoded(encoded(found), 3) == found
        return found

    return read


def _read_placement(data: bytes) -> Any:
    found = decode_placement(data, 3)
    try:
        validate(found)
    except InvalidPlacementError:
        return found, False
    assert decode_placement(encode_placement(found), 3) == found
    return found, True


def _staged_placements() -> list[bytes]:
    return [encode_staged_placement(_PLACEMENT, compress=compress) for compress in (False, True)]


def _read_topic(data: bytes) -> Any:
    found = decode_topic(data, 3)
    validate_topic(found)
    written = encode_topic(found)
    # A percentage that is not a number passes, and is not equal to itself.
    assert encode_topic(decode_topic(written, 3)) == written
    return found


def _read_rules(data: bytes) -> Any:
    return rule_set_from(decode(RULE_SET, data), 3)


def _read_rule_json(data: bytes) -> Any:
    return rule_set_from(parse_json(RULE_SET, data), 3)


def _read_registry(data: bytes) -> Any:
    return targets_of(decode_registry(data, 3))


def _registry() -> list[bytes]:
    retention = Retention(48 * 3600 * SECOND, 2 * 3600 * SECOND, buffer_future_ns=SECOND, buffer_past_ns=SECOND)
    kept = (Aggregation(), Aggregation(10 * SECOND, True))
    return [encode_registry([Namespace("x", retention, aggregations=kept, staging=StagingState.READY)])]


def _holdings() -> list[bytes]:
    return [encode_holding(one) for one in (Holding(0), Holding(1_700_000_000 * SECOND, [Gap(5, 9)]))]


_BODIES = {
    table.name: (table, value)
    for table, value in (
        (PLACEMENT_INIT_REQUEST, {"num_shards": 64, "replication_factor": 2}),
        (requests.PLACEMENT_ADD_REQUEST, {"force": True}),
        (requests.PLACEMENT_REMOVE_REQUEST, {"instance_ids": ["a", "b"]}),
        (requests.PLACEMENT_REPLACE_REQUEST, {"leavingInstanceIDs": ["a"]}),
        (
            requests.PLACEMENT_SET_REQUEST,
            {"placement": placement_to_message(_PLACEMENT), "version": 2, "confirm": True},
        ),
        (TOPIC_INIT_REQUEST, {"number_of_shards": 64}),
        (TOPIC_ADD_REQUEST, {"consumer_service": topic_to_message(_TOPIC)["consumer_services"][0]}),
        (requests.TOPIC_UPDATE_REQUEST, {"consumer_services": topic_to_message(_TOPIC)["consumer_services"]}),
        (requests.QUERY_LIMITS, {"maxRecentlyQueriedSeriesBlocks": {"limit": 5, "lookbackSeconds": 10}}),
    )
}


def _bodies() -> list[bytes]:
    return [render_json(table, table.defaults() | value).encode() for table, value in _BODIES.values()]


def _read_body(data: bytes) -> Any:
    """As the body of every call."""
    found = []
    for table, _ in _BODIES.values():
        try:
            message = parse_json(table, data)
        except JSONError:
            continue
        found.append(_again(table, message))
        if table is requests.PLACEMENT_SET_REQUEST and message["placement"] is not None:
            try:
                placement_from_message(message["placement"])
            except (DecodeError, PlacementError):
                continue
    return found


def _again(table: Message, message: MessageValue) -> MessageValue:
    text = render_json(table, message)
    assert render_json(table, parse_json(table, text)) == text
    encode(table, message) if "Infinity" not in text else None
    return message


PARSERS = (
    Parser("placement", lambda: [encode_placement(_PLACEMENT)], _read_placement, (DecodeError,)),
    Parser(
        "staged-placement",
        _staged_placements,
        _reread(decode_staged_placement, encode_staged_placement),
        (DecodeError,),
    ),
    Parser("topic", lambda: [encode_topic(_TOPIC)], _read_topic, (DecodeError, TopicError)),
    Parser(
        "flush-times",
        lambda: [encode_flush_times(ShardSetFlushTimes({0: _TIMES, 5: ShardFlushTimes()}))],
        _reread(lambda data, _version: decode_flush_times(data), encode_flush_times),
        (DecodeError,),
    ),
    Parser("rule-set", lambda: [encode(RULE_SET, _RULES)], _read_rules, (DecodeError, MetricsError)),
    Parser(
        "rule-set-json",
        lambda: [render_json(RULE_SET, decode(RULE_SET, encode(RULE_SET, _RULES))).encode()],
        _read_rule_json,
        (JSONError, MetricsError),
        words=_JSON_WORDS,
    ),
    Parser(
        "rule-namespaces",
        lambda: [encode(NAMESPACES, _LISTED)],
        lambda data: namespaces_from(decode(NAMESPACES, data)),
        (DecodeError, MetricsError),
    ),
    Parser("m3db-namespaces", _registry, _read_registry, (DecodeError, M3DBError)),
    Parser(
        "runtime-options",
        lambda: [encode(INT64_PROTO, {"value": 5})],
        lambda data: max(int(decode(INT64_PROTO, data)["value"]), 0),
        (DecodeError,),
    ),
    Parser("holdings", _holdings, decode_holding, (ValueError,), words=_JSON_WORDS),
    Parser("admin-json", _bodies, _read_body, words=_JSON_WORDS),
)
