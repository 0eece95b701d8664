"""Rules in KV: loaded at the start, followed while running, the last good ones kept (docs/m3/metrics.md, rules in the KV)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.waiting import until

from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler, RulesInEffect
from coordinator.downsample.kv_rules import KVRules, RuleInitError, RuleWatcher
from m3cluster.keys import rule_namespaces_key, rule_set_key
from m3cluster.kv import MemoryServer, Store, Value
from m3cluster.proto import encode
from m3cluster.proto.rules import NAMESPACES, RULE_SET
from m3metrics.codec import decode_staged_metadatas
from m3metrics.policy import StoragePolicy
from m3x.instrument import Registry

SECOND = 10**9
NOW_NS = 1_700_000_000 * SECOND
TEN = Namespace("ten", 10 * SECOND, 48 * 3600 * SECOND)
POLICY = {"resolution": {"window_size": 60 * SECOND, "precision": 60 * SECOND}, "retention": {"period": 86400 * SECOND}}
ENV = "test"


def namespaces(*names: str, tombstoned_for: int = 0) -> bytes:
    snapshots = [{"for_ruleset_version": 1}]
    if tombstoned_for:
        snapshots.append({"for_ruleset_version": tombstoned_for, "tombstoned": True})
    return encode(NAMESPACES, {"namespaces": [{"name": name, "snapshots": snapshots} for name in names]})


def rule_set(tags_filter: str, aggregation: int = 3, cutover_ns: int = 1, **more: Any) -> bytes:
    snapshot = {
        "name": "keep",
        "cutover_nanos": cutover_ns,
        "filter": tags_filter,
        "aggregation_types": [aggregation],
        "storage_policies": [POLICY],
    }
    message = {"namespace": "default", "mapping_rules": [{"uuid": "1", "snapshots": [snapshot]}], **more}
    return encode(RULE_SET, message)


class World:
    """A KV with two clients: the operator's and the coordinator's."""

    def __init__(self, operator: Store, store: Store) -> None:
        self.operator = operator
        self.registry = Registry()
        self.rules = RulesInEffect()
        self.now_ns = NOW_NS
        self.core = KVRules(self.rules, self.registry.scope("rules"), lambda: self.now_ns)
        self.watcher = RuleWatcher(store, ENV, self.core)
        self.downsampler = Downsampler([TEN], self.rules, now_ns=NOW_NS)

    async def put(self, name: str, data: bytes) -> None:
        await self.operator.set(rule_set_key(ENV, name), data)

    async def put_namespaces(self, data: bytes) -> None:
        await self.operator.set(rule_namespaces_key(ENV), data)

    def policies(self, app: str = "a") -> list[str]:
        """What a metric is kept as."""
        self.downsampler.advance(self.now_ns)
        return [
            str(policy)
            for spec in self.downsampler.append([(b"__name__", b"x"), (b"app", app.encode())]).specs
            for stage in decode_staged_metadatas(spec.metadatas)
            for pipeline in stage.pipelines
            for policy in pipeline.storage_policies
        ]


AUTO, RULE = "10s:2d", "1m:1d"


def no_minutes(policy: StoragePolicy) -> str:
    return "no minutes here" if policy.window_ns == 60 * SECOND else ""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    server = MemoryServer()
    operator, store = server.client(), server.client()
    try:
        yield World(operator, store)
    finally:
        await operator.close()
        await store.close()
        server.close()


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    await world.watcher.load()
    task = asyncio.create_task(world.watcher.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_first_series_meets_the_rules_that_are_there(world: World) -> None:
    await world.put_namespaces(namespaces("default", "other"))
    await world.put("default", rule_set("app:a"))
    await world.watcher.load()
    assert world.policies("a") == [RULE, AUTO]
    assert world.policies("b") == [AUTO]
    assert world.core.watched == {"default", "other"}
    assert world.core.problems() == []


async def test_an_empty_list_of_namespaces_is_written_as_m3_does(world: World) -> None:
    await world.watcher.load()
    value = await world.operator.get(rule_namespaces_key(ENV))
    assert (value.data, value.version) == (b"", 1)
    await world.watcher.load()
    assert (await world.operator.get(rule_namespaces_key(ENV))).version == 1


async def test_warnings_follow_the_rules(world: World) -> None:
    rules = RulesInEffect(no_minutes)
    core = KVRules(rules, world.registry.scope("rules"), lambda: NOW_NS)
    core.namespaces_changed(Value(namespaces("default"), 1, 1, 1))
    core.rule_set_changed("default", Value(rule_set("app:a"), 1, 1, 1))
    assert rules.warnings() == ["mapping rule 'keep' asks for 1m:1d: no minutes here (rules of namespace 'default')"]
    assert rules.asking_for(StoragePolicy.parse("1m@1s:1d")) == ["mapping rule 'keep' of namespace 'default'"]
    assert rules.asking_for(StoragePolicy.parse("1m:2d")) == []
    core.rule_set_changed("default", Value(encode(RULE_SET, {"namespace": "default"}), 2, 2, 1))
    assert rules.warnings() == []
    core.rule_set_changed("default", Value(rule_set("app:a"), 3, 3, 1))
    core.namespaces_changed(Value(namespaces("default", tombstoned_for=3), 2, 2, 1))
    assert rules.warnings() == []


async def test_rules_change_on_a_live_coordinator(world: World) -> None:
    async with running(world):
        assert world.policies() == [AUTO]
        await world.put("default", rule_set("app:a"))
        await world.put_namespaces(namespaces("default"))
        await until(lambda: world.policies() == [RULE, AUTO])
        await world.put("default", rule_set("app:other"))
        await until(lambda: world.policies() == [AUTO])
        assert world.policies("other") == [RULE, AUTO]
        # The namespace's last snapshot is for the version that is loaded: it goes.
        await world.put_namespaces(namespaces("default", tombstoned_for=2))
        await until(lambda: world.policies("other") == [AUTO])
    assert world.registry.counter("rules_updates", namespace="default") == 2


async def test_a_broken_rule_set_leaves_the_last_good_one_in_effect(world: World) -> None:
    await world.put_namespaces(namespaces("default"))
    await world.put("default", rule_set("app:a"))
    async with running(world):
        for broken in (b"\xff\xff", rule_set("app:*b*c"), rule_set("app:a", aggregation=77)):
            await world.put("default", broken)
            version = (await world.operator.get(rule_set_key(ENV, "default"))).version
            await until(lambda version=version: f"version {version} of" in " ".join(world.core.problems()))
            (problem,) = world.core.problems()
            assert "not usable" in problem
            assert "version 1 stays in effect" in problem
            assert world.policies() == [RULE, AUTO]
        assert "rules_broken 1.0" in world.registry.render().decode()
        await world.operator.delete(rule_set_key(ENV, "default"))
        await until(lambda: "was deleted" in " ".join(world.core.problems()))
        assert world.policies() == [RULE, AUTO]
        await world.put("default", rule_set("app:none"))
        await until(lambda: world.policies() == [AUTO])
        assert world.core.problems() == []
    assert world.registry.counter("rules_errors") == 4


GOOD = rule_set("app:a* __name__:{x,y}") + encode(
    RULE_SET,
    {
        "rollup_rules": [
            {
                "snapshots": [
                    {
                        "name": "r",
                        "filter": "app:*",
                        "targets_v2": [
                            {
                                "pipeline": {
                                    "ops": [{"type": 3, "rollup": {"new_name": "{{ .MetricName }}", "tags": ["a"]}}]
                                },
                                "storage_policies": [POLICY],
                            }
                        ],
                    }
                ]
            }
        ]
    },
)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(GOOD)))
def test_no_rule_set_stops_the_coordinator(changes: list[tuple[int, int]], size: int) -> None:
    data = bytearray(GOOD)
    for at, byte in changes:
        data[at] = byte
    rules = RulesInEffect()
    core = KVRules(rules, Registry().scope("rules"), lambda: NOW_NS)
    core.namespaces_changed(Value(namespaces("default"), 1, 1, 1))
    core.rule_set_changed("default", Value(bytes(data[:size]), 1, 1, 2))
    downsampler = Downsampler([TEN], rules, now_ns=NOW_NS)
    assert downsampler.append([(b"__name__", b"x"), (b"app", b"a")]).specs or rules.filters(NOW_NS)


async def test_broken_namespaces_change_nothing(world: World) -> None:
    await world.put_namespaces(namespaces("default"))
    await world.put("default", rule_set("app:a"))
    async with running(world):
        await world.put_namespaces(namespaces("default", "default"))
        await until(lambda: "listed twice" in " ".join(world.core.problems()))
        await world.put("default", rule_set("app:b"))
        await until(lambda: world.policies("b") == [RULE, AUTO])


async def test_a_namespace_that_is_not_listed_any_more_goes_when_its_rules_are_over(world: World) -> None:
    await world.put_namespaces(namespaces("default"))
    await world.put("default", rule_set("app:a"))
    async with running(world):
        await world.put_namespaces(namespaces())
        await world.put("default", rule_set("app:a", tombstoned=True, cutover_nanos=NOW_NS))
        await until(lambda: world.policies() == [AUTO])


async def test_a_cutover_comes_into_effect_by_the_clock(world: World) -> None:
    await world.put_namespaces(namespaces("default"))
    await world.put("default", rule_set("app:a", cutover_ns=NOW_NS + 60 * SECOND))
    await world.watcher.load()
    assert world.policies() == [AUTO]
    generation = world.downsampler.generation
    world.now_ns += 60 * SECOND - 1
    assert world.policies() == [AUTO]
    assert world.downsampler.generation == generation
    world.now_ns += 1
    assert world.policies() == [RULE, AUTO]
    assert world.downsampler.generation == generation + 1


async def test_required_namespaces(world: World) -> None:
    watcher = RuleWatcher(world.operator, ENV, world.core, require=True)
    with pytest.raises(RuleInitError, match="requireNamespaceWatchOnInit"):
        await watcher.load()


async def test_the_same_value_again_is_no_change(world: World) -> None:
    await world.put_namespaces(namespaces("default"))
    await world.put("default", rule_set("app:a"))
    await world.watcher.load()
    version = world.rules.version
    await world.watcher.load()
    assert world.rules.version == version
