"""Merging: against a model that keeps a dictionary of points, and the rules that the page gives."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.m3db.m3tsz.streams import START
from tests.m3db.read.tagged import SECOND, Blocks, answers, body_of, element_of

from m3db.read.fetch import TaggedAnswer, read_answer
from m3db.read.merge import EqualTimes, Fetched, OrderError, merge

EVER = START - 10**18, START + 10**18
NAN = float("nan")


def answer(*series: tuple[bytes, Blocks], exhaustive: bool = True) -> TaggedAnswer:
    return read_answer(body_of([element_of(ident, blocks) for ident, blocks in series], exhaustive=exhaustive))


def rows(fetched: Fetched) -> dict[bytes, list[tuple[int, float]]]:
    """The points of each series: seconds after ``START``, value."""
    seconds, values = ((fetched.time_ns - START) // SECOND).tolist(), fetched.values.tolist()
    offsets = fetched.offsets.tolist()
    return {
        fetched.ids[n]: list(zip(seconds[begin:stop], values[begin:stop], strict=True))
        for n, (begin, stop) in enumerate(itertools.pairwise(offsets))
    }


CHOICES: dict[EqualTimes, Callable[[list[float]], float]] = {
    EqualTimes.LAST_PUSHED: lambda values: values[-1],
    EqualTimes.HIGHEST_VALUE: max,
    EqualTimes.LOWEST_VALUE: min,
    EqualTimes.HIGHEST_FREQUENCY_VALUE: lambda values: max(reversed(values), key=values.count),
}


def model(
    found: list[list[dict[str, Any]]], first: int, last: int, rule: EqualTimes
) -> dict[bytes, list[tuple[int, float]]]:
    """What becomes of elements, by their bytes: copies of each series, one for each answer."""
    copies: dict[bytes, list[dict[int, float]]] = {}
    for index, elements in enumerate(found):
        for element in elements:
            here = copies.setdefault(element["id"], [])
            here += [{} for _ in range(index + 1 - len(here))]
            whole = read_answer(body_of([element])).points
            seconds = ((whole.time_ns - START) // SECOND).tolist()
            here[index].update(zip(seconds, whole.bits.view(np.float64).tolist(), strict=True))
    result = {}
    for ident, here in copies.items():
        times = sorted({time for copy in here for time in copy if first <= time < last})
        result[ident] = [(time, CHOICES[rule]([copy[time] for copy in here if time in copy])) for time in times]
    return result


@given(st.lists(answers, max_size=4), st.integers(-5, 35), st.integers(-5, 40), st.sampled_from(EqualTimes))
def test_any_answers(found: list[list[dict[str, Any]]], first: int, last: int, rule: EqualTimes) -> None:
    read = [read_answer(body_of(elements)) for elements in found]
    fetched = merge(read, START + first * SECOND, START + last * SECOND, equal_times=rule)
    assert rows(fetched) == model(found, first, last, rule)
    tags: dict[bytes, bytes] = {}
    for element in (element for elements in found for element in elements):
        tags.setdefault(element["id"], element["encodedTags"])
    assert {fetched.ids[n]: fetched.tags[n] for n in range(len(fetched))} == tags


def test_no_answers() -> None:
    fetched = merge([], *EVER)
    assert (len(fetched), len(fetched.time_ns), fetched.exhaustive) == (0, 0, True)


def test_the_last_stream_of_a_block_wins() -> None:
    streams = [[(0, 1.0), (10, 1.0), (20, 1.0)], [(10, 2.0), (15, 2.0)], [(10, 3.0)]]
    expected = [(0, 1.0), (10, 3.0), (15, 2.0), (20, 1.0)]
    assert rows(merge([answer((b"a", [streams]))], *EVER)) == {b"a": expected}
    # A stream that ends before the others changes nothing.
    shorter = [[(0, 1.0)], [(10, 2.0)], [(10, 3.0)]]
    assert rows(merge([answer((b"a", [shorter]))], *EVER)) == {b"a": [(0, 1.0), (10, 3.0)]}


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        (EqualTimes.LAST_PUSHED, (3.0, 1.0, 2.0), 2.0),
        (EqualTimes.HIGHEST_VALUE, (3.0, 1.0, 2.0), 3.0),
        (EqualTimes.HIGHEST_VALUE, (NAN, 1.0, NAN), 1.0),
        (EqualTimes.LOWEST_VALUE, (3.0, 1.0, 2.0), 1.0),
        (EqualTimes.LOWEST_VALUE, (NAN, 1.0, 2.0), 1.0),
        (EqualTimes.HIGHEST_FREQUENCY_VALUE, (1.0, 1.0, 2.0), 1.0),
        (EqualTimes.HIGHEST_FREQUENCY_VALUE, (1.0, 2.0, 3.0), 3.0),
        (EqualTimes.HIGHEST_FREQUENCY_VALUE, (NAN, NAN, 3.0), 3.0),
    ],
)
def test_equal_times_of_nodes(rule: EqualTimes, values: tuple[float, ...], expected: float) -> None:
    found = [answer((b"a", [[[(5, value)]]])) for value in values]
    assert rows(merge(found, *EVER, equal_times=rule)) == {b"a": [(5, expected)]}


def test_equal_copies_and_copies_with_holes() -> None:
    whole, hole = [[[(0, 1.0), (10, 2.0)]], [[(20, 3.0)]]], [[[(0, 1.0)]], [[(20, 3.0)]]]
    expected = {b"a": [(0, 1.0), (10, 2.0), (20, 3.0)]}
    for found in ([whole, whole, whole], [whole, hole], [hole, whole], [hole, whole, hole]):
        assert rows(merge([answer((b"a", blocks)) for blocks in found], *EVER)) == expected


def test_many_copies() -> None:
    found = [answer((b"a", [[[(n, float(n))]]])) for n in range(200)]
    assert rows(merge(found, *EVER)) == {b"a": [(n, float(n)) for n in range(200)]}


def test_series_without_points_stay() -> None:
    found = [answer((b"a", []), (b"b", [[[(5, 1.0)]]])), answer((b"c", []))]
    assert rows(merge(found, START, START + SECOND)) == {b"a": [], b"b": [], b"c": []}


def test_limits() -> None:
    found = [answer((b"c", [[[(0, 3.0)]]]), (b"a", [[[(0, 1.0)]]])), answer((b"b", [[[(0, 2.0)]]]), (b"a", []))]
    fetched = merge(found, *EVER, series_limit=2)
    assert rows(fetched) == {b"a": [(0, 1.0)], b"b": [(0, 2.0)]}
    assert not fetched.exhaustive
    assert merge(found, *EVER, series_limit=3).exhaustive
    assert not merge([found[0], answer(exhaustive=False)], *EVER).exhaustive


def test_streams_that_go_back_in_time() -> None:
    with pytest.raises(OrderError, match="^stream 1 of 2 goes back in time$"):
        merge([answer((b"a", [[[(0, 1.0)], [(5, 1.0), (3, 1.0)]]]))], *EVER)
    assert rows(merge([answer((b"a", [[[(5, 1.0), (5, 2.0), (6, 1.0)]]]))], *EVER)) == {b"a": [(5, 1.0), (6, 1.0)]}
