"""Levels, one row of a write as its copies answer, and reads of all shards."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.m3db.test_topology import MOVING, instance, placement, placements, shards

from m3cluster.placement import Placement, ShardState
from m3db.consistency import (
    PENDING,
    ConnectLevel,
    CopyRules,
    ReadLevel,
    ReadTally,
    RowState,
    WriteLevel,
    connected_enough,
    copies_of,
    judge,
    majority,
    read_achieved,
    write_achieved,
)
from m3db.topology import Host, Topology

WRITTEN, RETRY, REFUSED = RowState
THREE = Topology.static([Host(name, f"{name}:1") for name in "abc"], 1, 3)
OK, ERROR, BAD, HANGS = "ok", "error", "bad", "hangs"


def verdict(topology: Topology, rules: CopyRules, *answers: str, shard: int = 0) -> int:
    """The state of a row whose copies answer so, by slot."""
    copies = copies_of(topology, rules)
    masks = {kind: sum(1 << slot for slot, answer in enumerate(answers) if answer == kind) for kind in (OK, ERROR, BAD)}
    return judge(
        int(copies.counted[shard]), copies.partners[shard].tolist(), int(copies.needed[shard]),
        masks[OK], masks[ERROR] | masks[BAD], masks[BAD],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ((HANGS, HANGS, HANGS), PENDING),
        ((OK, HANGS, HANGS), PENDING),
        ((OK, OK, HANGS), WRITTEN),
        ((OK, OK, BAD), WRITTEN),
        ((ERROR, OK, HANGS), PENDING),
        ((BAD, OK, HANGS), PENDING),
        ((ERROR, ERROR, HANGS), RETRY),
        ((BAD, ERROR, HANGS), RETRY),
        ((BAD, ERROR, ERROR), RETRY),
        ((BAD, ERROR, OK), RETRY),
        ((BAD, BAD, HANGS), REFUSED),
        ((BAD, BAD, OK), REFUSED),
        ((BAD, BAD, ERROR), REFUSED),
    ],
)
def test_majority_of_three(answers: tuple[str, ...], state: int) -> None:
    assert verdict(THREE, CopyRules(), *answers) == state


@pytest.mark.parametrize(
    ("level", "answers", "state"),
    [
        (WriteLevel.ONE, (ERROR, BAD, OK), WRITTEN),
        (WriteLevel.ONE, (ERROR, BAD, HANGS), PENDING),
        (WriteLevel.ONE, (ERROR, BAD, BAD), RETRY),
        (WriteLevel.ONE, (BAD, BAD, BAD), REFUSED),
        (WriteLevel.ALL, (OK, OK, OK), WRITTEN),
        (WriteLevel.ALL, (OK, OK, HANGS), PENDING),
        (WriteLevel.ALL, (OK, ERROR, HANGS), RETRY),
        (WriteLevel.ALL, (OK, BAD, HANGS), REFUSED),
        (WriteLevel.NONE, (HANGS, HANGS, HANGS), WRITTEN),
    ],
)
def test_other_levels(level: WriteLevel, answers: tuple[str, ...], state: int) -> None:
    assert verdict(THREE, CopyRules(level), *answers) == state


@pytest.mark.parametrize(
    ("rules", "answers", "state"),
    [
        # slots: LEAVING, AVAILABLE, AVAILABLE, INITIALIZING
        (CopyRules(), (ERROR, OK, OK, ERROR), WRITTEN),
        (CopyRules(), (OK, OK, HANGS, OK), PENDING),
        (CopyRules(), (OK, OK, ERROR, OK), RETRY),
        (CopyRules(), (OK, OK, BAD, OK), REFUSED),
        (CopyRules(), (BAD, OK, HANGS, BAD), PENDING),
        (CopyRules(leaving_counts=True), (OK, OK, ERROR, ERROR), WRITTEN),
        (CopyRules(leaving_counts=True), (BAD, OK, BAD, OK), REFUSED),
        (CopyRules(pair_counts=True), (OK, OK, ERROR, OK), WRITTEN),
        (CopyRules(pair_counts=True), (OK, OK, ERROR, HANGS), PENDING),
        (CopyRules(pair_counts=True), (OK, OK, ERROR, ERROR), RETRY),  # half a pair is no copy
        (CopyRules(pair_counts=True), (OK, ERROR, ERROR, OK), RETRY),  # a pair is one copy, not two
        (CopyRules(pair_counts=True), (BAD, OK, BAD, OK), REFUSED),
        (CopyRules(pair_counts=True, write_initializing=False), (OK, OK, ERROR, HANGS), RETRY),
        (CopyRules(WriteLevel.ALL), (OK, OK, OK, OK), WRITTEN),
        (CopyRules(WriteLevel.ALL, write_initializing=False), (OK, OK, OK, HANGS), WRITTEN),
        (CopyRules(WriteLevel.ALL), (ERROR, OK, OK, OK), RETRY),
    ],
)
def test_while_a_host_is_replaced(rules: CopyRules, answers: tuple[str, ...], state: int) -> None:
    assert verdict(Topology.of_placement(MOVING), rules, *answers) == state


def test_where_the_level_is_out_of_reach_only_bad_requests_of_all_that_count_refuse() -> None:
    one_of_two = placement(
        2, 1, instance("a", *shards(0)), instance("b", *shards(0, state=ShardState.INITIALIZING))
    )  # fmt: skip
    topology = Topology.of_placement(one_of_two)
    assert verdict(topology, CopyRules(), HANGS, HANGS) == RETRY
    assert verdict(topology, CopyRules(), OK, OK) == RETRY
    assert verdict(topology, CopyRules(), HANGS, BAD) == RETRY
    assert verdict(topology, CopyRules(), BAD, OK) == REFUSED


def test_initializing_copies_are_written_to_unless_told_otherwise() -> None:
    topology = Topology.of_placement(MOVING)
    assert copies_of(topology, CopyRules()).targets.tolist() == [0b1111, 0b1111]
    assert copies_of(topology, CopyRules(write_initializing=False)).targets.tolist() == [0b0111, 0b0111]


all_rules = st.builds(
    CopyRules, st.sampled_from(WriteLevel), st.booleans(), leaving_counts=st.booleans(), pair_counts=st.just(False)
) | st.builds(CopyRules, st.sampled_from(WriteLevel), st.booleans(), pair_counts=st.booleans())


@given(placements(), all_rules, st.data())
def test_a_verdict_is_final(one: Placement, rules: CopyRules, data: st.DataObject) -> None:
    """Further answers never turn WRITTEN into anything else, nor a failure into success; with all answers nothing is pending."""
    topology = Topology.of_placement(one)
    width = int(topology.copies[0])
    order = data.draw(st.permutations(range(width)))
    final = data.draw(st.lists(st.sampled_from([OK, ERROR, BAD]), min_size=width, max_size=width))
    answers = [HANGS] * width
    seen = [verdict(topology, rules, *answers)]
    for slot in order:
        answers[slot] = final[slot]
        seen.append(verdict(topology, rules, *answers))
    for before, after in itertools.pairwise(seen):
        if before == WRITTEN:
            assert after == WRITTEN
        elif before != PENDING:
            assert after in (RETRY, REFUSED)
            assert before == RETRY or after == REFUSED
    assert seen[-1] != PENDING


@given(st.integers(1, 9), st.sampled_from(WriteLevel), st.data())
def test_without_moves_a_row_is_written_exactly_when_m3_says_so(
    replicas: int, level: WriteLevel, data: st.DataObject
) -> None:
    topology = Topology.static([Host(str(number), f"{number}:1") for number in range(replicas)], 1, replicas)
    answers = data.draw(st.lists(st.sampled_from([OK, ERROR, BAD]), min_size=replicas, max_size=replicas))
    written = verdict(topology, CopyRules(level), *answers) == WRITTEN
    assert written == write_achieved(level, replicas, replicas, answers.count(OK))


@pytest.mark.parametrize(
    ("level", "connected", "enough"),
    [
        (ConnectLevel.NONE, (), True),
        (ConnectLevel.ONE, (), False),
        (ConnectLevel.ONE, (1,), True),
        (ConnectLevel.MAJORITY, (1,), False),
        (ConnectLevel.MAJORITY, (1, 3), True),
        (ConnectLevel.ALL, (1, 2, 3), False),
        (ConnectLevel.ALL, (0, 1, 2, 3), True),
        (ConnectLevel.ANY, (1, 2, 3), False),
    ],
)
def test_connected_enough(level: ConnectLevel, connected: tuple[int, ...], enough: bool) -> None:
    there = np.isin(np.arange(4), connected)
    assert connected_enough(level, Topology.of_placement(MOVING), there) is enough


@given(placements(), st.sampled_from(ReadLevel), st.data())
def test_reads(one: Placement, level: ReadLevel, data: st.DataObject) -> None:
    """Against the counting of one shard after the other; what is decided early is decided as it would be in the end."""
    topology = Topology.of_placement(one)
    tally = ReadTally(level, topology)
    answers: dict[int, bool] = {}
    for host in data.draw(st.permutations(range(len(topology.hosts)))):
        answers[host] = data.draw(st.booleans())
        tally.answered(host, answers[host])
        open_shards, short = [], []
        for shard in range(topology.num_shards):
            owners = [int(owner) for owner in topology.owners[shard] if owner >= 0]
            states = dict(zip(owners, topology.states[shard].tolist(), strict=False))
            successes = sum(answers.get(owner, False) and states[owner] == ShardState.AVAILABLE for owner in owners)
            wanted = {ReadLevel.NONE: 1, ReadLevel.ONE: 1, ReadLevel.ALL: 99, ReadLevel.UNSTRICT_ALL: 99}
            if successes < wanted.get(level, majority(topology.replicas)) and any(o not in answers for o in owners):
                open_shards.append(shard)
            if not read_achieved(level, topology.replicas, len(owners), successes):
                short.append(shard)
        assert tally.decided == (not open_shards)
        assert tally.short().tolist() == short
    assert tally.decided
