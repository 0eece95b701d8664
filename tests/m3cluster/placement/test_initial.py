"""First placements: which instances, which shard sets, which shards, when (docs/m3/cluster.md)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from m3cluster.placement import (
    CutoverTimes,
    Instance,
    InvalidPlacementError,
    PlacementError,
    PlacementOptions,
    Shard,
    ShardState,
    validate,
)
from m3cluster.placement.algorithm import choose
from m3cluster.placement.select import select_initial
from m3cluster.placement.times import round_up

SECOND = 10**9
MIRRORED = PlacementOptions(is_mirrored=True, is_staged=True, times=CutoverTimes(5, 60 * SECOND, 60 * SECOND))


def candidate(name, group="a", weight=1, port=6000, host=None, zone="embedded"):
    return Instance(name, group, zone, weight, f"{name}:{port}", hostname=host or name, port=port)


def initial(options, candidates, num_shards, replica_factor):
    selected = select_initial(candidates, replica_factor, options)
    placement = choose(options, random.Random(3)).initial(selected, num_shards, replica_factor)
    validate(placement)
    return placement


def shard_ids(instance):
    return [s.id for s in instance.shards]


@pytest.mark.parametrize(
    ("now", "window", "expected"),
    [
        (1767323045_500_000_000, 60 * SECOND, 1767323100_000_000_000),
        (1767323100_000_000_000, 60 * SECOND, 1767323100_000_000_000),
        (0, 7 * 60 * SECOND, (7 * 60 - 60) * SECOND),  # multiples count from the year 1
        (1, 7 * 3600 * SECOND, (7 * 3600 - 7200) * SECOND),
    ],
)
def test_cutover_is_the_next_whole_window(now, window, expected):
    assert round_up(now, window) == expected
    assert CutoverTimes.aggregator(now, window) == CutoverTimes(now, expected, expected, window)


def test_the_documented_pair_is_one_shard_set_with_all_shards():
    pair = [
        candidate("m3aggregator01:6000", "availability-zone-a", 100, host="m3aggregator01"),
        candidate("m3aggregator02:6000", "availability-zone-b", 100, host="m3aggregator02"),
    ]
    placement = initial(MIRRORED, pair, 64, 2)
    assert (placement.is_mirrored, placement.is_sharded, placement.max_shard_set_id) == (True, True, 1)
    for instance in placement.instances:
        assert instance.shard_set_id == 1
        assert shard_ids(instance) == list(range(64))
        assert {(s.state, s.source_id, s.cutover_ns) for s in instance.shards} == {
            (ShardState.INITIALIZING, "", 60 * SECOND)
        }


def test_hosts_with_several_ports_give_a_shard_set_per_port():
    hosts = [
        candidate(f"{host}{port}", group, port=port, host=host)
        for host, group in (("h1", "a"), ("h2", "a"), ("h3", "b"), ("h4", "b"))
        for port in (1, 2)
    ]
    placement = initial(MIRRORED, hosts, 16, 2)
    sets = {}
    for instance in placement.instances:
        sets.setdefault(instance.shard_set_id, []).append(instance)
    assert sorted(sets) == [1, 2, 3, 4]
    for one, other in sets.values():
        assert one.port == other.port
        assert one.isolation_group != other.isolation_group
        assert one.shards == other.shards
        assert len(one.shards) == 4


def test_ports_may_be_ignored_on_request():
    pair = [candidate("x", "a", port=1), candidate("y", "b", port=2)]
    with pytest.raises(PlacementError, match="could not find port 1 on host y"):
        initial(MIRRORED, pair, 4, 2)
    assert len(initial(replace_options(MIRRORED, skip_port_mirroring=True), pair, 4, 2).instances) == 2


def replace_options(options, **fields):
    return PlacementOptions(**{name: getattr(options, name) for name in options.__slots__} | fields)


def test_a_host_of_another_weight_is_left_out():
    candidates = [candidate("x", "a"), candidate("y", "b"), candidate("z", "c", weight=5)]
    assert [i.id for i in initial(MIRRORED, candidates, 4, 2).instances] == ["x", "y"]


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "no new instances found in the valid zone"),
        ([candidate("x", zone="mars")], "no new instances found in the valid zone"),
        ([candidate("x", "a"), candidate("y", "a")], "no valid instance for mirror placement in the candidate list"),
        (
            [candidate("x", "a"), candidate("y", "b", host="x")],
            "could not add instance y to host x, isolation group mismatch: b and a",
        ),
        (
            [candidate("x", weight=1), candidate("y", weight=2, host="x")],
            "could not add instance y to host x, weight mismatch: 2 and 1",
        ),
    ],
)
def test_candidates_that_cannot_be_mirrored_are_refused(candidates, message):
    with pytest.raises(PlacementError) as raised:
        initial(MIRRORED, candidates, 4, 2)
    assert str(raised.value) == message


def test_shard_sets_must_be_sets_of_equals():
    algorithm = choose(MIRRORED)
    one, two = replace(candidate("x", "a"), shard_set_id=1), replace(candidate("y", "b"), shard_set_id=1)
    for bad, message in (
        ([one], "found 1 count of shard set id 1, expecting 2"),
        ([one, replace(two, isolation_group="a")], "found duplicated isolation group a for shardset id 1"),
        ([one, replace(two, weight=9)], "found different weights: 1 and 9, for shardset id 1"),
        (
            [one, replace(two, shards=(Shard(3, ShardState.LEAVING, redirect_to=5),))],
            r"found different shards: \[Initializing=\[\], Available=\[\], Leaving=\[\]\] and "
            r"\[Initializing=\[\], Available=\[\], Leaving=\[3 -> 5\]\], for shardset id 1",
        ),
    ):
        with pytest.raises(PlacementError, match=message):
            algorithm.initial(bad, 4, 2)


def test_a_placement_without_shards_has_no_instances():
    placement = initial(MIRRORED, [candidate("x")], 0, 1)
    assert (placement.instances, placement.max_shard_set_id) == ((), 0)


def test_coordinators_have_no_shards():
    options = PlacementOptions(is_sharded=False)
    placement = initial(options, [candidate("c2", ""), candidate("c1", "", weight=0)], 0, 1)
    assert [i.id for i in placement.instances] == ["c1", "c2"]
    assert not placement.is_sharded
    with pytest.raises(PlacementError, match="could not apply shards in non-sharded placement"):
        initial(options, [candidate("c1")], 4, 1)


def test_shards_that_nobody_will_mark_are_available_at_once():
    placement = initial(PlacementOptions(stable_only=True), [candidate("x")], 3, 1)
    assert {s.state for s in placement.instances[0].shards} == {ShardState.AVAILABLE}


def test_weightless_instances_cannot_hold_shards():
    with pytest.raises(PlacementError, match="weight"):
        initial(PlacementOptions(), [candidate("x", weight=0)], 4, 1)


def test_an_instance_without_endpoint_is_invalid():
    with pytest.raises(InvalidPlacementError, match="valid endpoint"):
        initial(PlacementOptions(), [replace(candidate("x"), endpoint="")], 4, 1)


@given(
    replica_factor=st.integers(1, 3),
    groups=st.integers(0, 2),
    per_group=st.integers(1, 3),
    num_shards=st.integers(1, 48),
)
def test_equal_instances_get_equal_loads(replica_factor, groups, per_group, num_shards):
    candidates = [
        candidate(f"i{group}-{number}", f"g{group}")
        for group in range(replica_factor + groups)
        for number in range(per_group)
    ]
    # With fewer shards than instances some get none in the first round, and M3 forgets them.
    num_shards += len(candidates)
    placement = initial(PlacementOptions(), candidates, num_shards, replica_factor)
    loads = [len(i.shards) for i in placement.instances] + [0] * (len(candidates) - len(placement.instances))
    assert max(loads) - min(loads) <= 1 + (groups > 0)
    for shard in range(num_shards):
        owners = [i.isolation_group for i, _ in placement.owners(shard)]
        assert len(set(owners)) == len(owners) == replica_factor


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 60))
def test_shard_sets_get_shards_by_weight(weights, num_shards):
    candidates = [
        candidate(f"p{number}{group}", group, weight) for number, weight in enumerate(weights) for group in "ab"
    ]
    placement = initial(MIRRORED, candidates, num_shards, 2)
    for instance in placement.instances:
        fair = num_shards * instance.weight / sum(weights)
        assert fair - 1 <= len(instance.shards) <= fair + len(weights)
