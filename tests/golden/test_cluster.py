"""Stored values, admin requests and first placements against ``golden/cluster``.

``kv_values.jsonl``    every value
``admin_api.jsonl``    every scenario
``placements.jsonl``   every operation
"""

import base64
import collections
import json
import random
import re
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette
from tests.golden.vectors import Vector, cases, lines

from coordinator.api import admin_routes, not_found, routes_route
from coordinator.config import Namespace
from coordinator.ready import Readiness, ready_route
from m3cluster import keys
from m3cluster.flush_times import decode_flush_times, encode_flush_times
from m3cluster.kv import KeyNotFoundError, MemoryServer
from m3cluster.placement import (
    NEVER_NS,
    CutoverTimes,
    Instance,
    InvalidPlacementError,
    Placement,
    PlacementError,
    PlacementOptions,
    PlacementService,
    Shard,
    ShardState,
    decode_placement,
    decode_staged_placement,
    encode_placement,
    encode_staged_placement,
    validate,
)
from m3cluster.placement.codec import placement_to_message
from m3cluster.proto import Kind, Message, decode, encode, parse_json, render_json
from m3cluster.proto.messages import INT64_PROTO, PLACEMENT, TOPIC
from m3cluster.proto.rules import NAMESPACES, RULE_SET
from m3cluster.topic import decode_topic, encode_topic, topic_to_message
from m3metrics.rules import namespaces_from, rule_set_from

# --- kv_values.jsonl ---


def values() -> list[Any]:
    found = []
    for param in cases("cluster/kv_values.jsonl", "group", "key"):
        (vector,) = param.values
        if "value_b64" not in vector or vector["group"] == "rules":
            continue
        found.append(param)
    return found


def rules_values() -> list[Vector]:
    return [vector for vector in lines("cluster/kv_values.jsonl") if vector["group"] == "rules"]


@pytest.mark.parametrize("vector", [pytest.param(v, id=v["step"]) for v in rules_values()])
def test_stored_rules_are_read_and_written_as_m3_does(vector: Vector) -> None:
    data = base64.b64decode(vector["value_b64"])
    namespaces = vector["kv_key"] == "/namespaces"
    table = NAMESPACES if namespaces else RULE_SET
    message = decode(table, data)
    assert encode(table, message) == data
    # ``encoding/json`` of the Go structs: fields of their proto names, bytes in base64, what is empty left out.
    assert filled(table, message) == vector["decoded_go_field_names"]
    if namespaces:
        key = keys.rule_namespaces_key("ENV")
        listed = [
            (n["name"], n["snapshots"][-1].get("tombstoned", False))
            for n in vector["decoded_go_field_names"].get("namespaces", [])
        ]
        assert [(namespace.name, namespace.tombstoned) for namespace in namespaces_from(message)] == listed
    else:
        key = keys.rule_set_key("ENV", "ns1")
        rule_set = rule_set_from(message, vector["version"])
        assert (rule_set.namespace, rule_set.version) == ("ns1", vector["version"])
    assert key == vector["etcd_key"]


def filled(table: Message, message: dict[str, Any]) -> dict[str, Any]:
    """The fields that are set."""
    found: dict[str, Any] = {}
    for field in table.fields:
        value = message[field.name]
        if field.kind is Kind.MESSAGE and value:
            found[field.name] = (
                [filled(field.message, v) for v in value] if field.repeated else filled(field.message, value)
            )
        elif field.kind is Kind.BYTES:
            found[field.name] = base64.b64encode(value).decode()
        elif value:
            found[field.name] = value
    return found


def rendered(table: Message, message: dict[str, Any]) -> Any:
    return json.loads(render_json(table, message))


