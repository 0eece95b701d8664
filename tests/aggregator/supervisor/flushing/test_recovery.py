"""After a replay: sources first, then their rollups."""

from collections.abc import Iterable

from aggregator.ipc import Flush, Flushed, Grace, NewList, OwnedShard, Reopen
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, ListId
from aggregator.supervisor.flushing.commands import Flushing, Send
from aggregator.supervisor.flushing.recovery import PATIENCE_NS, Recovery
from aggregator.supervisor.flushing.schedule import ScheduleOptions
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes
from m3cluster.placement.model import NEVER_NS

S = 1_000_000_000
SOURCE = ListId(KIND_STANDARD, 10 * S)
ROLLUP = ListId(KIND_FORWARDED, 10 * S, 1)
NOW = 1_700_000_000 * S


def test_rollups_wait_until_the_sources_have_arrived() -> None:
    recovery = Recovery()
    assert not recovery.holds(ROLLUP, NOW)
    recovery.begin(0, {SOURCE, ROLLUP}, NOW)
    assert recovery.holds(ROLLUP, NOW)
    assert not recovery.holds(SOURCE, NOW)
    recovery.given(0, SOURCE, 5)
    recovery.part(5, 1)
    recovery.part(5, 2)
    recovery.last(5)
    recovery.done(5, 1)
    assert recovery.holds(ROLLUP, NOW)
    recovery.done(5, 2)
    assert not recovery.holds(ROLLUP, NOW)


def test_nobody_is_waited_for_without_end() -> None:
    recovery = Recovery()
    recovery.begin(0, {SOURCE}, NOW)
    recovery.begin(1, {SOURCE}, NOW)
    recovery.gone(1)
    recovery.given(0, SOURCE, 1)
    recovery.refused(1)
    recovery.last(1)
    assert recovery.holds(ROLLUP, NOW + PATIENCE_NS - 1)
    assert not recovery.holds(ROLLUP, NOW + PATIENCE_NS)
    recovery.begin(0, {SOURCE}, NOW)
    assert recovery.lead([], NOW + 5 * S) == [SOURCE]
    assert recovery.holds(ROLLUP, NOW + PATIENCE_NS)


def test_rollups_wait_for_workers_that_replay() -> None:
    recovery = Recovery()
    recovery.replays(0)
    recovery.replays(1)
    assert recovery.holds(ROLLUP, NOW)
    assert not recovery.holds(SOURCE, NOW)
    recovery.begin(0, set(), NOW)
    assert recovery.holds(ROLLUP, NOW + PATIENCE_NS - 1)
    assert not recovery.holds(ROLLUP, NOW + PATIENCE_NS)
    # One that dies again and again is no more waited for than once.
    recovery.gone(1)
    recovery.replays(1)
    assert not recovery.holds(ROLLUP, NOW + PATIENCE_NS)
    recovery.begin(1, set(), NOW)
    recovery.replays(1)
    assert recovery.holds(ROLLUP, NOW + 2 * PATIENCE_NS)


def test_the_rollups_of_a_worker_wait_for_another_one_that_replays() -> None:
    flushing = Flushing(
        ScheduleOptions(timed_delay_ns=lambda _: 0, forwarding_delay_ns=lambda *_: 0, max_jitter_ns=None)
    )
    flushing.worker_up(0, 1, [OwnedShard(3, 0, NEVER_NS)])
    flushing.worker_up(1, 1, [OwnedShard(4, 0, NEVER_NS)], replays=True)
    flushing.lead(ShardSetFlushTimes(), NOW)
    flushing.new_lists(0, [NewList(3, SOURCE, NOW), NewList(3, ROLLUP, NOW)], NOW)
    assert {list_id for _, list_id in flushes(flushing.tick(NOW + 10 * S))} == {SOURCE}
    assert flushes(flushing.worker_ready(1, [], NOW + 11 * S)) == []
    assert {list_id for _, list_id in flushes(flushing.tick(NOW + 11 * S))} == {ROLLUP}
    # Its successor is not there yet.
    flushing.worker_down(1)
    assert flushing.recovery.holds(ROLLUP, NOW + 21 * S)


def flushes(sends: Iterable[Send]) -> list[tuple[str, ListId]]:
    kinds = []
    for send in sends:
        if isinstance(send.command, Flush):
            kinds.append(("emit" if send.command.emit else "discard", send.command.list_id))
        elif isinstance(send.command, Reopen):
            kinds.append(("reopen", send.command.list_id))
        elif isinstance(send.command, Grace):
            kinds.append(("grace", SOURCE))
    return kinds


def test_a_worker_that_replayed_emits_again_what_is_not_known_to_have_arrived() -> None:
    flushing = Flushing(
        ScheduleOptions(timed_delay_ns=lambda r: r, forwarding_delay_ns=lambda *_: 0, max_jitter_ns=None)
    )
    flushing.worker_up(0, 1, [OwnedShard(3, 0, NEVER_NS)], replays=True)
    covered = NOW - 30 * S
    flushing.lead(ShardSetFlushTimes({3: ShardFlushTimes({10 * S: covered}, {}, {10 * S: {1: covered}})}), NOW)
    assert flushing.tick(NOW + 10 * S) == []
    lists = [NewList(3, SOURCE, NOW - 60 * S), NewList(3, ROLLUP, NOW - 60 * S)]
    assert flushes(flushing.worker_ready(0, lists, NOW + 11 * S)) == [("grace", SOURCE)]
    sends = flushing.tick(NOW + 11 * S)
    assert flushes(sends) == [("reopen", SOURCE), ("discard", SOURCE), ("emit", SOURCE)]
    assert isinstance(sends[0].command, Reopen)
    assert sends[0].command.since_ns == covered
    emitting = sends[2].command
    assert isinstance(emitting, Flush)
    part = flushing.part(0, Flushed(emitting.id, False, 1, True, []))
    flushing.last(0, emitting.id, NOW + 11 * S)
    assert flushes(flushing.tick(NOW + 12 * S)) == []
    flushing.done(emitting.id, part)
    assert flushes(flushing.tick(NOW + 13 * S)) == [("reopen", ROLLUP), ("discard", ROLLUP), ("emit", ROLLUP)]
