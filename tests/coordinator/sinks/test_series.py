"""Numbers of series, and hashes that do not depend on them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator.sinks.series import SeriesTable


def _numbers(table: SeriesTable, ids: list[bytes]) -> list[int]:
    sizes = np.array([len(one) for one in ids], np.int64)
    buf = np.frombuffer(bytearray(b"".join(ids)) + bytes(1), np.uint8)
    numbers = table.numbers(buf, np.cumsum(sizes) - sizes, sizes)
    assert numbers.dtype == np.uint32
    return numbers.tolist()


@given(st.lists(st.lists(st.binary(max_size=30), max_size=30), max_size=8))
def test_a_series_has_one_number(batches: list[list[bytes]]) -> None:
    table, model = SeriesTable(), dict[bytes, int]()
    for ids in batches:
        assert _numbers(table, ids) == [model.setdefault(one, len(model)) for one in ids]
        assert len(table.hashes) == len(table) == len(model)
    assert [table.id(number) for number in range(len(table))] == list(model)
    arena, at, size = table.ids()
    assert [arena[a : a + n].tobytes() for a, n in zip(at, size, strict=True)] == list(model)


@given(st.lists(st.binary(max_size=30), unique=True, min_size=2, max_size=30))
def test_hashes_belong_to_the_id(ids: list[bytes]) -> None:
    one, other = SeriesTable(), SeriesTable()
    _numbers(one, ids)
    _numbers(other, ids[::-1])
    assert one.hashes.tolist() == other.hashes[::-1].tolist()
    assert len(set(one.hashes.tolist())) == len(ids)
