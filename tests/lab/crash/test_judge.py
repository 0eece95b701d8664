"""What counts as missing, wrong and doubled in the crash drill."""

from collections.abc import Callable, Mapping

import pytest
from lab.crash.judge import RESOLUTIONS_NS, Verdict, judge
from lab.crash.samples import BASE, PREFIX, Group, Growth, Kind, Line, Sample, rate
from lab.crash.sink import Window

S = 1_000_000_000
BEGIN, END = 100, 120
"""Seconds: four windows of the shorter resolution."""
MS = S // 1000


def line(kind: Kind, source: int = 0, group: Group | None = None) -> Line:
    """A series, in a group of its own unless one is given."""
    group = group or Group(PREFIX + b"x", kind)
    group.lines.append(Line(group.ident, kind, group, 0, source))
    return group.lines[-1]


def sent(series: Line, sent_s: float, acked_s: float = 0.0) -> Sample:
    """The next sample of a series; ``acked_s``: 0 is never."""
    sample = Sample(len(series.samples), int(sent_s) * S, int(sent_s * S), int(acked_s * S), acks=acked_s > 0)
    series.samples.append(sample)
    return sample


class Came:
    """What came, by id and resolution in seconds."""

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, int], dict[int, Window]] = {}

    def add(self, ident: bytes, start_s: int, *values: float, resolution_s: int = 5, count: int = 0) -> "Came":
        """The window from ``start_s`` on came with these values."""
        window = Window(list(values), [start_s * S] * len(values), count or len(values))
        self._found.setdefault((ident, resolution_s * S), {})[(start_s + resolution_s) * S] = window
        return self

    def __call__(self, ident: bytes, resolution_ns: int) -> Mapping[int, Window]:
        return self._found.get((ident, resolution_ns), {})


def shorter(group: Group, came: Came, **more: object) -> Verdict:
    """The verdict; at the longer resolution the same came, as it should, so that what counts there is not seen."""
    for ident in group.outputs:
        for end, window in list(came(ident, 5 * S).items()):
            start = (end // S - 5) // 10 * 10
            before = came(ident, 10 * S).get((start + 10) * S)
            value = window.values[-1] + (before.values[0] if before and group.kind.shows.name == "DIGITS" else 0.0)
            came.add(ident, start, value, resolution_s=10)
    return judge([group], came, BEGIN * S, END * S, **more)  # type: ignore[arg-type]


def counts(verdict: Verdict) -> tuple[int, int, int]:
    return verdict.missing, verdict.wrong, verdict.doubled


@pytest.fixture
def counter() -> Line:
    """An untimed counter with a sample in each of two windows."""
    made = line(Kind.COUNTER)
    sent(made, 101, 101.1)
    sent(made, 106, 106.1)
    return made


def test_every_sample_in_its_window_is_clean(counter: Line) -> None:
    verdict = shorter(counter.group, Came().add(counter.ident, 100, 1.0).add(counter.ident, 105, 8.0))
    assert verdict.clean
    assert (verdict.sent, verdict.acked, verdict.emitted, verdict.again) == (2, 2, 3, 0)


def test_the_same_value_again_is_no_fault_and_another_one_is(counter: Line) -> None:
    came = Came().add(counter.ident, 100, 1.0, count=3).add(counter.ident, 105, 8.0)
    verdict = shorter(counter.group, came)
    assert (verdict.clean, verdict.again) == (True, 2)
    came = Came().add(counter.ident, 100, 0.0, 1.0).add(counter.ident, 105, 8.0)
    assert counts(shorter(counter.group, came)) == (0, 1, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.0, 0.0), (2, 0, 0)),  # at both resolutions
        ((1.0, 16.0), (0, 0, 2)),
        ((1.0, 8.5), (3, 2, 0)),
        ((1.0, -8.0), (3, 2, 0)),
        ((9.0, 0.0), (0, 1, 0)),  # the second sample in the first window: right at the longer resolution
    ],
)
def test_missing_doubled_no_sum_and_astray(
    counter: Line, values: tuple[float, float], expected: tuple[int, int, int]
) -> None:
    came = Came().add(counter.ident, 100, values[0]).add(counter.ident, 105, values[1])
    assert counts(shorter(counter.group, came)) == expected


def test_a_sample_may_be_in_any_window_between_sending_and_ack_and_only_in_one() -> None:
    made = line(Kind.COUNTER)
    sent(made, 104.9, 110.1)
    for start in (100, 105, 110):
        assert counts(judge([made.group], Came().add(made.ident, start, 1.0), 0, END * S)) == (1, 0, 0)  # longer: none
    assert counts(judge([made.group], Came().add(made.ident, 115, 1.0), 0, END * S)) == (1, 1, 0)
    came = Came().add(made.ident, 100, 1.0).add(made.ident, 105, 1.0)
    assert counts(judge([made.group], came, 0, END * S)) == (1, 0, 1)


def test_samples_of_one_digit_are_told_apart_by_their_windows() -> None:
    made = line(Kind.COUNTER)
    for k in range(18):
        sent(made, 100 + k / 10 if k < 17 else 106, 109.9 if k == 0 else 100.1 + k / 10 if k < 17 else 106.1)
    first, all_but_first = (BASE**17 - 1) // 7, (BASE**17 - 1) // 7 - 1
    for values in ((first, 1), (all_but_first, 2)):
        came = Came().add(made.ident, 100, float(values[0])).add(made.ident, 105, float(values[1]))
        assert counts(shorter(made.group, came)) == (0, 0, 0)


