"""Splitting refused batches: nobody good is given up, and requests are bounded, for any set of bad rows."""

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.sinks.prom_remote.answers import Answer, Kind
from coordinator.sinks.prom_remote.splitting import Splitting, bound
from coordinator.sinks.sink import RefusedWhy

STORED = Answer(Kind.STORED)
Rows = NDArray[np.int64]


def refused(why: RefusedWhy = RefusedWhy.BAD_REQUEST) -> Answer:
    """A refusal."""
    return Answer(Kind.REFUSED, "bad", why)


def run(
    splitting: Splitting, answer: Callable[[Rows], Answer], named: Callable[[Rows], Rows | None] = lambda _: None
) -> tuple[list[int], int]:
    """Rows in the order in which they were stored, and the number of requests."""
    stored: list[int] = []
    requests = 0
    while (rows := splitting.next()) is not None:
        assert len(rows) > 0
        assert len(rows) <= splitting.unsettled
        requests += 1
        said = answer(rows)
        if said.kind is Kind.STORED:
            stored += rows.tolist()
        splitting.settle(said, named(rows) if said.kind is Kind.REFUSED else None)
    assert splitting.unsettled == 0
    return stored, requests


def given_up(splitting: Splitting) -> dict[RefusedWhy, list[int]]:
    """Rows by reason."""
    return {one.why: one.rows.tolist() for one in splitting.result()}


batches = st.integers(1, 3000).flatmap(
    lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1), max_size=min(count, 40)))
)


@given(batches)
def test_a_bad_row_takes_no_neighbour_with_it(case: tuple[int, set[int]]) -> None:
    count, bad = case
    splitting = Splitting(np.zeros(count, np.int64), np.arange(count))
    stored, requests = run(splitting, lambda rows: refused() if bad.intersection(rows.tolist()) else STORED)
    assert stored == sorted(set(range(count)) - bad)
    assert given_up(splitting) == ({RefusedWhy.BAD_REQUEST: sorted(bad)} if bad else {})
    assert requests <= 1 + len(bad) * (2 * (count - 1).bit_length() + 1)
    if len(bad) == 1:
        assert requests <= bound(count)


@given(st.integers(1, 64).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))))
def test_any_number_of_bad_rows(case: tuple[int, set[int]]) -> None:
    count, bad = case
    splitting = Splitting(np.zeros(count, np.int64), np.arange(count))
    stored, requests = run(splitting, lambda rows: refused() if bad.intersection(rows.tolist()) else STORED)
    assert stored == sorted(set(range(count)) - bad)
    assert requests <= 2 * count


@given(batches)
def test_a_store_that_names_the_bad_row_is_asked_twice_for_it(case: tuple[int, set[int]]) -> None:
    count, bad = case
    splitting = Splitting(np.zeros(count, np.int64), np.arange(count))

    def first_bad(rows: Rows) -> Rows:
        return np.array(sorted(bad.intersection(rows.tolist()))[:1])

    stored, requests = run(splitting, lambda rows: refused() if bad.intersection(rows.tolist()) else STORED, first_bad)
    assert sorted(stored) == sorted(set(range(count)) - bad)
    assert sorted(given_up(splitting).get(RefusedWhy.BAD_REQUEST, [])) == sorted(bad)
    assert requests <= 2 * len(bad) + 1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=400), st.integers(0, 20))
def test_a_limit_of_age_is_found_in_a_few_requests(times: list[int], limit: int) -> None:
    time_ns = np.array(times)
    splitting = Splitting(time_ns, np.arange(len(times)))
    stored, requests = run(
        splitting, lambda rows: refused(RefusedWhy.TOO_OLD) if (time_ns[rows] < limit).any() else STORED
    )
    assert stored == np.flatnonzero(time_ns >= limit).tolist()
    assert given_up(splitting).get(RefusedWhy.TOO_OLD, []) == np.flatnonzero(time_ns < limit).tolist()
    distinct = len(set(time_ns[time_ns < limit].tolist()))
    assert requests <= 2 + distinct * (2 * len(times).bit_length() + 2)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10)), min_size=1, max_size=100),
    st.lists(st.integers(-1, 10), min_size=6, max_size=6),
)
def test_a_store_that_refuses_late_samples_refuses_no_more_than_it_would_one_by_one(
    rows: list[tuple[int, int]], newest: list[int]
) -> None:
    rows.sort(key=lambda row: row[1])
    alone, taken = list(newest), []
    for row, (series, at) in enumerate(rows):
        if at >= alone[series]:
            alone[series] = at
            taken.append(row)

    def answer(sent: Rows) -> Answer:
        after = list(newest)
        for row in sent.tolist():
            series, at = rows[row]
            if at < after[series]:
                return refused(RefusedWhy.OUT_OF_ORDER)
            after[series] = at
        newest[:] = after
        return STORED

    splitting = Splitting(np.array([at for _, at in rows]), np.arange(len(rows)))
    stored, _ = run(splitting, answer)
    assert stored == taken