@pytest.mark.parametrize("vector", values())
def test_a_stored_value_is_read_and_written_as_m3_does(vector: Vector) -> None:
    data = base64.b64decode(vector["value_b64"])
    key, message = vector["key"], vector["message"]
    if message == "Topic":
        topic = decode_topic(data, vector["version"])
        assert rendered(TOPIC, topic_to_message(topic)) == vector["decoded"]
        assert encode_topic(topic) == data
        assert key == keys.topic_key("gclu/kv", topic.name)
    elif message == "Placement":
        placement = decode_placement(data, vector["version"])
        assert rendered(PLACEMENT, placement_to_message(placement)) == vector["decoded"]
        check_placement_bytes(encode_placement(placement), data, decode_placement)
        assert key == keys.placement_key("gclu/kv", "m3coordinator")
    elif message == "PlacementSnapshots":
        placement = decode_staged_placement(data, vector["version"])
        (snapshot,) = vector["decoded"]["snapshots"]
        assert rendered(PLACEMENT, placement_to_message(placement)) == snapshot
        check_placement_bytes(encode_staged_placement(placement), data, decode_staged_placement)
        assert key == keys.placement_key("gclu/kv", "m3aggregator")
    elif message == "ShardSetFlushTimes":
        check_flush_times(data, vector["decoded"])
        assert key == keys.flush_times_key("gclu/kv", 1)
    elif message == "Int64Proto":
        value = decode(INT64_PROTO, data)
        assert rendered(INT64_PROTO, value) == vector["decoded"]
        assert encode(INT64_PROTO, value) == data
    elif message == "rulepb.Namespaces":
        assert data == b""
        assert namespaces_from(decode(NAMESPACES, data)) == []
        assert key == keys.rule_namespaces_key("default_env")
    else:
        assert message == "plain bytes"
        assert data.decode() == vector["decoded"]
        prefix = keys.election_prefix("gclu/kv", "m3aggregator", "shardset/1/lock")
        assert key == f"{prefix}/{int(vector['lease'], 16):x}"


def same_but_for_order(one: bytes, other: bytes) -> bool:
    """Go writes map entries in random order; beyond that the bytes must be the same ones."""
    return sorted(one) == sorted(other)


def check_placement_bytes(written: bytes, data: bytes, read: Any) -> None:
    assert same_but_for_order(written, data)
    assert read(written, 7) == read(data, 7)


def check_flush_times(data: bytes, decoded: Any) -> None:
    times = decode_flush_times(data)
    for shard, expected in decoded["by_shard"].items():
        found = times.by_shard[int(shard)]
        assert {str(k): str(v) for k, v in found.standard.items()} == expected["standard_by_resolution"]
        assert {str(k): str(v) for k, v in found.timed.items()} == expected["timed_by_resolution"]
        assert {
            str(k): {"by_num_forwarded_times": {str(n): str(v) for n, v in hops.items()}}
            for k, hops in found.forwarded.items()
        } == expected["forwarded_by_resolution"]
        assert found.tombstoned == expected["tombstoned"]
    assert len(times.by_shard) == len(decoded["by_shard"])
    written = encode_flush_times(times)
    assert same_but_for_order(written, data)
    assert decode_flush_times(written) == times


# --- admin_api.jsonl ---

OWN_TEXTS = {
    "caught panic: runtime error: integer divide by zero": r"a weight greater than 0",
    "caught panic: runtime error: invalid memory address or nil pointer dereference": r"is missing in the request|in the stored topic",
    "caught panic: runtime error: makeslice: cap out of range": r"a replica factor of -?\d+",
}
"""Where M3 panics we say what is wrong, with the same status."""


class Coordinator:
    """The routes over an empty memory store, with a clock that stands where the capture's stood."""

    def __init__(self, server: MemoryServer, namespaces: Sequence[Namespace] = ()) -> None:
        self.store = server.client()
        self.now_ns = 0
        routes = admin_routes(self.store, clock=lambda: self.now_ns, rng=random.Random(1), kv_environment="coord_env")
        routes.append(ready_route(Readiness(namespaces, None, None, self.store)))
        routes.append(routes_route(routes))
        app = Starlette(routes=routes, exception_handlers={404: not_found})
        app.router.redirect_slashes = False
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coordinator")

    async def stored(self, key: str) -> tuple[bytes, int] | None:
        try:
            value = await self.store.get(key)
        except KeyNotFoundError:
            return None
        return value.data, value.version


