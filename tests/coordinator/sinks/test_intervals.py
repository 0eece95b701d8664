"""Intervals against sets of numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from coordinator.sinks.intervals import Intervals

_STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 12)), max_size=40)


@given(_STEPS)
def test_they_are_a_set_of_numbers(steps: list[tuple[bool, int, int]]) -> None:
    intervals, model = Intervals(), set[int]()
    for adds, start, length in steps:
        numbers = set(range(start, start + length))
        if adds:
            assert intervals.add(start, start + length) == len(numbers - model)
            model |= numbers
        else:
            assert intervals.remove(start, start + length) == len(numbers & model)
            model -= numbers
        found = list(intervals)
        assert {number for a, b in found for number in range(a, b)} == model
        assert all(a < b for a, b in found)
        assert all(b < c for (_, b), (c, _) in pairwise(found))
        assert (intervals.total, len(intervals)) == (len(model), len(found))
        assert all((number in intervals) == (number in model) for number in range(60))
        ends = [next((n for n in range(one, 61) if n not in model), 61) for one in range(60)]
        assert [intervals.end_of(one) for one in range(60)] == ends
        assert {n for a, b in intervals.gaps(5, 30) for n in range(a, b)} == set(range(5, 30)) - model
        if model:
            assert intervals.first[0] == min(model)
