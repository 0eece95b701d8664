"""Who should lead, and flush, by what each holds: a table of facts, and what time changes."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.supervisor.election import candidacy as module
from aggregator.supervisor.election.candidacy import Candidacy, Decision, Facts
from aggregator.supervisor.flushing.flush_times import lacks_more
from aggregator.supervisor.flushing.holding import Gap, Holding
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes

S = 1_000_000_000
NOW = 1_767_355_200 * S
PATIENCE = 30 * S


def flushed_through(time_ns: int) -> ShardSetFlushTimes:
    return ShardSetFlushTimes({0: ShardFlushTimes({10 * S: time_ns})})


FLUSHED = flushed_through(NOW - 20 * S)
"""Windows of ten seconds, flushed up to twenty seconds ago."""
EARLY, LATE, LATER = Holding(NOW - 3600 * S), Holding(NOW - 15 * S), Holding(NOW - 5 * S)
"""Since when an instance holds everything that is not flushed, lacks a part of it, or lacks more of it."""
EARLIER, SOON = Holding(EARLY.since_ns - S), Holding(EARLY.since_ns + S)
COLD = Facts(
    steady_ns=100 * S, wall_ns=NOW, eligible=True, leads=False, times=FLUSHED, holding=LATE, since={}, settled=True,
    candidates=frozenset(), peers=frozenset({"b"}),
)  # fmt: skip
CANDIDATE = {"candidates": frozenset({"b"})}


def candidacy() -> Candidacy:
    return Candidacy(past_ns=5 * S, unfed_ns=300 * S, patience_ns=PATIENCE)


def decided(**facts: Any) -> Decision:
    return candidacy().look(replace(COLD, **facts))


@pytest.mark.parametrize("leads", [False, True])
@pytest.mark.parametrize("since", [{}, {"b": EARLY}])
def test_who_holds_everything_is_a_candidate_whatever_the_others_hold(leads: bool, since: dict[str, Holding]) -> None:
    wanted = decided(holding=Holding(EARLY.since_ns + 1), leads=leads, since=since, **CANDIDATE)
    assert wanted == Decision(True, gives_way=False, flushes=True)


@pytest.mark.parametrize("eligible", [False, None])
def test_who_is_not_to_lead_gives_way_to_nobody(eligible: bool | None) -> None:
    assert decided(eligible=eligible, since={"b": EARLY}, **CANDIDATE).wanted is eligible
    assert not decided(eligible=eligible, since={"b": EARLY}, **CANDIDATE).gives_way


@pytest.mark.parametrize(
    ("facts", "follower", "leader"),
    [
        ("alone", False, False),
        ("b says nothing", False, False),
        ("b says nothing and is a candidate", True, True),
        ("b may not have said it yet", True, False),
        ("b may not have said it yet and is a candidate", True, False),
        ("b holds more", True, False),
        ("b holds more and is a candidate", True, True),
        ("b holds no more and is a candidate", False, False),
    ],
)
def test_who_lacks_windows_gives_way(facts: str, follower: bool, leader: bool) -> None:
    words: dict[str, Any] = {
        "settled": "yet" not in facts,
        "since": {"b": EARLY} if "holds more" in facts else {"b": LATER} if "no more" in facts else {},
        **(CANDIDATE if "candidate" in facts else {}),
        **({"peers": frozenset()} if facts == "alone" else {}),
    }
    assert decided(**words).gives_way is follower
    assert decided(leads=True, **words).gives_way is leader


@pytest.mark.parametrize(
    ("words", "flushes"),
    [
        ({}, True),
        ({"since": {"b": LATER}, **CANDIDATE}, True),
        (CANDIDATE, False),
        ({"since": {"b": EARLY}, **CANDIDATE}, False),
        ({"since": {"b": EARLY}}, False),
        ({"settled": False}, False),
        ({"settled": False, **CANDIDATE}, False),
    ],
)
def test_a_leader_that_lacks_windows_flushes_only_where_nobody_holds_more(words: Any, flushes: bool) -> None:
    assert decided(leads=True, **words).flushes is flushes


@pytest.mark.parametrize(
    ("facts", "waits"),
    [
        ({}, True),
        ({"peers": frozenset()}, False),
        ({"leads": True}, False),
        ({"holding": EARLY}, False),
        ({"delivered": FLUSHED}, False),
        ({"delivered": flushed_through(NOW - 12 * S)}, False),
        ({"since": {"b": LATER}, **CANDIDATE}, False),
        ({"times": flushed_through(NOW - 10 * S)}, False),
    ],
)
def test_who_lacks_what_somebody_has_delivered_waits_for_that_one(facts: dict[str, Any], waits: bool) -> None:
    """Flush times wait for what was forwarded of these windows: whoever delivered them is to forward it again."""
    one, now = candidacy(), replace(COLD, **{"delivered": flushed_through(NOW - 10 * S), **facts})
    decision = one.look(now)
    assert decision.gives_way is waits
    assert (decision.again_ns == now.steady_ns + PATIENCE) is waits
    assert not one.look(replace(now, steady_ns=now.steady_ns + PATIENCE)).gives_way


def test_nobody_is_expected_for_ever() -> None:
    one, facts = candidacy(), replace(COLD, since={"b": EARLY}, peers=frozenset({"b", "c"}))
    first = one.look(facts)
    assert (first.gives_way, first.again_ns) == (True, facts.steady_ns + PATIENCE)
    last = replace(facts, steady_ns=facts.steady_ns + PATIENCE)
    assert one.look(replace(last, steady_ns=last.steady_ns - 1)) == first
    assert one.look(last) == Decision(True, gives_way=False, flushes=True)
    # Somebody else who holds more is news; the same one again is not.
    news = one.look(replace(last, since={"b": EARLY, "c": EARLY}))
    assert (news.gives_way, news.again_ns) == (True, last.steady_ns + PATIENCE)
    assert not one.look(replace(last, steady_ns=last.steady_ns + PATIENCE, since={"c": EARLY})).gives_way


def test_when_the_kv_is_back_it_is_waited_anew_for_who_was_there_before() -> None:
    """While it was away nobody could become a candidate, and afterwards that takes whoever holds more some time as well."""
    one, facts = candidacy(), replace(COLD, since={"b": EARLY})
    assert one.look(facts).gives_way
    over = replace(facts, steady_ns=facts.steady_ns + PATIENCE)
    assert one.look(over).flushes, "long enough, though the KV was away meanwhile"
    back = replace(over, steady_ns=over.steady_ns + 2 * S, returned_ns=over.steady_ns + S)
    first = one.look(back)
    assert (first.gives_way, first.flushes, first.again_ns) == (True, False, back.steady_ns + PATIENCE)
    assert not one.look(replace(back, steady_ns=back.steady_ns + S, leads=True)).flushes
    # But no longer than before.
    last = replace(back, steady_ns=back.steady_ns + PATIENCE)
    assert one.look(replace(last, steady_ns=last.steady_ns - 1)) == first
    assert one.look(last) == Decision(True, gives_way=False, flushes=True)


@pytest.mark.parametrize("leads", [False, True])
def test_a_candidate_that_ceases_to_be_one_is_expected_from_then_on(leads: bool) -> None:
    """A leader that holds more resigns, however long it has led: it will be a candidate again in a moment."""
    one, facts = candidacy(), replace(COLD, since={"b": EARLY})
    assert one.look(replace(facts, **CANDIDATE)).gives_way
    later = replace(facts, steady_ns=facts.steady_ns + 2 * PATIENCE, leads=leads)
    assert one.look(replace(later, steady_ns=later.steady_ns - 1, **CANDIDATE)).gives_way
    decision = one.look(later)
    assert (decision.flushes, decision.again_ns) == (False, later.steady_ns + PATIENCE)
    assert decision.gives_way is not leads


def test_who_came_to_hold_everything_expects_anew_when_that_is_over() -> None:
    one, facts = candidacy(), replace(COLD, since={"b": EARLY})
    assert one.look(facts).gives_way
    later = facts.steady_ns + PATIENCE
    assert not one.look(replace(facts, steady_ns=later)).gives_way
    assert not one.look(replace(facts, steady_ns=later, holding=EARLY)).gives_way
    assert one.look(replace(facts, steady_ns=later)).again_ns == later + PATIENCE


def test_a_list_that_nobody_feeds_keeps_nobody_but_the_leader_cold() -> None:
    quiet = ShardSetFlushTimes({0: ShardFlushTimes({10 * S: NOW - 20 * S, 60 * S: NOW - 86400 * S})})
    facts = replace(COLD, times=quiet, holding=Holding(NOW - 60 * S))
    assert candidacy().holds(facts)
    assert not candidacy().holds(replace(facts, leads=True))
    assert not candidacy().holds(replace(facts, since={"b": EARLY})), "it may hold what its consumers did not take"


def test_long_windows_do_not_decide_who_leads_but_whether_it_could_without_gaps() -> None:
    times = ShardSetFlushTimes({0: ShardFlushTimes({10 * S: NOW - 10 * S, 3600 * S: NOW - 1800 * S})})
    facts = replace(COLD, times=times, holding=Holding(NOW - 60 * S), since={"b": EARLY}, **CANDIDATE)
    assert candidacy().look(facts) == Decision(True, gives_way=False, flushes=True)
    assert not candidacy().holds(facts)


def test_flush_times_are_compared_once_with_what_each_of_the_others_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Holding] = []

    def counted(
        times: ShardSetFlushTimes | None, own: Holding, other: Holding, *, longest_ns: int | None = None
    ) -> bool:
        compared.append(other)
        return lacks_more(times, own, other, longest_ns=longest_ns)

    monkeypatch.setattr(module, "lacks_more", counted)
    one = candidacy()
    facts = replace(COLD, since={"b": EARLY, "c": EARLIER}, peers=frozenset("bc"))
    for _ in range(3):
        assert one.look(facts).gives_way
        assert one.look(replace(facts, candidates=frozenset("b"))).gives_way
    assert sorted(compared, key=lambda one: one.since_ns) == [EARLIER, EARLY]
    # Another answer may follow from any of the three things that were asked.
    one.look(replace(facts, since={"b": SOON, "c": EARLIER}))
    assert compared[2:] == [SOON]
    one.look(replace(facts, holding=LATER))
    assert len(compared) == 5
    one.look(replace(facts, times=ShardSetFlushTimes(dict(FLUSHED.by_shard))))
    assert len(compared) == 7


GAPS = [Gap(NOW - 25 * S, NOW - 12 * S), Gap(NOW - 12 * S, NOW - 8 * S, lost=True), Gap(NOW - 9 * S, NOW - 1 * S)]
HOLDINGS = st.builds(
    lambda held, gap: held if gap is None else held.with_gap(gap),
    st.sampled_from([EARLY, LATE, LATER]),
    st.sampled_from([None, *GAPS]),
)


def test_of_two_that_were_restarted_one_after_the_other_each_leads_for_what_only_it_holds() -> None:
    """Windows end 20, 10 and 0 seconds ago; the first restart is in the way of the second window, the other one of the third."""
    first, other = EARLY.with_gap(Gap(NOW - 22 * S, NOW - 19 * S)), EARLY.with_gap(Gap(NOW - 12 * S, NOW - 9 * S))
    others: dict[str, Any] = {"peers": frozenset({"b"}), "times": flushed_through(NOW - 30 * S), **CANDIDATE}
    assert decided(holding=first, since={"b": other}, leads=True, **others).gives_way
    assert not decided(holding=other, since={"b": first}, leads=True, **others).gives_way
    # Then the windows of the first one's gap are flushed: it lacks nothing, and the other one gives way at once.
    later: dict[str, Any] = {**others, "times": flushed_through(NOW - 10 * S)}
    assert decided(holding=first, since={"b": other}, **later) == Decision(True, gives_way=False, flushes=True)
    gone = decided(holding=other, since={"b": first}, leads=True, **later)
    assert (gone.gives_way, gone.flushes) == (True, False)


@given(st.data())
def test_asking_changes_nothing(data: st.DataObject) -> None:
    """However often it is asked in between, the answer is that of who was asked once at each change."""
    seldom, often = candidacy(), candidacy()
    facts = COLD
    for _ in range(data.draw(st.integers(1, 12))):
        facts = replace(
            facts,
            steady_ns=facts.steady_ns + data.draw(st.integers(0, 20)) * S,
            leads=data.draw(st.booleans()),
            settled=data.draw(st.booleans()),
            returned_ns=data.draw(st.sampled_from([facts.returned_ns, facts.steady_ns])),
            holding=data.draw(HOLDINGS),
            since=data.draw(st.dictionaries(st.sampled_from("bc"), HOLDINGS)),
            candidates=frozenset(data.draw(st.sets(st.sampled_from("bc")))),
            peers=frozenset(data.draw(st.sets(st.sampled_from("bc")))),
        )
        for _ in range(data.draw(st.integers(0, 2))):
            often.look(facts)
            often.holds(facts)
        assert often.look(facts) == seldom.look(facts)
