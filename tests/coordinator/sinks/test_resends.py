"""Resends against a dictionary of rows."""

from hypothesis import given
from hypothesis import strategies as st
from tests.coordinator.sinks.batches import LONG, SHORT, Row, batch_of

from coordinator.sinks.resends import Resends, hashes_of
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import UNAGGREGATED, Destination, TimeUnit

_ROWS = st.lists(
    st.builds(
        Row,
        st.sampled_from([b"a", b"b", b"c"]),
        st.integers(0, 2),
        st.sampled_from([0.0, -0.0, 1.0]),
        st.sampled_from([SHORT, LONG, UNAGGREGATED, Destination(None, TimeUnit.SECONDS)]),
        st.sampled_from([b"", b"", b"counter"]),
    ),
    min_size=1,
    max_size=12,
)


@given(st.lists(st.tuples(st.booleans(), _ROWS), max_size=20))
def test_rows_that_wait_are_found(steps: list[tuple[bool, list[Row]]]) -> None:
    resends, waiting = Resends(), dict[int, list[Row]]()
    for number, (adds, rows) in enumerate(steps):
        # Every batch has a table of its own: what is compared is ids, not numbers.
        hashes = hashes_of(batch_of(SeriesTable(), rows))
        found = resends.find(hashes).tolist()
        for row, owner in zip(rows, found, strict=True):
            known = [k for k, one in waiting.items() if repr(row) in map(repr, one)]
            assert owner in known if owner >= 0 else not known
        if adds:
            fresh = [row for row, owner in zip(rows, found, strict=True) if owner < 0]
            if fresh:
                waiting[number] = fresh
                resends.add(number, hashes_of(batch_of(SeriesTable(), fresh)))
        elif waiting:
            gone = next(iter(waiting))
            del waiting[gone]
            resends.remove(gone)


def test_it_grows_and_forgets() -> None:
    resends, table = Resends(), SeriesTable()
    batches = [hashes_of(batch_of(table, [Row(b"a", k * 1000 + i) for i in range(1000)])) for k in range(30)]
    for number, hashes in enumerate(batches):
        resends.add(number, hashes)
        if number >= 3:
            resends.remove(number - 3)
    assert [set(resends.find(hashes).tolist()) for hashes in batches] == [*[{-1}] * 27, {27}, {28}, {29}]