@given(st.integers(1, 500), st.integers(1, 100), st.sets(st.integers(0, 499), max_size=3))
def test_what_is_too_large_is_halved(count: int, most: int, huge: set[int]) -> None:
    splitting = Splitting(np.zeros(count, np.int64), np.arange(count))
    stored, _ = run(
        splitting,
        lambda rows: Answer(Kind.TOO_LARGE, "big") if len(rows) > most or huge.intersection(rows.tolist()) else STORED,
    )
    expected = sorted(set(range(count)) & huge)
    assert stored == sorted(set(range(count)) - huge)
    assert given_up(splitting) == ({RefusedWhy.TOO_LARGE: expected} if expected else {})


def drawing(splitting: Splitting, answer: Callable[[Rows], Answer], most: int) -> tuple[list[int], int]:
    """As ``run``, as the sink does it."""
    stored: list[int] = []
    requests = 0
    while (rows := splitting.next()) is not None:
        requests += 1
        said = answer(rows)
        if said.kind is Kind.STORED:
            stored += rows.tolist()
        splitting.settle(said)
        if splitting.hopeless(long=requests > most - 80):
            splitting.draw(np.random.default_rng(7))
    return stored, requests


@given(st.integers(1, 5), st.integers(0, 5), st.booleans())
def test_what_is_late_as_a_whole_is_given_up_in_few_requests_and_what_is_not_is_stored(
    times: int, late: int, suspected: bool
) -> None:
    """The first times of a batch are those that another coordinator has delivered."""
    count = 1000 * times
    time_ns = np.arange(count) % times
    rows = np.arange(count)
    splitting = Splitting(time_ns, *((rows[:1], rows[1:]) if suspected else (rows, None)))
    stored, requests = drawing(
        splitting,
        lambda rows: refused(RefusedWhy.OUT_OF_ORDER) if (time_ns[rows] < late).any() else STORED,
        bound(5000),
    )
    assert sorted(stored) == np.flatnonzero(time_ns >= late).tolist()
    assert given_up(splitting).get(RefusedWhy.OUT_OF_ORDER, []) == np.flatnonzero(time_ns < late).tolist()
    if late >= times or suspected:
        assert requests <= (1 if suspected else bound(5000)) + 34 * times


@given(st.integers(0, 2**32), st.integers(1, 400))
def test_where_a_drawn_row_is_stored_everyone_of_that_time_is_asked(seed: int, good: int) -> None:
    count = 1000
    well = set(np.random.default_rng(seed).choice(count, good, replace=False).tolist())
    splitting = Splitting(np.zeros(count, np.int64), np.arange(0), np.arange(count))
    stored, _ = drawing(splitting, lambda rows: STORED if well.issuperset(rows.tolist()) else refused(), bound(count))
    if stored:
        assert set(stored) == well


def test_few_bad_rows_are_never_given_up_unasked() -> None:
    count, bad = 5000, set(range(0, 5000, 20))
    for rows, suspects in (
        (np.arange(count), None),
        (np.array(sorted(set(range(count)) - bad)), np.array(sorted(bad))),
    ):
        splitting = Splitting(np.zeros(count, np.int64), rows, suspects)
        asked: set[int] = set()

        def answer(sent: Rows, asked: set[int] = asked) -> Answer:
            if len(sent) == 1:
                asked.add(int(sent[0]))
            return refused() if bad.intersection(sent.tolist()) else STORED

        stored, _ = drawing(splitting, answer, 10**9)
        assert set(stored) == set(range(count)) - bad
        assert asked >= bad


def test_bounds() -> None:
    assert bound(5000) == 625
    assert bound(1) >= 1
    assert all(bound(count) >= 2 * (count - 1).bit_length() + 2 for count in range(1, 5000))


def test_nothing_to_send() -> None:
    splitting = Splitting(np.zeros(3, np.int64), np.zeros(0, np.int64))
    splitting.refuse(RefusedWhy.BAD_ID, np.arange(3), "no tags")
    assert splitting.next() is None
    assert given_up(splitting) == {RefusedWhy.BAD_ID: [0, 1, 2]}
