"""When lists are flushed: M3's offsets, targets, and the worked timeline of a shard set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, KIND_TIMED, ListId, truncate
from aggregator.supervisor.flushing.schedule import Schedule, ScheduleOptions, Tick

MS = 1_000_000
S = 1_000 * MS
MINUTE = 60 * S
NOON = 1_767_355_200 * S  # 2026-01-02T12:00:00Z

STANDARD_10S = ListId(KIND_STANDARD, 10 * S)
STANDARD_1M = ListId(KIND_STANDARD, MINUTE)
TIMED_10S = ListId(KIND_TIMED, 10 * S)
FORWARDED_10S = ListId(KIND_FORWARDED, 10 * S, 1)


def options(**changes) -> ScheduleOptions:
    values = {
        "timed_delay_ns": lambda resolution: MINUTE + resolution,
        "forwarding_delay_ns": lambda resolution, times: 5 * S + 5 * S * times,
        "max_jitter_ns": None,
    }
    return ScheduleOptions(**{**values, **changes})


@pytest.mark.parametrize(("interval", "offset"), [(S, 0), (10 * S, 4 * S), (MINUTE, 34 * S)])
def test_offset_without_jitter_is_that_of_the_creation(interval: int, offset: int) -> None:
    assert options().offset_ns(ListId(KIND_STANDARD, interval), 0, 1234 * S) == offset


def test_fixed_offsets() -> None:
    assert options().offset_ns(FORWARDED_10S, 0, 1234 * S) == 0
    assert (
        options(timed_delay_ns=lambda resolution: 5 * S + resolution, timed_offset=True).offset_ns(
            TIMED_10S, 0, 1234 * S
        )
        == 5 * S
    )
    assert options(timed_delay_ns=lambda resolution: 5 * S + resolution).offset_ns(TIMED_10S, 0, 1234 * S) == 4 * S


def test_offset_with_jitter_is_the_same_everywhere_and_below_the_maximum() -> None:
    jittered = options(max_jitter_ns=lambda interval: interval // 2)
    offsets = {
        (shard_set, resolution): jittered.offset_ns(ListId(KIND_STANDARD, resolution), shard_set, created)
        for shard_set in range(20)
        for resolution in (S, 10 * S, MINUTE)
        for created in (NOON, NOON + 7 * S)
    }
    assert all(0 <= offset < key[1] // 2 for key, offset in offsets.items())
    assert len(set(offsets.values())) > 50
    for (shard_set, resolution), offset in offsets.items():
        assert jittered.offset_ns(ListId(KIND_STANDARD, resolution), shard_set, NOON + S) == offset
    assert options(max_jitter_ns=lambda _: 0).offset_ns(STANDARD_10S, 1, NOON + 3 * S) == 0


def test_times_are_truncated_from_the_year_one() -> None:
    week = 7 * 24 * 3600 * S
    assert truncate(NOON + 5 * S, 10 * S) == NOON
    assert truncate(NOON, week) == 1_766_966_400 * S  # a Monday
    assert truncate(0, 7 * S) % (7 * S) != 0


def test_a_new_list_is_due_in_the_current_interval() -> None:
    schedule = Schedule(options())
    schedule.join(STANDARD_10S, NOON + 3 * S, NOON + 3 * S)
    assert schedule.due(NOON + 3 * S) == [Tick(STANDARD_10S, NOON + 3 * S)]
    assert schedule.next_ns() == NOON + 13 * S
    assert schedule.due(NOON + 12 * S) == []
    # Another shard gets the same list: the bucket keeps its offset and runs at once.
    schedule.join(STANDARD_10S, NOON + 9 * S, NOON + 12 * S)
    assert schedule.next_ns() == NOON + 13 * S
    schedule.join(STANDARD_10S, NOON + 9 * S, NOON + 14 * S)
    assert schedule.due(NOON + 14 * S) == [Tick(STANDARD_10S, NOON + 14 * S)]
    assert schedule.next_ns() == NOON + 23 * S


def test_missed_ticks_run_once_and_the_schedule_does_not_drift() -> None:
    schedule = Schedule(options())
    schedule.join(STANDARD_10S, NOON + 3 * S, NOON + 3 * S)
    schedule.due(NOON + 3 * S)
    late = NOON + 57 * S + 5
    assert schedule.due(late) == [Tick(STANDARD_10S, late)]
    assert schedule.due(late) == []
    assert schedule.next_ns() == NOON + 63 * S


@given(
    st.lists(
        st.tuples(
            st.integers(0, 25 * S),
            st.sampled_from([STANDARD_10S, STANDARD_1M, TIMED_10S, FORWARDED_10S]),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_targets_are_those_of_a_queue_that_runs_every_missed_tick(events: list[tuple[int, ListId, bool]]) -> None:
    """M3's leader takes the earliest bucket again and again while one is due; a repeated target flushes nothing.

    docs/m3/aggregation.md, flush schedule.
    """
    rules = options(
        timed_delay_ns=lambda resolution: 5 * S + resolution,
        timed_offset=True,
        forwarding_delay_ns=lambda resolution, times: 7 * S,
    )
    schedule = Schedule(rules)
    queue: dict[ListId, int] = {}
    offsets: dict[ListId, int] = {}
    flushed: dict[ListId, int] = {}
    now = NOON
    for step, list_id, joins in events:
        now += step
        if joins:
            fixed = {TIMED_10S: 5 * S, FORWARDED_10S: 7 * S}.get(list_id)
            base = truncate(now, list_id.resolution_ns)
            offsets.setdefault(list_id, now - base if fixed is None else fixed)
            queue[list_id] = base + offsets[list_id]
            # The shard on which it came to be has not been flushed up to that target.
            flushed.pop(list_id, None)
            schedule.join(list_id, now, now)
        expected = []
        while queue and min(queue.values()) <= now:
            first = min(queue, key=lambda each: (queue[each], each))
            queue[first] += first.resolution_ns
            target = now - rules.delay_ns(first)
            if flushed.get(first, -1) < target:
                flushed[first] = target
                expected.append(Tick(first, target))
        assert [tick for tick in schedule.due(now)] == expected
        assert schedule.next_ns() == min(queue.values(), default=None)


def test_a_clock_that_jumps_back_does_not_flush_early() -> None:
    schedule = Schedule(options())
    schedule.join(STANDARD_10S, NOON, NOON)
    schedule.due(NOON)
    assert schedule.due(NOON - MINUTE) == []
    assert schedule.next_ns() == NOON + 10 * S


def test_the_worked_timeline_of_a_leader() -> None:
    """Offsets of instance A: standard 10 s at 3 s, 1 m at 20 s, timed 10 s at 1 s, forwarded at 0 s."""
    schedule = Schedule(options())
    schedule.join(STANDARD_10S, NOON + 3 * S, NOON)
    schedule.join(STANDARD_1M, NOON + 20 * S, NOON)
    schedule.join(TIMED_10S, NOON + S, NOON)
    schedule.join(FORWARDED_10S, NOON, NOON)
    seen = []
    now = NOON
    while now <= NOON + 81 * S:
        seen += [((now - NOON) // S, t.list_id, (t.target_ns - NOON) // S) for t in schedule.due(now)]
        now += S
    assert [(at, t) for at, i, t in seen if i == STANDARD_10S] == [(a, a) for a in range(3, 82, 10)]
    assert [(at, t) for at, i, t in seen if i == STANDARD_1M] == [(20, 20), (80, 80)]
    assert [(at, t) for at, i, t in seen if i == FORWARDED_10S] == [(a, a - 10) for a in range(0, 82, 10)]
    assert [(at, t) for at, i, t in seen if i == TIMED_10S] == [(a, a - 70) for a in range(1, 82, 10)]
    # The window [:00, :10) of timed samples is eligible from 12:01:20 on and goes out with the tick of 12:01:21.
    assert next(at for at, i, t in seen if i == TIMED_10S and t >= 10) == 81


def test_a_new_leader_runs_what_is_overdue_at_once() -> None:
    """Instance B takes over at 12:00:55.7 (offsets 4, 5, 2, 0): all ticks of the current interval lie in the past."""
    schedule = Schedule(options())
    for list_id, offset in ((STANDARD_10S, 4), (STANDARD_1M, 5), (TIMED_10S, 2), (FORWARDED_10S, 0)):
        schedule.join(list_id, NOON + offset * S, NOON)
    schedule.restart(NOON + 55_700 * MS)
    ticks = schedule.due(NOON + 55_700 * MS)
    assert [t.list_id for t in ticks] == [STANDARD_1M, FORWARDED_10S, TIMED_10S, STANDARD_10S]
    later = [NOON + s * S for s in (60, 62, 64, 65)]
    assert [[t.list_id for t in schedule.due(at)] for at in later] == [
        [FORWARDED_10S],
        [TIMED_10S],
        [STANDARD_10S],
        [STANDARD_1M],
    ]


@given(st.lists(st.integers(0, 40 * S), min_size=1, max_size=60), st.integers(0, 10 * S - 1))
def test_every_interval_is_served_once_at_most(steps: list[int], offset: int) -> None:
    schedule = Schedule(options())
    schedule.join(STANDARD_10S, NOON + offset, NOON)
    now, last_target, runs = NOON, -1, 0
    for step in steps:
        now += step
        for tick in schedule.due(now):
            assert tick.target_ns == now > last_target
            last_target, runs = tick.target_ns, runs + 1
        following = schedule.next_ns()
        assert following is not None
        assert now < following <= now + 10 * S or following == NOON + offset
    assert runs <= (now - NOON) // (10 * S) + 1


@pytest.mark.parametrize(
    ("target", "cutover", "cutoff", "reach"),
    [
        (50 * S, 60 * S, 900 * S, 50 * S),
        (70 * S, 60 * S, 900 * S, 70 * S),
        (910 * S, 60 * S, 900 * S, 900 * S),
        (960 * S, 60 * S, 900 * S, 900 * S),
        (961 * S, 60 * S, 900 * S, 901 * S),
    ],
)
def test_a_flush_does_not_reach_beyond_the_cutoff_before_the_buffer_is_over(
    target: int, cutover: int, cutoff: int, reach: int
) -> None:
    assert options(max_buffer_ns=60 * S).reach_ns(target, cutover, cutoff) == reach
