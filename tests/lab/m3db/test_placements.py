"""Placements of played nodes: every shard has its replicas, the nodes know theirs, and the KV has what a client reads."""

from collections.abc import Callable

import pytest
from lab.kv import ENVIRONMENT
from lab.m3db.namespaces import REGISTRY_KEY, SECOND_NS, Namespace, encode_registry
from lab.m3db.node import Node
from lab.m3db.placements import Nodes, write_registry

from m3cluster.keys import kv_key, placement_key
from m3cluster.kv import Memory, open_store
from m3cluster.kv.sqlite.memory import MemoryServer
from m3cluster.placement import Placement, ShardState, decode_placement, validate
from m3db.namespaces import Namespaces, decode_registry, targets_of

SHARDS = 12


def states(placement: Placement, name: str) -> dict[ShardState, int]:
    instance = placement.instance(name)
    assert instance is not None
    found: dict[ShardState, int] = {}
    for shard in instance.shards:
        found[shard.state] = found.get(shard.state, 0) + 1
    return found


@pytest.fixture
def nodes() -> list[Node]:
    return [Node(f"node{number}", num_shards=SHARDS, address=f"127.0.0.1:{9000 + number}") for number in range(1, 5)]


async def test_the_kv_has_what_a_client_reads(nodes: list[Node]) -> None:
    store = await open_store(Memory(MemoryServer()))
    cluster = Nodes(nodes[:3], store, num_shards=SHARDS)
    await cluster.write()
    await cluster.replace("node2", nodes[3])
    value = await store.get(placement_key(ENVIRONMENT, "m3db"))
    placement = decode_placement(value.data, value.version)
    assert placement.version == 2
    assert placement.instances == cluster.placement.instances
    assert [instance.endpoint for instance in placement.instances] == [node.address for node in nodes]
    await write_registry(store, [Namespace("a"), Namespace("b", resolution_ns=SECOND_NS)])
    registry = await store.get(kv_key(ENVIRONMENT, REGISTRY_KEY))
    assert registry.data == encode_registry([Namespace("a"), Namespace("b", resolution_ns=SECOND_NS)])
    await store.close()


def test_the_registry_says_what_namespaces_are() -> None:
    one = Namespace("b", resolution_ns=SECOND_NS, buffer_past_ns=7, cold_writes=True)
    found = decode_registry(encode_registry([Namespace("a"), one, Namespace("c", ready=False)])).by_name
    assert (found["b"].retention.buffer_past_ns, found["b"].cold_writes_enabled) == (7, True)
    targets, problems = targets_of(Namespaces(found))
    assert {key: target.namespace.name for key, target in targets.items()} == {
        (0, 0): "a",
        (SECOND_NS, one.retention_ns): "b",
    }
    assert len(problems) == 1


def test_at_first_all_have_all(nodes: list[Node]) -> None:
    placement = Nodes(nodes[:3], num_shards=SHARDS).placement
    assert (placement.num_shards, placement.replica_factor) == (SHARDS, 3)
    assert all(states(placement, node.name) == {ShardState.AVAILABLE: SHARDS} for node in nodes[:3])


async def test_a_node_is_replaced(nodes: list[Node]) -> None:
    cluster = Nodes(nodes[:3], num_shards=SHARDS)
    await cluster.write()
    await cluster.replace("node2", nodes[3])
    assert states(cluster.placement, "node2") == {ShardState.LEAVING: SHARDS}
    assert states(cluster.placement, "node4") == {ShardState.INITIALIZING: SHARDS}
    instance = cluster.placement.instance("node4")
    assert instance is not None
    assert {shard.source_id for shard in instance.shards} == {"node2"}
    assert nodes[1].shards == nodes[3].shards == set(range(SHARDS))
    await cluster.settle()
    assert cluster.placement.instance("node2") is None
    assert nodes[1].shards == set()
    assert states(cluster.placement, "node4") == {ShardState.AVAILABLE: SHARDS}


@pytest.mark.parametrize(
    "change", [lambda cluster, node: cluster.add(node), lambda cluster, _: cluster.remove("node3")]
)
async def test_nodes_join_and_leave(nodes: list[Node], change: Callable[..., object]) -> None:
    cluster = Nodes(nodes[:3], num_shards=SHARDS, replicas=2)
    await change(cluster, nodes[3])  # type: ignore[misc]
    validate(cluster.placement)
    moving = [shard for one in cluster.placement.instances for shard in one.shards if shard.source_id]
    assert moving
    await cluster.settle()
    validate(cluster.placement)
    for shard in range(SHARDS):
        owners = cluster.placement.owners(shard)
        assert len(owners) == 2
        assert all(one.state is ShardState.AVAILABLE for _, one in owners)
        assert {instance.id for instance, _ in owners} == {
            n.name for n in cluster.members.values() if shard in n.shards
        }