def test_what_is_not_acked_may_be_there_or_not() -> None:
    made = line(Kind.COUNTER)
    sent(made, 101)
    assert shorter(made.group, Came()).clean
    assert shorter(made.group, Came().add(made.ident, 115, 1.0)).clean
    assert counts(shorter(made.group, Came().add(made.ident, 100, 2.0))) == (0, 0, 2)


def test_what_is_forgiven_may_be_missing_and_is_told() -> None:
    made = line(Kind.COUNTER)
    sent(made, 101, 101.1)
    sent(made, 101.2, 101.3)
    came = Came().add(made.ident, 100, 1.0)
    verdict = shorter(made.group, came, forgiven=[(101 * S + 200 * MS, 102 * S)])
    assert verdict.clean
    assert verdict.forgiven_ns == [int(101.3 * S)] * 2
    assert not shorter(made.group, came, forgiven=[(102 * S, 103 * S)]).clean


def test_mirrored_instances_may_put_a_sample_into_either_window() -> None:
    made = line(Kind.COUNTER)
    sent(made, 104.9, 105.1)
    sent(made, 106, 106.1)
    both = Came().add(made.ident, 100, 1.0).add(made.ident, 105, 9.0)
    none = Came().add(made.ident, 105, 8.0)
    for came in (both, none):
        verdict = judge([made.group], came.add(made.ident, 100, 9.0, resolution_s=10), 0, END * S, mirrored=True)
        assert verdict.clean
        assert verdict.unsure == 1
    assert not judge([made.group], both, 0, END * S).clean


def test_samples_with_a_time_belong_to_it() -> None:
    made = line(Kind.TIMED_COUNTER)
    sent(made, 104, 119)
    assert shorter(made.group, Came().add(made.ident, 100, 1.0)).clean
    assert counts(shorter(made.group, Came().add(made.ident, 105, 1.0))) == (0, 1, 0)


@pytest.mark.parametrize(("kind", "each"), [(Kind.TIMER, 2), (Kind.TIMED_TIMER, 1)])
def test_timers_have_to_agree(kind: Kind, each: int) -> None:
    made = line(kind)
    sent(made, 101, 101.1)
    sent(made, 102, 102.1)

    def came(*values: float) -> Came:
        found = Came()
        for ident, value in zip(made.group.outputs, values, strict=True):
            found.add(ident, 100, value)
        return found

    assert shorter(made.group, came(9.0, 2.0 * each, 8.0)).clean
    assert counts(shorter(made.group, came(9.0, 3.0 * each, 8.0))) == (0, 2, 0)
    assert counts(shorter(made.group, came(9.0, 2.0 * each, 1.0))) == (0, 2, 0)


def test_a_window_has_its_last_sample() -> None:
    made = line(Kind.TIMED_GAUGE)
    for second in (101, 103, 106):
        sent(made, second, second + 0.1)
    assert shorter(made.group, Came().add(made.ident, 100, 1.0).add(made.ident, 105, 2.0)).clean
    assert counts(shorter(made.group, Came().add(made.ident, 100, 0.0).add(made.ident, 105, 2.0))) == (0, 1, 0)
    assert counts(shorter(made.group, Came().add(made.ident, 105, 2.0))) == (1, 0, 0)
    assert counts(shorter(made.group, Came().add(made.ident, 100, 1.0).add(made.ident, 105, 1.0))) == (0, 2, 0)


def test_a_later_untimed_sample_counts_only_if_it_was_sent_after_the_ack_of_the_one_that_came() -> None:
    made = line(Kind.GAUGE_LAST)
    sent(made, 101, 103)
    sent(made, 102, 102.1)
    for value in (0.0, 1.0):
        assert shorter(made.group, Came().add(made.ident, 100, value)).clean
    sent(made, 104, 104.1)
    assert counts(shorter(made.group, Came().add(made.ident, 100, 0.0))) == (0, 2, 0)


def rates(came: Callable[[int], float | None]) -> Verdict:
    """Two sources; ``came`` says what came of the window of that number instead of the right value, None: nothing."""
    group = Group(PREFIX + b"r", Kind.RATES)
    for source in range(2):
        line(Kind.RATES, source, group)
    windows = Came()
    for resolution in RESOLUTIONS_NS:
        each = resolution // RESOLUTIONS_NS[0]
        for start in range(BEGIN, END, resolution // S):
            number = start // 5
            value = sum(BASE**s * sum(rate(s, number + k) for k in range(each)) / each for s in range(2))
            if resolution == RESOLUTIONS_NS[0] and came(number) != value:
                other = came(number)
                if other is None:
                    continue
                value = other or value
            if start > BEGIN:
                windows.add(group.ident, start, value, resolution_s=resolution // S)
    return judge([group], windows, BEGIN * S, END * S)


def test_rates_are_those_of_all_sources() -> None:
    assert rates(lambda number: 0.0).clean
    assert counts(rates(lambda number: None if number == 22 else 0.0)) == (1, 0, 0)
    assert counts(rates(lambda number: 1.0 if number == 22 else 0.0)) == (0, 1, 0)


def test_growth_gives_these_rates() -> None:
    growth = Growth(BEGIN // 5)
    for source in range(3):
        last = {second: growth.value(source, second * S) for second in range(BEGIN, END)}
        assert sorted(last.values()) == list(last.values())
        for start in range(BEGIN + 5, END, 5):
            grown = last[start + 4] - last[start - 1]
            assert grown / 5 == BASE**source * rate(source, start // 5)
            # Without its last sample a window has another rate.
            assert (last[start + 3] - last[start - 1]) / 5 != grown / 5