NAMESPACES_OF = {
    "embedded_coordinator_in_dbnode": (
        Namespace("default", 0, 6 * 3600 * 10**9),
        Namespace("agg", 10 * 10**9, 6 * 3600 * 10**9),
    )
}
"""What the coordinator of a scenario stores; the others have no database."""


async def with_database(coordinator: Coordinator, scenario: Vector) -> None:
    """Puts the placement that a DB node had made for itself before the scenario of its coordinator began."""
    for step in scenario["steps"]:
        if step.get("path") == "/api/v1/services/m3db/placement" and step["status"] == 200:
            answer = step["response"]
            message = parse_json(PLACEMENT, json.dumps(answer["placement"]))
            for _ in range(answer["version"]):
                await coordinator.store.set("_sd.placement/default_env/m3db", encode(PLACEMENT, message))


@pytest.mark.parametrize("scenario", cases("cluster/admin_api.jsonl", "name"))
async def test_the_admin_api_answers_and_stores_what_m3_does(scenario: Vector) -> None:
    coordinator = Coordinator(MemoryServer(), NAMESPACES_OF.get(scenario["name"], ()))
    try:
        if scenario["name"] == "embedded_coordinator_in_dbnode":
            await with_database(coordinator, scenario)
        for number, step in enumerate(scenario["steps"]):
            if "etcd_put" in step:
                await coordinator.store.set(step["etcd_put"], base64.b64decode(step["value_b64"]))
            elif "path" in step:
                coordinator.now_ns = step["request_unix_ns"][0]
                await check_step(coordinator, step, f"step {number}: {step['method']} {step['path']} {step['body']}")
    finally:
        await coordinator.client.aclose()
        await coordinator.store.close()


async def check_step(coordinator: Coordinator, step: Vector, where: str) -> None:
    answer = await coordinator.client.request(
        step["method"], step["path"], headers=step["headers"], content=step["body"], follow_redirects=False
    )
    assert answer.status_code == step["status"], f"{where}: {answer.text}"
    for name, value in step["response_headers"].items():
        assert answer.headers.get(name) == value, where
    if not step["response_headers"]:
        assert "access-control-allow-origin" not in answer.headers, where
    assert answer.text.endswith("\n") == step["ends_with_newline"], where
    varies = by_chance(step)
    if step["path"] == "/health" and step["status"] == 200:
        assert set(answer.json()) == set(step["response"])
    elif step["path"] == "/routes":
        # Whoever reads it learns what is served here, which is not all that M3 serves.
        assert list(answer.json()) == list(step["response"])
        assert "/api/v1/topic" in answer.json()["routes"]
    elif step["response"] is None:
        assert answer.text == (step["response_text"] or ""), where
    else:
        check_response(answer.text, step, where)
    for key, expected in (step["etcd_after"] or {}).items():
        await check_stored(coordinator, key, expected, varies=varies, where=where)


def by_chance(step: Vector) -> bool:
    """Whether M3 decided by chance. The numbering of several shard sets is always chance, also where the repetitions happened to agree
    (agg_delete_one is not marked; mirrored-init-rf1 in placements.jsonl is the same request, with 20 answers in 20 runs)."""
    placement = (step["response"] or {}).get("placement") or {}
    return step.get("varies", False) or placement.get("maxShardSetId", 0) > 1


def check_response(text: str, step: Vector, where: str) -> None:
    expected = step["response"]
    found = json.loads(text)
    if expected.get("error") in OWN_TEXTS:
        assert re.search(OWN_TEXTS[expected["error"]], found["error"]), where
    elif by_chance(step):
        assert without_chance(found["placement"]) == without_chance(expected["placement"]), where
    elif "could not mark shard" in expected.get("error", ""):
        # Which shard is the first one of an instance is chance where the placement was.
        number = re.compile(r"shard \d+ ")
        assert number.sub("", found["error"]) == number.sub("", expected["error"]), where
    else:
        assert found == expected, where
        compact = json.dumps(expected, separators=(",", ":"), ensure_ascii=False)
        for character in "<>&":
            compact = compact.replace(character, f"\\u{ord(character):04x}")
        assert text.rstrip("\n") == compact, where


