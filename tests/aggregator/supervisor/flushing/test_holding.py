"""Which windows lack samples where some did not arrive, and who of two lacks more."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, KIND_TIMED, ListId, truncate
from aggregator.supervisor.flushing.flush_times import can_lead, incomplete_windows, lacks_more
from aggregator.supervisor.flushing.holding import Gap, Holding, any_lacks, decode_holding, encode_holding
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes
from m3cluster.placement.model import NEVER_NS

S = 1_000_000_000
NOON = 1_767_355_200 * S
STANDARD = ListId(KIND_STANDARD, 10 * S)
LISTS = [ListId(KIND_STANDARD, 1 * S), STANDARD, ListId(KIND_TIMED, 10 * S), ListId(KIND_FORWARDED, 30 * S, 1)]


def at(seconds: float) -> int:
    return NOON + round(seconds * S)


@pytest.mark.parametrize(
    ("begin", "end", "lost", "lacking"),
    [
        (11, 14, False, []),
        (10, 20, False, []),
        (11, 14, True, [10]),
        (8, 11, False, [0, 10]),
        (8, 10.5, True, [0, 10]),
        (8, 31, False, [0, 10, 20, 30]),
        (8, 30, False, [0, 10, 20]),
        (10, 20, True, [10]),
    ],
)
def test_windows_of_a_gap(begin: float, end: float, lost: bool, lacking: list[int]) -> None:
    holding = Holding(0).with_gap(Gap(at(begin), at(end), lost))
    found = [s for s in range(-50, 60, 10) if any_lacks(holding.lacking(STANDARD), at(s))]
    assert found == lacking
    timed = [s for s in range(-50, 60, 10) if any_lacks(holding.lacking(ListId(KIND_TIMED, 10 * S)), at(s))]
    assert timed == (lacking if lost else [])
    rolled = [s for s in range(-90, 60, 10) if any_lacks(holding.lacking(ListId(KIND_FORWARDED, 10 * S, 1)), at(s))]
    assert rolled == [s for s in range(-90, 60, 10) if lost and begin // 10 * 10 - 60 <= s < end]


def test_a_gap_that_has_not_ended_lacks_all_that_is_to_come() -> None:
    holding = Holding(0).with_gap(Gap(at(12), NEVER_NS))
    for list_id in LISTS:
        spans = holding.lacking(list_id)
        assert any_lacks(spans, at(600))
        assert not any_lacks(spans, at(-600))


@given(st.integers(0, 400), st.integers(1, 300), st.integers(-300, 300))
def test_a_window_is_whole_exactly_if_no_sample_is_in_another_one(begin: int, length: int, start: int) -> None:
    """Samples of the gap are stamped when it ends, all others when they are sent; one each second and a half."""
    sent = [x * 0.15 + 0.01 for x in range(-3000, 6000)]
    gap = (begin / 10, (begin + length) / 10)
    window = 10 * start
    stamps = [gap[1] - 1e-6 if gap[0] < x <= gap[1] else x for x in sent]
    own = {k for k, x in enumerate(sent) if window <= x < window + 10}
    found = {k for k, x in enumerate(stamps) if window <= x < window + 10}
    lacks = any_lacks(Holding(0).with_gap(Gap(at(gap[0]), at(gap[1]))).lacking(STANDARD), at(window))
    assert lacks or own == found


def test_many_gaps_become_few_that_lack_no_less() -> None:
    r = random.Random(3)
    gaps = [Gap(at(20 * k + r.uniform(0, 9)), at(20 * k + r.uniform(10, 19))) for k in range(30)]
    holding = Holding(at(-100))
    for gap in r.sample(gaps, len(gaps)):
        holding = holding.with_gap(gap)
    assert len(holding.gaps) == 8
    assert list(holding.gaps) == sorted(holding.gaps, key=lambda one: one.from_ns)
    for list_id in LISTS:
        for gap in gaps:
            span = gap.lacking(list_id)
            assert span is None or all(
                any_lacks(holding.lacking(list_id), start) for start in range(span[0], span[1], list_id.resolution_ns)
            )
    assert holding.with_gap(Gap(at(-200), at(-150))) == holding, "it is from before all that is held"
    later = holding.from_then_on(at(9 * 20 + 5))
    assert later.since_ns == at(185)
    assert holding.from_then_on(at(-300)) == holding


def test_what_others_are_told() -> None:
    plain, more = Holding(NOON), Holding(NOON).with_gap(Gap(at(1), at(3))).with_gap(Gap(at(5), NEVER_NS, lost=True))
    assert encode_holding(plain) == b"%d" % NOON, "as releases without gaps read it"
    for one in (plain, more):
        assert decode_holding(encode_holding(one)) == one
    for bad in (b"", b"1.5", b"yesterday", b'{"since": "x"}', b"\xff"):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            decode_holding(bad)


def times_of(draw: st.DrawFn) -> ShardSetFlushTimes:
    through = st.sampled_from([0, *(at(s) for s in range(-20, 40, 5))])
    return ShardSetFlushTimes(
        {
            shard: ShardFlushTimes(
                {1 * S: draw(through), 10 * S: draw(through)}, {10 * S: draw(through)}, {30 * S: {1: draw(through)}}
            )
            for shard in range(2)
        }
    )


def holding_of(draw: st.DrawFn) -> Holding:
    found = Holding(at(draw(st.sampled_from([-600, -30, 0, 7]))))
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(-20, 50))
        end = draw(st.sampled_from([begin + 1, begin + 4, begin + 12, None]))
        found = found.with_gap(Gap(at(begin), NEVER_NS if end is None else at(end), draw(st.booleans())))
    return found


def unflushed(times: ShardSetFlushTimes, holding: Holding) -> set[tuple[int, ListId, int]]:
    """End, list and shard of windows that lack samples and are not flushed, by trying each one."""
    found = set()
    for shard, own in times.by_shard.items():
        for list_id, through in [
            *((ListId(KIND_STANDARD, r), t) for r, t in own.standard.items()),
            *((ListId(KIND_TIMED, r), t) for r, t in own.timed.items()),
            *((ListId(KIND_FORWARDED, r, 1), t[1]) for r, t in own.forwarded.items()),
        ]:
            window = list_id.resolution_ns
            for start in range(truncate(at(-700), window), at(120), window):
                is_flushed = start < through if list_id.kind == KIND_FORWARDED else start + window <= through
                if not is_flushed and any_lacks(holding.lacking(list_id), start):
                    found.add((start + window, list_id, shard))
    return found


@given(st.data())
def test_of_two_the_one_that_lacks_the_first_window_in_which_they_differ_lacks_more(data: st.DataObject) -> None:
    times = data.draw(st.composite(times_of)())
    one, other, third = (data.draw(st.composite(holding_of)()) for _ in range(3))
    lacks = {id(h): unflushed(times, h) for h in (one, other, third)}
    differ = lacks[id(one)] ^ lacks[id(other)]
    assert lacks_more(times, one, other) == (bool(differ) and min(differ) in lacks[id(one)])
    assert not (lacks_more(times, one, other) and lacks_more(times, other, one))
    if lacks[id(one)] < lacks[id(other)]:
        assert lacks_more(times, other, one)
    if lacks_more(times, one, other) and lacks_more(times, other, third):
        assert lacks_more(times, one, third)


@given(st.data())
def test_who_could_lead_lacks_nothing(data: st.DataObject) -> None:
    times = data.draw(st.composite(times_of)())
    holding = data.draw(st.composite(holding_of)())
    flushed = all(t for own in times.by_shard.values() for t in [*own.standard.values(), *own.timed.values()])
    could = can_lead(times, holding.since_ns, at(40), 5 * S, gaps=holding.gaps)
    if flushed and all(own.forwarded[30 * S][1] for own in times.by_shard.values()):
        assert could == (not unflushed(times, holding))
        lists = {
            (list_id, end) for end, list_id, _ in unflushed(times, holding) if end - list_id.resolution_ns <= at(40)
        }
        assert incomplete_windows(times, holding, at(40)) == len(lists)
