"""Roles and campaigns under every order of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.supervisor.election.machine import (
    CampaignEnded,
    CampaignState,
    Checked,
    Elected,
    ElectionMachine,
    ElectionState,
    LeaderSeen,
    LeaseLost,
    Resign,
    ResignAsked,
    StartCampaign,
    Tick,
    VerifyLeader,
    campaign_wanted,
)
from aggregator.supervisor.placement import has_replacement, view
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes
from m3cluster.placement.model import NEVER_NS, Instance, Placement, Shard, ShardState

S = 1_000_000_000


def leader() -> ElectionMachine:
    machine = ElectionMachine()
    assert machine.handle(Checked(True), 0) == [StartCampaign()]
    assert machine.handle(Elected(), 0) == []
    assert machine.state is ElectionState.LEADER
    return machine


def test_states_have_m3s_names_and_numbers() -> None:
    assert [(int(s), s.text) for s in ElectionState] == [(1, "follower"), (2, "pendingFollower"), (3, "leader")]


def test_no_campaign_before_it_is_wanted() -> None:
    machine = ElectionMachine()
    assert machine.handle(Checked(False), 0) == []
    assert machine.handle(Tick(), 0) == []
    assert machine.handle(Checked(True), 0) == [StartCampaign()]
    assert machine.handle(Checked(True), 0) == []


def test_resigning_waits_for_another_leader_and_campaigns_again_after_a_second() -> None:
    machine = leader()
    assert machine.handle(ResignAsked(), 10 * S) == [Resign()]
    assert machine.state is ElectionState.PENDING_FOLLOWER
    assert machine.handle(CampaignEnded(), 10 * S) == [VerifyLeader()]
    assert machine.handle(Tick(), 10 * S + 1) == [VerifyLeader()]
    assert machine.handle(LeaderSeen("stranger", valid=False), 10 * S + 2) == []
    assert machine.state is ElectionState.PENDING_FOLLOWER
    assert machine.handle(Tick(), 11 * S) == [StartCampaign(), VerifyLeader()]
    machine.handle(LeaderSeen("b", valid=True), 11 * S)
    assert machine.state is ElectionState.FOLLOWER


def test_resigning_without_another_candidate_leads_again() -> None:
    machine = leader()
    machine.handle(ResignAsked(), 0)
    machine.handle(CampaignEnded(), 0)
    machine.handle(Tick(), S)
    machine.handle(Elected(), S)
    assert machine.state is ElectionState.LEADER


def test_a_follower_that_resigns_has_nothing_to_do() -> None:
    machine = ElectionMachine()
    machine.handle(Checked(True), 0)
    assert machine.handle(ResignAsked(), 0) == []
    assert machine.state is ElectionState.FOLLOWER


def test_a_lost_lease_ends_the_term_at_once() -> None:
    machine = leader()
    assert machine.handle(LeaseLost(), 5 * S) == []
    assert machine.state is ElectionState.FOLLOWER
    assert machine.handle(Tick(), 6 * S - 1) == []
    assert machine.handle(Tick(), 6 * S) == [StartCampaign()]


def test_a_campaign_that_is_no_longer_wanted_is_ended() -> None:
    machine = leader()
    assert machine.handle(Checked(False), 0) == [Resign()]
    assert machine.campaign is CampaignState.PENDING_DISABLED
    assert not machine.is_leader
    assert machine.handle(CampaignEnded(), 0) == []
    assert (machine.campaign, machine.state) == (CampaignState.DISABLED, ElectionState.FOLLOWER)
    assert machine.handle(Tick(), 60 * S) == []


def test_being_elected_after_all_while_resigning_is_undone() -> None:
    machine = ElectionMachine()
    machine.handle(Checked(True), 0)
    machine.handle(Checked(False), 0)
    assert machine.handle(Elected(), 0) == [Resign()]
    assert machine.state is ElectionState.FOLLOWER


def test_what_cannot_be_told_changes_nothing() -> None:
    machine = leader()
    assert machine.handle(Checked(None), 0) == []
    assert machine.is_leader


EVENTS = st.sampled_from(
    [Checked(True), Checked(False), Checked(None), ResignAsked(), Tick(), LeaderSeen("b", True), LeaderSeen(None, False)]
)  # fmt: skip


@given(st.lists(st.tuples(EVENTS, st.integers(0, 2 * S), st.sampled_from(["win", "lose", "wait"])), max_size=80))
def test_leader_only_within_a_confirmed_term_and_one_campaign_at_a_time(steps) -> None:
    """The world: one campaign at most; a resignation ends it; ``win`` elects, ``lose`` takes the lease."""
    machine, now, campaigning, term = ElectionMachine(), 0, False, False
    for event, pause, world in steps:
        now += pause
        queue = [event]
        if campaigning and world == "win" and not term:
            term = True
            queue.append(Elected())
        elif term and world == "lose":
            campaigning = term = False
            queue.append(LeaseLost())
        while queue:
            for action in machine.handle(queue.pop(0), now):
                if isinstance(action, StartCampaign):
                    assert not campaigning
                    campaigning = True
                elif isinstance(action, Resign) and campaigning:
                    campaigning = term = False
                    queue.append(CampaignEnded())
        assert not machine.is_leader or term


def instance(name: str, *shards: Shard, shard_set: int = 1) -> Instance:
    return Instance(id=name, shards=shards, shard_set_id=shard_set)


def shard(number: int, cutover: int = 0, cutoff: int = NEVER_NS, state: ShardState = ShardState.AVAILABLE) -> Shard:
    return Shard(number, state, cutover_ns=cutover, cutoff_ns=cutoff)


def wanted(now_s: int, *shards: Shard, times: ShardSetFlushTimes | None = None, other: Instance | None = None):
    instances = (instance("a", *shards), *((other,) if other is not None else ()))
    return campaign_wanted(view(Placement(instances), "a"), now_s * S, 5 * S, times)


def test_campaigns_as_in_m3() -> None:
    one, two = shard(0, 1000 * S, 6000 * S), shard(1, 4000 * S, 10000 * S)
    assert wanted(1234, one, two) is True
    assert wanted(123, one, two) is False
    flushed = ShardSetFlushTimes({s: ShardFlushTimes(standard={10: 10000 * S}) for s in (0, 1)})
    both_off = (shard(0, 1000 * S, 6000 * S), shard(1, 2000 * S, 7000 * S))
    assert wanted(8000, *both_off, times=flushed) is False
    assert wanted(8000, *both_off) is True
    assert wanted(5997, shard(0, 1000 * S, 6000 * S), shard(1, 9000 * S, 10000 * S)) is None
    assert wanted(0) is True
    assert campaign_wanted(view(Placement(), "a"), 0, 0, None) is False


def test_a_replaced_instance_does_not_campaign() -> None:
    leaving = shard(0, 1000 * S, 6000 * S, ShardState.LEAVING)
    taker = instance("b", shard(0, 6000 * S, state=ShardState.INITIALIZING))
    assert wanted(8000, leaving, other=taker) is False
    assert wanted(8000, leaving, other=instance("b", shard(0, 6001 * S, state=ShardState.INITIALIZING))) is True


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (ShardState.AVAILABLE, ShardState.INITIALIZING, False),
        (ShardState.LEAVING, ShardState.AVAILABLE, False),
        (ShardState.LEAVING, ShardState.INITIALIZING, True),
    ],
)
def test_replacement_instances(own: ShardState, other: ShardState, expected: bool) -> None:
    placement = Placement((instance("a", shard(3, 0, 50, own)), instance("b", shard(3, 50, state=other))))
    assert has_replacement(view(placement, "a")) is expected