def without_chance(placement: Any) -> Any:
    """The placement with the numbers of shard sets and the choice of shards taken out, their counts left in."""
    sets: dict[int, list[str]] = collections.defaultdict(list)
    instances = {}
    for name, instance in placement["instances"].items():
        sets[instance["shardSetId"]].append(name)
        states = collections.Counter((s["state"], s["cutoverNanos"]) for s in instance["shards"])
        instances[name] = {**instance, "shardSetId": None, "shards": states}
    pairs = {tuple(sorted(placement["instances"][m]["isolationGroup"] for m in members)) for members in sets.values()}
    return {**placement, "instances": instances}, len(sets), pairs


async def check_stored(coordinator: Coordinator, key: str, expected: Any, *, varies: bool, where: str) -> None:
    found = await coordinator.stored(key)
    if expected is None:
        assert found is None, where
        return
    assert found is not None, f"{where}: {key} is missing"
    data, version = found
    assert version == expected["version"], where
    golden = base64.b64decode(expected["value_b64"])
    if key.startswith(("/topic/", "_kv/")):
        assert data == golden, where
        return
    decoder = decode_staged_placement if key.startswith("/placement/") else decode_placement
    mine, theirs = decoder(data, version), decoder(golden, version)
    validate(mine)
    if varies:
        assert without_chance(rendered(PLACEMENT, placement_to_message(mine))) == without_chance(
            rendered(PLACEMENT, placement_to_message(theirs))
        ), where
    else:
        assert mine == theirs, where
        assert same_but_for_order(data, golden), where


def test_a_request_body_in_m3s_own_words_is_read_back() -> None:
    """What the API answers can be sent to it again: the text of each captured topic and placement is a message of its table."""
    for scenario in lines("cluster/admin_api.jsonl"):
        for step in scenario["steps"]:
            for name, table in (("placement", PLACEMENT), ("topic", TOPIC)):
                answer = (step.get("response") or {}).get(name)
                if answer is not None:
                    assert rendered(table, parse_json(table, json.dumps(answer))) == answer


# --- placements.jsonl ---


def options_of(vector: Vector) -> PlacementOptions:
    options = vector["options"]
    times = CutoverTimes.aggregator(options["now"], options["windowNanos"])
    return PlacementOptions(
        is_sharded=vector["algo"] != "nonsharded",
        is_mirrored=vector["algo"] == "mirrored",
        valid_zone=options["validZone"],
        skip_port_mirroring=options["skipPortMirroring"],
        add_all_candidates=options["addAllCandidates"],
        allow_partial_replace=options["allowPartialReplace"],
        stable_only=options["stableShardStateOnly"],
        times=times if options["aggregatorTimes"] else CutoverTimes(),
    )


def instance_of(name: str, described: Any) -> Instance:
    shards = []
    for what, ids in (described.get("shards") or {}).items():
        state, source, cutover, cutoff = what.split("|")
        for part in ids.split(","):
            first, _, last = part.partition("-")
            for shard in range(int(first), int(last or first) + 1):
                shards.append(Shard(shard, ShardState[state], source, int(cutover), int(cutoff) or NEVER_NS))
    return Instance(
        id=name,
        isolation_group=described.get("isolationGroup", ""),
        zone=described.get("zone", ""),
        weight=described.get("weight", 0),
        endpoint=described.get("endpoint", ""),
        shards=tuple(sorted(shards, key=lambda s: s.id)),
        shard_set_id=described.get("shardSetId", 0),
        hostname=described.get("hostname", ""),
        port=described.get("port", 0),
    )


def placement_of(described: Any) -> Placement:
    return Placement(
        instances=tuple(instance_of(name, i) for name, i in sorted(described["instances"].items())),
        num_shards=described["numShards"],
        replica_factor=described["replicaFactor"],
        is_sharded=described["isSharded"],
        is_mirrored=described["isMirrored"],
        cutover_time_ns=described["cutoverTime"],
        max_shard_set_id=described["maxShardSetId"],
    )


