"""The order of points and of policies."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator.store import kernels
from coordinator.store.select import PolicyTable, policy_order, ranks
from m3metrics.policy import StoragePolicy

points = st.lists(st.tuples(st.integers(3, 8), st.integers(-5, 5), st.integers(0, 100)), max_size=40)


@given(points, st.lists(st.integers(3, 8), unique=True, min_size=1).map(sorted), st.randoms())
def test_arrange_equals_the_model(rows: list[tuple[int, int, int]], wanted: list[int], random: object) -> None:
    seq = np.arange(len(rows), dtype=np.int64)
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    chosen = [rows[i] for i in shuffled]
    rank = np.full(wanted[-1] - wanted[0] + 1, -1, np.int64)
    rank[np.array(wanted) - wanted[0]] = np.arange(len(wanted))
    offsets = np.zeros(len(wanted) + 1, np.int64)
    time_ms, bits = np.empty(len(rows), np.int64), np.empty(len(rows), np.uint64)
    count = kernels.arrange(
        rank,
        wanted[0],
        np.array([series for series, _, _ in chosen], np.uint32),
        np.array([time for _, time, _ in chosen], np.int64),
        np.array([value for _, _, value in chosen], np.uint64),
        seq[shuffled],
        offsets,
        time_ms,
        bits,
    )
    model: dict[int, dict[int, int]] = {series: {} for series in wanted}
    for series, time, value in rows:
        if series in model:
            model[series][time] = value
    assert offsets[-1] == count
    for group, series in enumerate(wanted):
        part = slice(offsets[group], offsets[group + 1])
        assert list(zip(time_ms[part].tolist(), bits[part].tolist(), strict=True)) == sorted(model[series].items())


@given(
    st.lists(st.integers(0, 2**32 - 1), unique=True, min_size=1, max_size=20).map(sorted),
    st.lists(st.integers(0, 2**32 - 1), max_size=20),
    st.booleans(),
)
def test_ranks_are_the_places_of_the_numbers_in_little_memory(wanted: list[int], others: list[int], near: bool) -> None:
    if near:
        wanted, others = sorted({n % 50 for n in wanted}), [n % 50 for n in others]
    series = np.array([*wanted, *others], np.uint32)
    rank, low, column = ranks(np.array(wanted, np.uint32), series)
    assert len(rank) <= 16 * (len(wanted) + len(series))

    def group(number: int) -> int:
        at = number - low
        return int(rank[at]) if 0 <= at < len(rank) else -1

    model = {number: i for i, number in enumerate(wanted)}
    assert [group(number) for number in column.tolist()] == [model.get(number, -1) for number in series.tolist()]


def test_the_finest_policy_that_covers_comes_first() -> None:
    tables = [
        PolicyTable(StoragePolicy.parse(text), i) for i, text in enumerate(["1m:40d", "10s:2d", "5m:1y", "10s:6h"])
    ]
    now_ms, hour_ms = 10**12, 3_600_000

    def order(hours: int) -> list[str]:
        return [str(table.policy) for table in policy_order(tables, now_ms - hours * hour_ms, now_ms)]

    assert order(1) == ["10s:2d", "10s:6h", "1m:40d", "5m:1y"]
    assert order(24) == ["10s:2d", "1m:40d", "5m:1y", "10s:6h"]
    assert order(24 * 10) == ["1m:40d", "5m:1y", "10s:2d", "10s:6h"]
    assert order(24 * 1000) == ["5m:1y", "1m:40d", "10s:2d", "10s:6h"]
