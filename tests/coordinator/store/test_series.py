"""Ids into stored form: the quick way and the careful one agree; forms of a series."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.store import series_tags
from coordinator.store.series import SeriesIndex, parse_tags, stored_form
from m3metrics.errors import IdError
from m3metrics.ids import encode_tags

names = st.sampled_from([b"a", b"b", b"__name__", b"__g0__", b"__option_id_scheme__", b"c" * 300])
values = st.sampled_from([b"", b"1", b"graphite", b"\xff\x00", b"v" * 300])
ids = st.lists(st.tuples(names, values), max_size=5).map(encode_tags)
mangled = st.tuples(ids, st.integers(0, 30), st.binary(max_size=4)).map(
    lambda one: one[0][: max(len(one[0]) - one[1], 0)] + one[2]
)


def careful(data: bytes, **options: bool) -> tuple[bytes, list[tuple[bytes, bytes]]] | str:
    try:
        tags = series_tags(data, **options)
        return encode_tags(tags), tags
    except IdError as error:
        return str(error)


@given(ids | mangled | st.binary(max_size=30), st.booleans(), st.booleans())
def test_the_quick_way_equals_the_careful_one(data: bytes, duplicates: bool, empty: bool) -> None:
    options = {"allow_duplicates": duplicates, "allow_empty_value": empty}
    expected = careful(data, **options)
    if isinstance(expected, str):
        with pytest.raises(IdError) as caught:
            stored_form(data, **options)
        assert str(caught.value) == expected
    else:
        assert stored_form(data, **options) == expected
        assert parse_tags(expected[0]) == expected[1]


def test_forms_are_forgotten_when_there_are_far_more_of_them_than_series() -> None:
    index = SeriesIndex()
    series_id = encode_tags([(b"a", b"1")])
    index.add([series_id], [[(b"a", b"1")]], [7], 0)
    forms = [series_id + b".%d" % i for i in range(70_000)]
    for first in range(0, len(forms), 10_000):
        index.remember(forms[first : first + 10_000], [0] * 10_000)

    def find(form: bytes) -> int:
        buf = np.frombuffer(bytearray(form), np.uint8)
        return int(index.find(buf, np.zeros(1, np.int64), np.array([len(form)], np.int64))[0][0])

    assert (find(forms[0]), find(forms[-1])) == (-1, 0)
    assert index.size_bytes < 30_000_000
    assert index.entries_of([series_id, b"x"]) == [0, -1]
    assert index.numbers(np.zeros(1, np.int64)).tolist() == [7]
