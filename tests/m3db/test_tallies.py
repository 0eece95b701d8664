"""Rows of a write in compiled code: decided as ``judge`` decides one by one, and sent where the topology says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.m3db.test_consistency import all_rules
from tests.m3db.test_topology import MOVING, placements

from m3cluster.placement import Placement
from m3db.consistency import PENDING, CopyRules, RowState, WriteLevel, copies_of, judge
from m3db.tallies import BAD, ERROR, SUCCESS, Part, Routing, WriteTally
from m3db.topology import Host, Topology


@given(placements(), all_rules, st.integers(0, 40), st.randoms(use_true_random=False))
def test_tallies_decide_as_judge_does(one: Placement, rules: CopyRules, count: int, chance: object) -> None:
    topology = Topology.of_placement(one)
    generator = np.random.default_rng(chance.getrandbits(32))  # type: ignore[attr-defined]
    shards = generator.integers(0, topology.num_shards, count).astype(np.uint32)
    tally, copies = WriteTally(Routing(topology, rules), shards), copies_of(topology, rules)
    masks = np.zeros((count, 3), np.int64)
    states = np.full(count, PENDING)

    def expect() -> None:
        for row, shard in enumerate(shards):
            if states[row] == PENDING:
                succeeded, failed, bad = (int(mask) for mask in masks[row])
                states[row] = judge(
                    int(copies.counted[shard]), copies.partners[shard].tolist(), int(copies.needed[shard]),
                    succeeded, failed, bad,
                )  # fmt: skip
        assert tally.states.tolist() == states.tolist()
        assert tally.undecided == (states == PENDING).sum()

    expect()
    for host in generator.permutation(len(topology.hosts)).tolist():
        slots = topology.slots[host, shards]
        targeted = (slots >= 0) & ((copies.targets[shards] >> np.maximum(slots, 0).astype(np.uint32)) & 1 == 1)
        rows = np.flatnonzero(targeted)
        for some in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            outcomes = generator.integers(0, 3, len(some)).astype(np.uint8)
            tally.answered(host, some, outcomes)
            for row, outcome in zip(some.tolist(), outcomes.tolist(), strict=True):
                bit = 1 << int(slots[row])
                masks[row] |= {SUCCESS: (bit, 0, 0), ERROR: (0, bit, 0), BAD: (0, bit, bit)}[outcome]
            expect()
    assert tally.copies_refused().tolist() == [int(mask[2]).bit_count() for mask in masks]
    assert tally.copies_failed().tolist() == [int(mask[1] & ~mask[2]).bit_count() for mask in masks]
    assert not tally.undecided


def rows_of(part: Part, count: int) -> list[int]:
    return list(range(count)) if part.rows is None else part.rows.tolist()


@given(placements(), all_rules, st.integers(0, 300), st.randoms(use_true_random=False))
def test_parts_bring_each_row_once_to_each_of_its_hosts(
    one: Placement, rules: CopyRules, count: int, chance: object
) -> None:
    topology = Topology.of_placement(one)
    generator = np.random.default_rng(chance.getrandbits(32))  # type: ignore[attr-defined]
    shards = generator.integers(0, topology.num_shards, count).astype(np.uint32)
    routing = Routing(topology, rules)
    for parts in (routing.parts(shards), routing._by_set(shards), routing._by_host(shards)):
        sent = [(host, row) for part in parts for host in part.hosts for row in rows_of(part, count)]
        assert len(sent) == len(set(sent))
        expected = set()
        for row, shard in enumerate(shards.tolist()):
            for slot, owner in enumerate(topology.owners[shard].tolist()):
                if owner >= 0 and int(routing.copies.targets[shard]) >> slot & 1:
                    expected.add((owner, row))
        assert set(sent) == expected
        for part in parts:
            found = rows_of(part, count)
            assert found
            assert found == sorted(found)


def all_rows(parts: list[Part], count: int) -> list[tuple[tuple[int, ...], list[int]]]:
    return [(part.hosts, rows_of(part, count)) for part in parts]


def test_hosts_that_have_the_same_shards_share_a_part() -> None:
    routing = Routing(Topology.static([Host(name, f"{name}:1") for name in "abc"], 64, 3), CopyRules())
    (part,) = routing.parts(np.array([9, 3, 1], np.uint32))
    assert (part.hosts, part.rows) == ((0, 1, 2), None)


def test_few_rows_for_many_sets_of_hosts_go_host_by_host() -> None:
    routing = Routing(Topology.static([Host(str(n), f"{n}:1") for n in range(6)], 64, 1), CopyRules())
    assert all_rows(routing.parts(np.array([0, 1, 6], np.uint32)), 3) == [((0,), [0, 2]), ((1,), [1])]
    assert len(routing.parts(np.arange(6000, dtype=np.uint32) % 64)) == 6


def test_initializing_copies_are_left_out_if_they_are_not_written_to() -> None:
    routing = Routing(Topology.of_placement(MOVING), CopyRules(write_initializing=False))
    assert [part.hosts for part in routing.parts(np.zeros(1, np.uint32))] == [(0, 1, 2)]


def test_level_none_is_decided_at_once() -> None:
    routing = Routing(Topology.of_placement(MOVING), CopyRules(WriteLevel.NONE))
    tally = WriteTally(routing, np.zeros(4, np.uint32))
    assert tally.states.tolist() == [RowState.WRITTEN] * 4
    assert tally.undecided == 0
