"""Topologies: of placements with M3's rules, dealt out by files, and what changes between two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3cluster.placement import Instance, Placement, Shard, ShardState
from m3db.topology import Host, Topology, TopologyError, changes

AVAILABLE, LEAVING, INITIALIZING = ShardState.AVAILABLE, ShardState.LEAVING, ShardState.INITIALIZING


def instance(name: str, *shards: Shard, endpoint: str = "") -> Instance:
    return Instance(id=name, endpoint=endpoint or f"{name}:9000", shards=shards)


def placement(replicas: int, num_shards: int, *instances: Instance) -> Placement:
    return Placement(instances, num_shards, replicas, is_sharded=True, version=7)


def shards(*numbers: int, state: ShardState = AVAILABLE) -> list[Shard]:
    return [Shard(number, state) for number in numbers]


MOVING = placement(
    3, 2,
    instance("n1", *shards(0, 1, state=LEAVING)),
    instance("n2", *shards(0, 1)),
    instance("n3", *shards(0, 1)),
    instance("n4", Shard(0, INITIALIZING, "n1"), Shard(1, INITIALIZING, "n1")),
)  # fmt: skip


def test_of_placement() -> None:
    topology = Topology.of_placement(MOVING, seed=5)
    assert [host.id for host in topology.hosts] == ["n1", "n2", "n3", "n4"]
    assert topology.hosts[0].endpoint == "n1:9000"
    assert (topology.replicas, topology.num_shards, topology.seed, topology.version) == (3, 2, 5, 7)
    assert topology.owners.tolist() == [[0, 1, 2, 3]] * 2
    assert topology.states.tolist() == [[LEAVING, AVAILABLE, AVAILABLE, INITIALIZING]] * 2
    assert topology.partners.tolist() == [[3, -1, -1, 0]] * 2
    assert topology.slots.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert topology.copies.tolist() == [4, 4]
    assert topology.index("n3") == 2
    assert topology.index("n5") is None


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (placement(1, 2, instance("a", *shards(0))), "shard is missing"),
        (placement(1, 1), "shard is missing"),
        (placement(2, 1, instance("a", *shards(0))), "replicas of shard is less than expected"),
        (placement(1, 1, instance("a", *shards(0, 1))), "shard is unexpected"),
        (placement(2, 2, instance("a", *shards(0, 9)), instance("b", *shards(0))), "shard is missing"),
        (placement(0, 1, instance("a", *shards(0))), "replicas must be equal to or greater than 1"),
        (
            placement(2, 1, instance("a", *shards(0), endpoint="x:1"), instance("b", *shards(0), endpoint="x:1")),
            "shard 0 has 1 replicas, less than the required 2 replicas",
        ),
        (placement(1, 0), "the placement has no shards, so that no series has a place"),
        (
            placement(1, 1, *(instance(f"n{number}", *shards(0)) for number in range(33))),
            "a shard is on 33 instances; at most 32 are supported",
        ),
    ],
)
def test_a_placement_that_is_none(wrong: Placement, text: str) -> None:
    with pytest.raises(TopologyError) as raised:
        Topology.of_placement(wrong)
    assert str(raised.value) == text
    assert isinstance(raised.value, ValueError)


def test_states_do_not_matter_for_validity() -> None:
    every = [instance(name, *shards(0, state=state)) for name, state in zip("abc", ShardState, strict=True)]
    assert Topology.of_placement(placement(3, 1, *every)).copies.tolist() == [3]


def test_a_leaving_shard_without_one_that_comes_has_no_partner() -> None:
    one = placement(1, 1, instance("a", *shards(0, state=LEAVING)), instance("b", Shard(0, INITIALIZING, "c")))
    assert Topology.of_placement(one).partners.tolist() == [[-1, -1]]
    with_available_source = placement(1, 1, instance("a", *shards(0)), instance("b", Shard(0, INITIALIZING, "a")))
    assert Topology.of_placement(with_available_source).partners.tolist() == [[-1, -1]]


def test_static_deals_shards_to_the_sorted_hosts() -> None:
    hosts = [Host("c", "c:1"), Host("a", "a:1"), Host("b", "b:1")]
    topology = Topology.static(hosts, 4, 2)
    assert [host.id for host in topology.hosts] == ["a", "b", "c"]
    # 0 0 1 1 2 2 3 3 are dealt to a b c a b c a b
    assert [[int(host) for host in row] for row in topology.owners] == [[0, 1], [0, 2], [1, 2], [0, 1]]
    assert (topology.states == AVAILABLE).all()
    assert (topology.replicas, topology.seed, topology.version) == (2, 0, 0)
    assert Topology.static(hosts, 1).replicas == 1


@pytest.mark.parametrize(
    ("hosts", "num_shards", "replicas", "text"),
    [
        ([], 1, 1, "number of hosts, shards, and RF must be positive"),
        ([Host("a", "a:1")], 0, 1, "number of hosts, shards, and RF must be positive"),
        ([Host("a", "a:1")], 1, -1, "number of hosts, shards, and RF must be positive"),
        ([Host("a", "a:1")], 1, 2, "number of hosts must be >=RF"),
        ([Host("a", "a:1"), Host("a", "b:1")], 1, 1, "two hosts have the same hostID"),
    ],
)
def test_a_static_topology_that_is_none(hosts: list[Host], num_shards: int, replicas: int, text: str) -> None:
    with pytest.raises(TopologyError, match=text):
        Topology.static(hosts, num_shards, replicas)


def test_changes() -> None:
    old = Topology.static([Host("a", "a:1"), Host("b", "b:1"), Host("c", "c:1")], 4)
    new = Topology.static([Host("a", "a:1"), Host("c", "elsewhere:1"), Host("d", "d:1")], 4)
    found = changes(old, new)
    assert (found.added, found.removed, found.moved) == (("d",), ("b",), ("c",))
    first = changes(None, new)
    assert (first.added, first.removed, first.moved) == (("a", "c", "d"), (), ())


hosts_by_id = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["x:1", "y:1"]), min_size=1)


@given(hosts_by_id, hosts_by_id)
def test_changes_lead_from_the_old_hosts_to_the_new_ones(before: dict[str, str], after: dict[str, str]) -> None:
    old, new = (Topology.static([Host(*host) for host in hosts.items()], 3, 1) for hosts in (before, after))
    found = changes(old, new)
    result = {name: endpoint for name, endpoint in before.items() if name not in found.removed}
    assert set(found.moved) <= result.keys()
    assert not set(found.added) & result.keys()
    for name in (*found.added, *found.moved):
        assert result.get(name) != after[name]
        result[name] = after[name]
    assert result == after


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    """Any states, any sources; each shard on as many instances as there are replicas, or more."""
    num_hosts, num_shards = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    replicas = draw(st.integers(1, num_hosts))
    lists: list[list[Shard]] = [[] for _ in range(num_hosts)]
    names = [f"n{number}" for number in range(num_hosts)]
    for shard in range(num_shards):
        owners = draw(st.lists(st.integers(0, num_hosts - 1), min_size=replicas, max_size=num_hosts, unique=True))
        for host in owners:
            lists[host].append(Shard(shard, draw(st.sampled_from(ShardState)), draw(st.sampled_from(["", *names]))))
    return placement(replicas, num_shards, *(instance(n, *found) for n, found in zip(names, lists, strict=True)))


@given(placements())
def test_arrays_say_what_the_placement_says(one: Placement) -> None:
    topology = Topology.of_placement(one)
    for shard in range(one.num_shards):
        owners = one.owners(shard)
        assert topology.copies[shard] == len(owners)
        for slot, (owner, listed) in enumerate(owners):
            host = topology.index(owner.id)
            assert host is not None
            assert topology.owners[shard, slot] == host
            assert topology.slots[host, shard] == slot
            assert topology.states[shard, slot] == listed.state
            other = int(topology.partners[shard, slot])
            if other >= 0:
                assert topology.partners[shard, other] == slot
                pair = {listed.state: (owner, listed), owners[other][1].state: owners[other]}
                assert pair.keys() == {LEAVING, INITIALIZING}
                assert pair[INITIALIZING][1].source_id == pair[LEAVING][0].id
        assert (topology.owners[shard, len(owners) :] == -1).all()
