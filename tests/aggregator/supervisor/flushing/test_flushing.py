"""Who flushes what: commands of a leader and a follower, driven with a fake clock."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from aggregator.ipc import Commit, Flush, Flushed, Grace, NewList, OwnedShard, Reopen
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, KIND_TIMED, ListId
from aggregator.supervisor.flushing.commands import RECONNECT_NS, REPEAT_NS, Flushing, FlushRole, Send
from aggregator.supervisor.flushing.schedule import ScheduleOptions
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes
from m3cluster.placement.model import NEVER_NS

S = 1_000_000_000
NOON = 1_767_355_200 * S
LIST = ListId(KIND_STANDARD, 10 * S)
OPTIONS = ScheduleOptions(
    timed_delay_ns=lambda r: 60 * S + r, forwarding_delay_ns=lambda r, n: r * n, max_jitter_ns=None
)


def owned(*shards: int, cutover: int = 0) -> list[OwnedShard]:
    return [OwnedShard(shard, cutover, NEVER_NS) for shard in shards]


def new_list(shard: int, at: int = NOON, kind: int = KIND_STANDARD) -> NewList:
    return NewList(shard, ListId(kind, 10 * S), at)


def leader(kv: ShardSetFlushTimes | None = None) -> Flushing:
    machine = Flushing(OPTIONS)
    machine.worker_up(0, 1, owned(0, 1))
    machine.worker_up(1, 1, owned(2, 3))
    machine.lead(kv or ShardSetFlushTimes(), NOON)
    return machine


def flushes(sends: list[Send]) -> list[Flush]:
    return [send.command for send in sends if isinstance(send.command, Flush)]


def part_of(machine: Flushing, flush: Flush, worker: int = 0, *, forwarded: bool = False) -> int:
    """Hands out a part of a flush."""
    return machine.part(worker, Flushed(flush.id, last=True, values=5, forwarded=forwarded, policy_names=[]))


class Answered(NamedTuple):
    """What came of the answer to a flush."""

    part: int
    sends: list[Send]


def answer(machine: Flushing, flush: Flush, worker: int = 0, values: int = 5, at: int = NOON) -> Answered:
    """The flush is answered in one part, without values in none."""
    part = part_of(machine, flush, worker) if values else 0
    assert part or not values
    return Answered(part, machine.last(worker, flush.id, at))


def test_a_leader_flushes_each_worker_that_has_the_list() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    sends = machine.tick(NOON)
    assert [(s.worker, s.epoch) for s in sends] == [(0, 1)]
    (flush,) = flushes(sends)
    assert flush.emit
    assert flush.bounds[0].shards == []
    assert (flush.bounds[0].target_ns, flush.bounds[0].cutoff_ns) == (NOON, NEVER_NS)
    assert machine.tick(NOON + 5 * S) == []


def test_shards_of_different_cutover_are_grouped() -> None:
    machine = Flushing(OPTIONS)
    machine.worker_up(0, 1, [*owned(0, 1), *owned(2, cutover=NOON)])
    machine.lead(ShardSetFlushTimes(), NOON)
    machine.new_lists(0, [new_list(0)], NOON)
    (flush,) = flushes(machine.tick(NOON))
    assert [(b.shards, b.cutover_ns) for b in flush.bounds] == [([0, 1], 0), ([2], NOON)]


def test_timed_lists_lie_behind() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0, kind=KIND_TIMED)], NOON)
    assert flushes(machine.tick(NOON))[0].bounds[0].target_ns == NOON - 70 * S


def test_flush_times_follow_done_messages_and_are_committed_after_the_kv() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    assert machine.save_due(NOON)
    assert machine.message(range(4)).by_shard[0].standard == {10 * S: 0}
    (flush,) = flushes(machine.tick(NOON))
    part = answer(machine, flush).part
    assert not machine.save_due(NOON)
    machine.done(flush.id, part)
    assert machine.save_due(NOON)
    message = machine.message(range(4))
    assert message.by_shard[0].standard == {10 * S: NOON}
    assert machine.saved(message, NOON) == [Send(0, 1, Commit(LIST, [0], NOON))]
    assert machine.saved(message, NOON) == []


def test_flush_times_wait_for_forwarded_metrics_as_well_as_for_final_output() -> None:
    """The two classes end in their own order; the list is flushed when both have."""
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    (flush,) = flushes(machine.tick(NOON))
    parts = [part_of(machine, flush, forwarded=forwarded) for forwarded in (True, False, True)]
    assert machine.in_hand
    machine.last(0, flush.id, NOON)
    assert not machine.in_hand
    for part in parts[:2]:
        machine.done(flush.id, part)
        assert machine.message(range(4)).by_shard[0].standard == {10 * S: 0}
    machine.done(flush.id, parts[2])
    assert machine.message(range(4)).by_shard[0].standard == {10 * S: NOON}


def test_forwarded_lists_have_their_own_delay_times_and_discards() -> None:
    forwarded = NewList(0, ListId(KIND_FORWARDED, 10 * S, 2), NOON)
    machine = leader()
    machine.new_lists(0, [forwarded], NOON)
    (flush,) = flushes(machine.tick(NOON))
    assert (flush.list_id, flush.bounds[0].target_ns) == (ListId(KIND_FORWARDED, 10 * S, 2), NOON - 20 * S)
    machine.done(flush.id, answer(machine, flush).part)
    message = machine.message(range(4))
    assert message.by_shard[0].forwarded == {10 * S: {2: NOON - 20 * S}}

    follower = Flushing(OPTIONS)
    follower.worker_up(0, 1, owned(0, 1))
    follower.follow()
    assert follower.new_lists(0, [forwarded, NewList(0, ListId(KIND_FORWARDED, 10 * S, 1), NOON)], NOON) == []
    sends = follower.kv_changed(message)
    (discard,) = flushes(sends)
    assert not discard.emit
    assert discard.list_id == ListId(KIND_FORWARDED, 10 * S, 2)
    assert [(b.shards, b.target_ns) for b in discard.bounds] == [([0], NOON - 20 * S)]
    assert [s.command for s in sends[1:]] == [Commit(ListId(KIND_FORWARDED, 10 * S, 2), [0], NOON - 20 * S)]


def test_unchanged_times_are_written_again_after_a_while() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    machine.saved(machine.message(range(4)), NOON)
    assert not machine.save_due(NOON + REPEAT_NS - 1)
    assert machine.save_due(NOON + REPEAT_NS)


def test_a_tick_waits_for_the_flushes_before_it_if_there_are_many() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    given = [flush for k in range(8) for flush in flushes(machine.tick(NOON + 10 * k * S))]
    assert [flush.bounds[0].target_ns for flush in given] == [NOON + 10 * k * S for k in range(8)]
    assert machine.tick(NOON + 80 * S) == []
    assert machine.tick(NOON + 90 * S) == []
    (last,) = flushes(answer(machine, given[0], at=NOON + 93 * S).sends)
    assert last.bounds[0].target_ns == NOON + 93 * S
    assert all(answer(machine, flush, at=NOON + 94 * S).sends == [] for flush in (*given[1:], last))
    assert not machine.in_hand


def several(machine: Flushing, count: int) -> list[Flush]:
    """Flushes of one list that are in hand at the same time."""
    machine.new_lists(0, [new_list(0)], NOON)
    return [flush for k in range(count) for flush in flushes(machine.tick(NOON + 10 * k * S))]


def time_of(machine: Flushing) -> int:
    return machine.message(range(4)).by_shard[0].standard[10 * S]


def test_a_later_flush_that_ends_first_moves_no_time_past_those_in_hand() -> None:
    machine = leader()
    given = several(machine, 4)
    parts = [part_of(machine, flush) for flush in given]
    for k in (3, 1, 2):
        machine.last(0, given[k].id, NOON + 50 * S)
        machine.done(given[k].id, parts[k])
        assert time_of(machine) == 0
    machine.done(given[0].id, parts[0])
    assert time_of(machine) == 0, "its last part is still to come"
    machine.last(0, given[0].id, NOON + 60 * S)
    assert time_of(machine) == NOON + 30 * S


def test_a_flush_that_is_refused_between_others_is_covered_by_the_one_behind_it() -> None:
    machine = leader()
    first, second, third = several(machine, 3)
    machine.refused(0, second.id)
    for flush, reached in ((first, NOON), (third, NOON + 20 * S)):
        machine.done(flush.id, answer(machine, flush).part)
        assert time_of(machine) == reached
    assert not machine.in_hand


def test_of_a_worker_that_dies_with_several_in_hand_only_what_had_ended_counts() -> None:
    machine = leader()
    given = several(machine, 4)
    ended = answer(machine, given[0]).part
    parts = [part_of(machine, flush) for flush in given[1:3]]
    machine.worker_down(0)
    assert not machine.in_hand
    for flush, part in zip(given[1:3], parts, strict=True):
        machine.done(flush.id, part)
    assert time_of(machine) == 0
    machine.done(given[0].id, ended)
    assert time_of(machine) == NOON
    machine.worker_up(0, 2, owned(0, 1), replays=True)
    machine.worker_ready(0, [new_list(0)], NOON + 40 * S)
    sends = machine.tick(NOON + 41 * S)
    assert isinstance(sends[0].command, Reopen)
    covered, again = flushes(sends)
    assert [(covered.emit, covered.bounds[0].target_ns), again.emit] == [(False, NOON), True]
    machine.done(again.id, answer(machine, again).part)
    assert time_of(machine) == again.bounds[0].target_ns > NOON + 30 * S


def test_a_shard_that_has_come_waits_for_the_flushes_before_it() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    (first,) = flushes(machine.tick(NOON))
    (second,) = flushes(machine.tick(NOON + 10 * S))
    machine.assign(0, owned(0, 1, 5))
    assert machine.tick(NOON + 20 * S) == []
    answer(machine, first, at=NOON + 21 * S)
    assert machine.in_hand
    (third,) = flushes(answer(machine, second, at=NOON + 22 * S).sends)
    assert third.emit
    assert third.bounds[0].target_ns == NOON + 22 * S


def test_a_new_leader_discards_what_is_covered_and_then_emits() -> None:
    kv = ShardSetFlushTimes({0: ShardFlushTimes({10 * S: NOON - 7 * S}), 1: ShardFlushTimes({10 * S: 0})})
    machine = leader(kv)
    machine.new_lists(0, [new_list(0), new_list(1)], NOON)
    seed, flush = flushes(machine.tick(NOON))
    assert (seed.emit, flush.emit) == (False, True)
    assert [(b.shards, b.target_ns, b.cutover_ns) for b in seed.bounds] == [([0], NOON - 7 * S, 0)]
    machine.last(0, seed.id, NOON)
    answer(machine, flush)
    (next_flush,) = flushes(machine.tick(NOON + 10 * S))
    assert next_flush.emit


def test_a_leader_does_not_emit_what_was_flushed_of_a_shard_that_it_learns_of_later() -> None:
    covered = {shard: ShardFlushTimes(standard={10 * S: NOON - (20 + shard) * S}) for shard in (0, 1)}
    machine = Flushing(OPTIONS)
    machine.worker_up(0, 1, owned(0))
    machine.lead(ShardSetFlushTimes(covered), NOON)
    machine.new_lists(0, [new_list(0)], NOON)
    discard, emit = flushes(machine.tick(NOON))
    assert [(b.shards, b.target_ns) for b in discard.bounds] == [([0], NOON - 20 * S)]
    answer(machine, emit)
    machine.assign(0, owned(0, 1))
    machine.new_lists(0, [new_list(1)], NOON + S)
    discard, emit = flushes(machine.tick(NOON + 10 * S))
    assert (discard.emit, emit.emit) == (False, True)
    assert [(b.shards, b.target_ns) for b in discard.bounds] == [([1], NOON - 21 * S)]
    answer(machine, emit)
    # It leaves and comes back.
    machine.assign(0, owned(0))
    machine.assign(0, owned(0, 1))
    discard, _ = flushes(machine.tick(NOON + 20 * S))
    assert [(b.shards, b.target_ns) for b in discard.bounds] == [([1], NOON + 10 * S)]


def test_a_restarted_worker_does_not_emit_again_what_the_one_before_it_emitted() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    (flush,) = flushes(machine.tick(NOON))
    part = answer(machine, flush).part
    machine.worker_down(0)
    machine.worker_up(0, 2, owned(0, 1))
    machine.new_lists(0, [new_list(0, NOON + 3 * S)], NOON + 3 * S)
    sends = machine.tick(NOON + 3 * S)
    seed, again = flushes(sends)
    assert {s.epoch for s in sends} == {2}
    assert (seed.emit, seed.bounds[0].target_ns, seed.bounds[0].shards) == (False, NOON, [0])
    assert again.emit
    # Its messages are still on their way: nothing is flushed for good before they are done.
    answer(machine, again, values=0)
    assert machine.times.time(LIST, 0) == 0
    machine.done(flush.id, part)
    assert machine.times.time(LIST, 0) == NOON + 3 * S


def test_a_worker_that_died_while_flushing_leaves_no_gap_behind() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    (flush,) = flushes(machine.tick(NOON))
    machine.worker_down(0)
    assert not part_of(machine, flush)
    assert machine.times.time(LIST, 0) == 0
    assert machine.tick(NOON + 10 * S) == []


def test_shards_of_a_worker_that_is_down_are_not_tombstoned() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    machine.worker_down(0)
    machine.worker_down(1)
    assert not machine.message(range(4)).by_shard[0].tombstoned
    assert machine.message([1, 2, 3]).by_shard[0].tombstoned


def test_a_new_front_gets_the_open_commands_again() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    (flush,) = flushes(machine.tick(NOON))
    # It may not have read all samples of that window before it died: the next tick emits it, whether or not the worker has done so.
    assert machine.again(0, NOON) == []
    assert not part_of(machine, flush)
    assert machine.tick(NOON + RECONNECT_NS - 1) == []
    reopen, later = (send.command for send in machine.tick(NOON + RECONNECT_NS))
    assert isinstance(reopen, Reopen)
    assert reopen.since_ns == 0
    assert isinstance(later, Flush)
    assert later.emit
    assert later.bounds[0].target_ns == NOON + RECONNECT_NS
    machine.last(0, reopen.id, NOON + RECONNECT_NS)
    answer(machine, later)
    # Regular flushes stay where they were.
    assert machine.tick(NOON + 10 * S - 1) == []
    assert [f.bounds[0].target_ns for f in flushes(machine.tick(NOON + 10 * S))] == [NOON + 10 * S]


def test_a_new_front_gets_what_is_to_be_discarded_again() -> None:
    machine = Flushing(OPTIONS)
    machine.worker_up(0, 1, owned(0, 1))
    machine.follow()
    machine.new_lists(0, [new_list(0)], NOON)
    sends = [
        s
        for s in machine.kv_changed(ShardSetFlushTimes({0: ShardFlushTimes({10 * S: NOON})}))
        if isinstance(s.command, Flush)
    ]
    assert len(sends) == 1
    assert [s for s in machine.again(0, NOON) if isinstance(s.command, Flush)] == sends
    machine.last(0, sends[0].command.id, NOON)
    assert [s for s in machine.again(0, NOON) if isinstance(s.command, Flush)] == []


def test_a_new_front_gets_the_newest_commits_again() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    for at in (NOON, NOON + 10 * S):
        (flush,) = flushes(machine.tick(at))
        machine.done(flush.id, answer(machine, flush, at=at).part)
        machine.saved(machine.message(range(4)), at)
    assert machine.again(0, NOON) == [Send(0, 1, Commit(LIST, [0], NOON + 10 * S))]
    assert machine.again(1, NOON) == []


def test_lists_that_nobody_has_any_more_leave_the_message() -> None:
    """A rule that is gone: nothing would ever advance its list, and whoever starts would wait for windows of it."""
    gone, kept = ListId(KIND_FORWARDED, 60 * S, 1), {10 * S: NOON - 3600 * S}
    kv = ShardSetFlushTimes({0: ShardFlushTimes(kept, forwarded={gone.resolution_ns: {1: NOON - 3600 * S}})})
    machine = leader(kv)
    machine.new_lists(0, [new_list(0)], NOON)
    # Its samples may come yet.
    machine.forget_unused(NOON + 10 * S)
    assert machine.message(range(4)).by_shard[0] == kv.by_shard[0]
    machine.kv_changed(kv)
    machine.forget_unused(NOON + 301 * S)
    # What a worker has stays, however old.
    assert machine.message(range(4)).by_shard[0] == ShardFlushTimes(kept)
    # It comes back as a new one.
    machine.new_lists(0, [NewList(0, ListId(KIND_FORWARDED, 60 * S, 1), NOON + 302 * S)], NOON + 302 * S)
    assert machine.message(range(4)).by_shard[0].forwarded == {60 * S: {1: 0}}


def test_a_refused_flush_is_covered_by_the_next_tick() -> None:
    machine = leader(ShardSetFlushTimes({0: ShardFlushTimes({10 * S: NOON - 50 * S})}))
    machine.new_lists(0, [new_list(0)], NOON)
    seed, flush = flushes(machine.tick(NOON))
    machine.refused(0, seed.id)
    machine.refused(0, flush.id)
    assert machine.times.time(LIST, 0) == NOON - 50 * S
    assert [f.emit for f in flushes(machine.tick(NOON + 10 * S))] == [False, True]


def test_a_follower_discards_up_to_the_leaders_times() -> None:
    machine = Flushing(OPTIONS)
    machine.worker_up(0, 1, owned(0, 1))
    machine.new_lists(0, [new_list(0), new_list(1)], NOON)
    assert machine.follow() == [Send(0, 1, Grace(NEVER_NS))]
    kv = ShardSetFlushTimes({0: ShardFlushTimes({10 * S: NOON}), 1: ShardFlushTimes({10 * S: NOON - 10 * S})})
    sends = machine.kv_changed(kv)
    (flush,) = flushes(sends)
    assert not flush.emit
    assert [(b.shards, b.target_ns) for b in flush.bounds] == [([1], NOON - 10 * S), ([0], NOON)]
    assert sends[1:] == [
        Send(0, 1, Commit(LIST, [1], NOON - 10 * S)),
        Send(0, 1, Commit(LIST, [0], NOON)),
    ]
    assert machine.kv_changed(kv) == []
    assert machine.tick(NOON + 60 * S) == []
    assert not machine.save_due(NOON + 600 * S)


def test_output_of_a_term_that_is_over_is_thrown_away() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    (flush,) = flushes(machine.tick(NOON))
    machine.follow()
    assert not part_of(machine, flush)
    machine.lead(ShardSetFlushTimes(), NOON + S)
    assert not part_of(machine, flush)
    assert len(flushes(machine.tick(NOON + S))) == 1


def test_what_a_lost_term_did_not_deliver_is_emitted_again_in_the_next() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0), new_list(1)], NOON)
    (flush,) = flushes(machine.tick(NOON))
    answer(machine, flush)  # emitted, never done
    machine.follow()
    kv = ShardSetFlushTimes({s: ShardFlushTimes({10 * S: NOON - (10 + s) * S}) for s in (0, 1)})
    machine.lead(kv, NOON + 13 * S)
    sends = [send.command for send in machine.tick(NOON + 20 * S)]
    assert isinstance(sends[0], Reopen)
    assert sends[0].since_ns == NOON - 11 * S
    seed, again = sends[1:]
    assert isinstance(seed, Flush)
    assert isinstance(again, Flush)
    assert not seed.emit
    assert {s: b.target_ns for b in seed.bounds for s in b.shards} == {0: NOON - 10 * S, 1: NOON - 11 * S}
    assert again.emit
    # A new front is given only what throws away; the rest follows with the next tick, as in the first place.
    assert [send.command for send in machine.again(0, NOON + 21 * S)] == [seed]
    sends = [send.command for send in machine.tick(NOON + 21 * S + RECONNECT_NS)]
    assert [type(command) for command in sends] == [Reopen, Flush, Flush]
    assert sends[0].since_ns == NOON - 11 * S
    again = sends[2]
    for one in (seed, sends[1]):
        machine.last(0, one.id, NOON + 24 * S)
    answer(machine, again)
    assert machine.again(0, NOON) == []
    assert not any(isinstance(send.command, Reopen) for send in machine.tick(NOON + 30 * S))


def test_a_list_that_is_not_reopened_is_reopened_with_the_next_tick() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    machine.lead(ShardSetFlushTimes(), NOON)
    first = [send.command for send in machine.tick(NOON + 10 * S)]
    assert [type(command) for command in first] == [Reopen, Flush]
    for command in first:
        assert isinstance(command, Reopen | Flush)
        machine.refused(0, command.id)
    assert [type(send.command) for send in machine.tick(NOON + 20 * S)] == [Reopen, Flush]


def test_an_idle_instance_flushes_nothing() -> None:
    machine = leader()
    machine.new_lists(0, [new_list(0)], NOON)
    machine.rest()
    assert machine.role is FlushRole.IDLE
    assert machine.tick(NOON + 60 * S) == []
    assert machine.kv_changed(ShardSetFlushTimes({0: ShardFlushTimes({10 * S: NOON})})) == []


@given(st.data())
def test_what_is_flushed_for_good_was_emitted_and_done(data: st.DataObject) -> None:
    """Random workers' deaths, answers and acks: the KV time never passes a target whose output is not done."""
    machine = leader()
    now, epochs = NOON, {0: 1, 1: 1}
    unanswered: list[tuple[int, Flush]] = []
    undone: dict[int, int] = {}
    for worker in (0, 1):
        machine.new_lists(worker, [new_list(2 * worker)], now)
    for _ in range(data.draw(st.integers(1, 50))):
        match data.draw(st.sampled_from(["tick", "answer", "done", "die", "save"])):
            case "tick":
                now += data.draw(st.integers(1, 15)) * S
                unanswered += [(s.worker, s.command) for s in machine.tick(now) if isinstance(s.command, Flush)]
            case "answer" if unanswered:
                worker, flush = unanswered.pop(0)
                if flush.emit and (part := part_of(machine, flush, worker)):
                    undone[flush.id] = part
                more = machine.last(worker, flush.id, now)
                unanswered += [(s.worker, s.command) for s in more if isinstance(s.command, Flush)]
            case "done" if undone:
                flush_id = data.draw(st.sampled_from(sorted(undone)))
                machine.done(flush_id, undone.pop(flush_id))
            case "die":
                worker = data.draw(st.sampled_from([0, 1]))
                epochs[worker] += 1
                machine.worker_down(worker)
                unanswered = [u for u in unanswered if u[0] != worker]
                machine.worker_up(worker, epochs[worker], owned(2 * worker, 2 * worker + 1))
                machine.new_lists(worker, [new_list(2 * worker, now)], now)
            case "save":
                for send in machine.saved(machine.message(range(4)), now):
                    assert send.epoch == epochs[send.worker]
        for worker in (0, 1):
            time = machine.times.time(LIST, 2 * worker)
            assert time <= machine.times.emitted(LIST, 2 * worker)
            busy = [f.bounds[0].target_ns for w, f in unanswered if w == worker and f.emit]
            assert not busy or time < min(busy)
