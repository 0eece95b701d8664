"""The watermark: it advances over complete flushes in order, never past an open one, and never back."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, KIND_TIMED, ListId
from aggregator.supervisor.flushing.flush_times import FlushTimes, can_lead, has_flushed, incomplete_windows
from aggregator.supervisor.flushing.holding import Holding
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes, decode_flush_times, encode_flush_times

S = 1_000_000_000
LIST = ListId(KIND_STANDARD, 10 * S)
TIMED = ListId(KIND_TIMED, 10 * S)


def test_a_time_waits_for_all_parts_and_for_the_last_one() -> None:
    times = FlushTimes()
    times.begin(1, 0, LIST, {7: 100}, counts=True)
    first, second = times.part(1), times.part(1)
    assert times.done(1, first) == {}
    assert times.last(1) == {}
    assert times.done(1, first) == {}
    assert times.done(1, second) == {(LIST, 7): 100}
    assert times.time(LIST, 7) == 100
    assert not times.part(1)


def test_a_flush_without_output_is_complete_at_once() -> None:
    times = FlushTimes()
    times.begin(1, 0, LIST, {7: 100, 8: 100}, counts=True)
    assert times.last(1) == {(LIST, 7): 100, (LIST, 8): 100}


def test_a_later_target_waits_for_an_earlier_one() -> None:
    times = FlushTimes()
    parts = {}
    for flush_id, target in ((1, 100), (2, 110)):
        times.begin(flush_id, 0, LIST, {7: target}, counts=True)
        parts[flush_id] = times.part(flush_id)
        times.last(flush_id)
    assert times.done(2, parts[2]) == {}
    assert times.time(LIST, 7) == 0
    assert times.done(1, parts[1]) == {(LIST, 7): 110}


def test_other_workers_and_lists_do_not_wait() -> None:
    times = FlushTimes()
    times.begin(1, 0, LIST, {7: 100}, counts=True)
    times.begin(2, 1, LIST, {8: 100}, counts=True)
    times.begin(3, 0, TIMED, {7: 90}, counts=True)
    assert times.last(2) == {(LIST, 8): 100}
    assert times.last(3) == {(TIMED, 7): 90}


def test_a_broken_off_flush_does_not_count_but_its_messages_hold_back_later_ones() -> None:
    times = FlushTimes()
    times.begin(1, 0, LIST, {7: 100}, counts=True)
    part = times.part(1)
    assert times.last(1, whole=False) == {}
    times.begin(2, 0, LIST, {7: 110}, counts=True)
    assert times.last(2) == {}
    assert times.emitted(LIST, 7) == 110
    assert times.done(1, part) == {(LIST, 7): 110}


def test_what_was_thrown_away_is_not_flushed() -> None:
    times = FlushTimes()
    times.begin(1, 0, LIST, {7: 100}, counts=False)
    assert times.last(1) == {}
    assert (times.time(LIST, 7), times.emitted(LIST, 7)) == (0, 0)


def test_the_kv_is_never_gone_behind() -> None:
    base = ShardSetFlushTimes({7: ShardFlushTimes(standard={10 * S: 500}), 9: ShardFlushTimes(timed={10 * S: 3})})
    times = FlushTimes(base)
    times.begin(1, 0, LIST, {7: 400}, counts=True)
    assert times.last(1) == {}
    assert times.time(LIST, 7) == 500
    times.learn(ShardSetFlushTimes({7: ShardFlushTimes(standard={10 * S: 450})}))
    assert times.time(LIST, 7) == 500
    assert times.emitted(LIST, 7) == 500


def test_the_message_has_every_list_and_marks_lost_shards() -> None:
    base = ShardSetFlushTimes({9: ShardFlushTimes(timed={10 * S: 3})})
    times = FlushTimes(base)
    assert times.add_list(LIST, [7])
    assert not times.add_list(LIST, [7])
    times.begin(1, 0, ListId(KIND_FORWARDED, 10 * S, 2), {7: 80}, counts=True)
    times.last(1)
    message = times.message(owned=[7, 8], redirects={8: 7})
    assert decode_flush_times(encode_flush_times(message)) == message
    assert message.by_shard[7] == ShardFlushTimes({10 * S: 0}, {}, {10 * S: {2: 80}}, False)
    assert message.by_shard[8].standard == {10 * S: 0}
    assert message.by_shard[9] == ShardFlushTimes({}, {10 * S: 3}, {}, True)


@pytest.mark.parametrize(
    ("shard", "until", "expected"),
    [(0, 700, False), (0, 300, True), (0, 1000, False), (1, 2000, False), (1, 1200, True), (1, 3000, False), (5, 1, False)],
)  # fmt: skip
def test_has_flushed_as_in_m3(shard: int, until: int, expected: bool) -> None:
    message = ShardSetFlushTimes(
        {
            0: ShardFlushTimes({10: 1000}, {10: 500}, {10: {1: 700}}),
            1: ShardFlushTimes({10: 2000}, {10: 1500}, {10: {1: 2500, 2: 3500}}),
        }
    )
    assert has_flushed(message, shard, until) is expected
    assert not has_flushed(None, shard, until)


@pytest.mark.parametrize(
    ("times", "opened_s", "now_s", "expected"),
    [
        (ShardFlushTimes(standard={60: 3660}), 3624, 4000, True),
        (ShardFlushTimes(standard={60: 3659}), 3624, 4000, False),
        (ShardFlushTimes(standard={60: 3600}), 3600, 4000, True),
        (ShardFlushTimes(forwarded={60: {1: 3600}}), 3640, 4000, False),
        (ShardFlushTimes(forwarded={60: {1: 3601}}), 3640, 4000, True),
        (ShardFlushTimes(forwarded={60: {1: 3600}}), 3600, 4000, True),
        (ShardFlushTimes(standard={60: 1}, tombstoned=True), 3624, 4000, True),
        (ShardFlushTimes(standard={600: 0}), 86400, 86400, False),
        (ShardFlushTimes(standard={600: 0}), 86399, 86400, True),
        (ShardFlushTimes(timed={600: 0}), 86399, 86400 + 180, True),
        (ShardFlushTimes(timed={600: 0}), 86399, 86400 + 179, False),
    ],
)
def test_can_lead_as_in_m3(times: ShardFlushTimes, opened_s: int, now_s: int, expected: bool) -> None:
    def scaled(values: dict[int, int]) -> dict[int, int]:
        return {resolution * S: at * S for resolution, at in values.items()}

    in_ns = ShardFlushTimes(
        scaled(times.standard), scaled(times.timed), {r * S: {n: at * S for n, at in hops.items()}
        for r, hops in times.forwarded.items()}, times.tombstoned,
    )  # fmt: skip
    assert can_lead(ShardSetFlushTimes({0: in_ns}), opened_s * S, now_s * S, 180 * S) is expected
    assert can_lead(None, 0, 0, 0)
    assert can_lead(ShardSetFlushTimes(), 0, 0, 0)


@dataclass
class Begun:
    """A flush of the model: what each of its parts awaits."""

    target: int
    parts: dict[int, set[int]] = field(default_factory=dict)
    ended: bool = False
    counts: bool = True

    def through(self, shard: int) -> bool:
        return self.ended and all(shard not in awaited for awaited in self.parts.values())


@given(st.data())
def test_the_time_of_a_shard_never_passes_a_flush_that_is_open_on_it_and_waits_for_nothing_else(
    data: st.DataObject,
) -> None:
    shards = (7, 8, 9)
    times, begun = FlushTimes(), dict[int, Begun]()
    before = dict.fromkeys(shards, 0)
    for step in range(data.draw(st.integers(1, 60))):
        choice = data.draw(st.sampled_from(["begin", "part", "last", "break", "done", "narrow", "narrow"]))
        if choice == "begin":
            begun[step] = Begun(100 + step)
            times.begin(step, 0, LIST, dict.fromkeys(shards, 100 + step), counts=True)
        elif begun:
            flush_id = data.draw(st.sampled_from(sorted(begun)))
            flush = begun[flush_id]
            if choice == "part" and not flush.ended:
                part = times.part(flush_id)
                assert part
                flush.parts[part] = set(shards)
            elif choice in ("last", "break") and not flush.ended:
                flush.ended, flush.counts = True, choice == "last"
                times.last(flush_id, whole=choice == "last")
            elif choice in ("done", "narrow") and flush.parts:
                part = data.draw(st.sampled_from(sorted(flush.parts)))
                # Messages that move to another consumer are awaited again.
                left = data.draw(st.sets(st.sampled_from(shards))) if choice == "narrow" else set()
                times.done(flush_id, part, frozenset(left))
                flush.parts[part] = left
                if not left:
                    del flush.parts[part]
        for shard in shards:
            now = times.time(LIST, shard)
            in_order = [begun[flush_id] for flush_id in sorted(begun)]
            open_at = next((k for k, flush in enumerate(in_order) if not flush.through(shard)), len(begun))
            assert now == max([before[shard], *(flush.target for flush in in_order[:open_at] if flush.counts)])
            before[shard] = now


def test_a_shard_that_waits_for_long_keeps_little_and_goes_on_at_once() -> None:
    times = FlushTimes()
    for flush_id in range(1, 1001):
        times.begin(flush_id, 0, LIST, {7: flush_id, 8: flush_id}, counts=True)
        part = times.part(flush_id)
        times.last(flush_id)
        if flush_id == 1:
            assert times.done(1, first := part, frozenset([7])) == {(LIST, 8): 1}
        else:
            assert times.done(flush_id, part) == {(LIST, 8): flush_id}
    # All that it knows, written out: a thousand flushes would not fit.
    kept = len(repr(times))
    assert kept < 1000
    assert times.done(1, first) == {(LIST, 7): 1000}
    assert len(repr(times)) < kept


@pytest.mark.parametrize(
    ("flushed", "opened", "count"),
    [(100, 100, 0), (100, 101, 1), (100, 110, 1), (100, 111, 2), (105, 111, 2), (130, 111, 0), (0, 500, 0)],
)
def test_windows_that_a_new_leader_lacks_samples_of(flushed: int, opened: int, count: int) -> None:
    message = ShardSetFlushTimes(
        {
            7: ShardFlushTimes({10 * S: flushed * S}),
            8: ShardFlushTimes({10 * S: (flushed + 50) * S if flushed else 0}),
            9: ShardFlushTimes({10 * S: 10 * S}, tombstoned=True),
        }
    )
    assert incomplete_windows(message, Holding(opened * S), 1000 * S) == count
