"""Placements under change: whatever is done, they stay valid, and mirrored pairs stay pairs (docs/m3/cluster.md, algorithms)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from m3cluster.placement import CutoverTimes, Instance, PlacementError, PlacementOptions, ShardState, validate
from m3cluster.placement.algorithm import choose
from m3cluster.placement.select import lightest, select_adding, select_initial, select_replacing

SECOND = 10**9
MINUTE = 60 * SECOND
PLAIN = PlacementOptions()


def mirrored(now_ns: int) -> PlacementOptions:
    return PlacementOptions(is_mirrored=True, is_staged=True, times=CutoverTimes.aggregator(now_ns))


def candidate(name, group="a", weight=1):
    return Instance(name, group, "embedded", weight, f"{name}:1", hostname=name, port=1)


def pair(number, weight=1):
    return [candidate(f"p{number}{group}", group, weight) for group in "ab"]


def made(options, candidates, num_shards=12, replica_factor=2, seed=1):
    selected = select_initial(candidates, replica_factor, options)
    return choose(options, random.Random(seed)).initial(selected, num_shards, replica_factor)


def add(options, placement, candidates):
    return choose(options, random.Random(2)).add(placement, select_adding(candidates, placement, options))


def without_versions(placement):
    return replace(placement, cutover_time_ns=0, max_shard_set_id=0)


def two_pairs():
    """Two pairs of which the second one has just been added, and the placement before."""
    first = made(mirrored(0), pair(1))
    later = mirrored(10 * MINUTE + 1)
    settled = choose(later).mark_all_available(first)
    return settled, add(later, settled, pair(2))


def test_a_change_gets_the_next_whole_window_as_cutover_and_cutoff():
    _, placement = two_pairs()
    times = {(s.state, s.cutover_ns, s.cutoff_ns) for i in placement.instances for s in i.shards}
    assert (ShardState.LEAVING, 0, 11 * MINUTE) in times
    assert {s.cutover_ns for i in placement.instances for s in i.shards if s.state is ShardState.INITIALIZING} == {
        11 * MINUTE
    }
    sources = {i.id: {s.source_id for s in i.shards} for i in placement.instances if i.id.startswith("p2")}
    assert sources == {"p2a": {"p1a"}, "p2b": {"p1b"}}


def test_before_the_cutover_an_added_pair_can_be_taken_back():
    before, placement = two_pairs()
    restored = choose(mirrored(11 * MINUTE - 1)).remove(placement, ["p2a", "p2b"])
    assert without_versions(restored) == without_versions(before)
    assert restored.max_shard_set_id == 2


def test_after_the_cutover_the_source_is_needed_for_another_window():
    _, placement = two_pairs()
    with pytest.raises(PlacementError, match="could not return leaving shard 0 with cutoff time 1970-01-01 00:11:00"):
        choose(mirrored(12 * MINUTE - 1)).remove(placement, ["p2a", "p2b"])
    moved = choose(mirrored(12 * MINUTE)).remove(placement, ["p2a", "p2b"])
    validate(moved)
    assert {s.cutoff_ns for s in moved.instance("p2a").shards} == {12 * MINUTE}


def test_half_a_pair_is_neither_added_nor_removed():
    before, _ = two_pairs()
    later = mirrored(20 * MINUTE)
    with pytest.raises(PlacementError, match="no valid instance for mirror placement"):
        add(later, before, pair(3)[:1])
    with pytest.raises(PlacementError, match="found 1 count of shard set id 1, expecting 2"):
        choose(later).remove(before, ["p1a"])


def test_a_replacement_inherits_the_shard_set_and_can_be_reverted():
    before, _ = two_pairs()
    now = mirrored(20 * MINUTE + 1)
    selected = select_replacing([candidate("new", "c")], ["p1a"], before, now)
    assert [i.shard_set_id for i in selected] == [1]
    placement = choose(now).replace(before, ["p1a"], selected)
    validate(placement)
    assert {s.cutover_ns for s in placement.instance("new").shards} == {
        s.cutoff_ns for s in placement.instance("p1a").shards
    }
    back = select_replacing([candidate("p1a", "a")], ["new"], placement, now)
    assert without_versions(choose(now).replace(placement, ["new"], back)) == without_versions(before)


def test_a_replacement_in_the_group_of_its_partner_is_refused():
    before, _ = two_pairs()
    with pytest.raises(PlacementError, match="no valid instance for mirror placement"):
        select_replacing([candidate("new", "b")], ["p1a"], before, mirrored(20 * MINUTE))


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (10, [20]),
        (30, [40]),
        (60, [40, 20]),
        (120, [40, 80]),
        (190, [190]),
        (200, [20, 190]),
        (400, [40, 20, 80, 50, 190]),
    ],
)
def test_replacing_takes_the_least_weight_that_is_enough(weight, expected):
    candidates = [candidate(f"i{number}", weight=w) for number, w in enumerate((40, 20, 80, 50, 190))]
    assert [i.weight for i in lightest(candidates, weight)] == expected


@given(st.integers(0, 10**6), st.lists(st.sampled_from(["add", "remove", "replace", "balance"]), max_size=8))
def test_mirrored_placements_stay_mirrored(seed, operations):
    rng = random.Random(seed)
    placement, now_ns, following = made(mirrored(0), pair(1) + pair(2), num_shards=16, seed=seed), 0, 3
    for operation in operations:
        now_ns += 3 * MINUTE
        options = mirrored(now_ns)
        algorithm = choose(options, rng)
        placement = algorithm.mark_all_available(placement)
        sets = sorted({i.shard_set_id for i in placement.instances})
        if operation == "add":
            placement = algorithm.add(placement, select_adding(pair(following, rng.randint(1, 3)), placement, options))
        elif operation == "remove" and len(sets) > 1:
            chosen = rng.choice(sets)
            placement = algorithm.remove(placement, [i.id for i in placement.instances if i.shard_set_id == chosen])
        elif operation == "replace":
            old = rng.choice(placement.instances)
            new = candidate(f"r{following}", old.isolation_group, old.weight)
            selected = select_replacing([new], [old.id], placement, options)
            placement = algorithm.replace(placement, [old.id], selected)
        else:
            placement = algorithm.balance(placement)
        following += 1
        validate(placement)
        for number in {i.shard_set_id for i in placement.instances}:
            live = [
                [s.id for s in i.shards if s.state is not ShardState.LEAVING]
                for i in placement.instances
                if i.shard_set_id == number
            ]
            staying = [shards for shards in live if shards]
            assert len(staying) in (0, 2)
            assert all(shards == staying[0] for shards in staying)


@given(st.integers(0, 10**6), st.lists(st.sampled_from(["add", "remove", "replace", "balance"]), max_size=8))
def test_sharded_placements_keep_every_replica_in_a_group_of_its_own(seed, operations):
    rng = random.Random(seed)
    candidates = [candidate(f"i{number}", "abcd"[number % 4]) for number in range(8)]
    placement, following = made(PLAIN, candidates, num_shards=24, seed=seed), 8
    algorithm = choose(PLAIN, rng)
    for operation in operations:
        placement = algorithm.mark_all_available(placement)
        following += 1
        groups = [i.isolation_group for i in placement.instances]
        old = rng.choice([i for i in placement.instances if groups.count(i.isolation_group) > 1])
        if operation == "add":
            new = candidate(f"i{following}", rng.choice("abcd"))
            placement = algorithm.add(placement, select_adding([new], placement, PLAIN))
        elif operation == "remove" and len(placement.instances) > 6:
            placement = algorithm.remove(placement, [old.id])
        elif operation == "replace":
            new = candidate(f"i{following}", old.isolation_group)
            placement = algorithm.replace(placement, [old.id], select_replacing([new], [old.id], placement, PLAIN))
        else:
            placement = algorithm.balance(placement)
        validate(placement)
        for shard in range(placement.num_shards):
            groups = [i.isolation_group for i, s in placement.owners(shard) if s.state is not ShardState.LEAVING]
            assert len(set(groups)) == len(groups) == 2