async def run_operation(service: PlacementService, vector: Vector) -> Placement:
    arguments = vector["args"]

    def instances(name: str) -> list[Instance]:
        return [instance_of(i["id"], i) for i in arguments[name] or []]

    match vector["op"]:
        case "init":
            return await service.init(instances("instances"), arguments["num_shards"], arguments["rf"])
        case "add":
            return await service.add(instances("candidates"))
        case "remove":
            return await service.remove(arguments["ids"])
        case "replace":
            return await service.replace(arguments["leaving"], instances("candidates"))
        case "mark_shards_available":
            return await service.mark_shards_available(arguments["id"], arguments["shards"])
        case "mark_instance_available":
            return await service.mark_instance_available(arguments["id"])
        case "mark_all_available":
            return await service.mark_all_available()
        case "balance":
            return await service.balance()
        case operation:
            assert operation == "add_replica"
            return await service.add_replica()


def error_text(text: str) -> str:
    """A pattern of our text for an error of M3; the times after "cutover time" and "cutoff time" are left out in the vectors."""
    return OWN_TEXTS.get(text.replace("panic:", "caught panic:"), re.escape(text))


@pytest.mark.parametrize("vector", cases("cluster/placements.jsonl", "name"))
async def test_an_operation_gives_the_placement_that_m3_gives(vector: Vector) -> None:
    for seed in range(1 if vector["deterministic"] else 5):
        store = MemoryServer().client()
        try:
            service = PlacementService(store, "e", "s", options_of(vector), rng=random.Random(seed))
            if vector["input"] is not None:
                await store.set(service.key, encode_placement(placement_of(vector["input"])))
            await check_operation(service, vector)
        finally:
            await store.close()


async def check_operation(service: PlacementService, vector: Vector) -> None:
    if "error" in vector:
        with pytest.raises((PlacementError, InvalidPlacementError), match=error_text(vector["error"])):
            await run_operation(service, vector)
        return
    try:
        placement = await run_operation(service, vector)
    except (PlacementError, InvalidPlacementError) as error:
        # Where M3 fails by chance, so may we.
        assert not vector["deterministic"], error
        assert str(error) in vector["invariants"].get("errors", {})
        return
    stored = await service.placement()
    assert replace(stored, version=placement.version) == decode_placement(
        encode_placement(placement), placement.version
    )
    if vector["deterministic"]:
        assert replace(placement, version=0) == placement_of(vector["output"])
    else:
        check_invariants(placement, vector)


def check_invariants(placement: Placement, vector: Vector) -> None:
    """Loads may be one off what twenty runs of M3 gave: they are chance there, too."""
    invariants = vector["invariants"]
    assert ",".join(i.id for i in placement.instances) in invariants["member_sets"]
    assert str(placement.max_shard_set_id) in invariants["max_shard_set_id"]
    for instance in placement.instances:
        low, high = invariants["load_by_instance"][instance.id]
        load = sum(s.state is not ShardState.LEAVING for s in instance.shards)
        assert low - 1 <= load <= high + 1, instance.id
    states = collections.Counter(s.state.name.lower() for i in placement.instances for s in i.shards)
    states["initializing_with_source"] = sum(s.source_id != "" for i in placement.instances for s in i.shards)
    for name, (low, high) in invariants["shard_states"].items():
        assert low - 1 <= states[name] <= high + 1, name
    conflicts = 0
    for shard in range(placement.num_shards):
        groups = [i.isolation_group for i, s in placement.owners(shard) if s.state is not ShardState.LEAVING]
        conflicts += len(set(groups)) != len(groups)
    allowed = invariants["max_isolation_group_conflicts"]
    assert conflicts <= (allowed + 2 if allowed else 0)
    sample = placement_of(vector["sample_output"])
    assert (placement.replica_factor, placement.cutover_time_ns) == (sample.replica_factor, sample.cutover_time_ns)
    assert times_of(placement) == times_of(sample)


def times_of(placement: Placement) -> set[tuple[ShardState, int, int]]:
    return {(s.state, s.cutover_ns, s.cutoff_ns) for i in placement.instances for s in i.shards}
