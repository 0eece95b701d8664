"""Ids into stored form: the quick way and the careful one agree; forms of a series."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.store import series_tags
from coordinator.store.series import SeriesIndex, stored_form, stored_forms
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


def columns(ids: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = np.array([len(one) for one in ids], np.int64)
    return np.frombuffer(bytearray(b"".join(ids)) or bytearray(1), np.uint8), np.cumsum(sizes) - sizes, sizes


@given(st.lists(ids | mangled | st.binary(max_size=30), max_size=8), st.booleans(), st.booleans())
def test_many_at_once_equal_each_alone(many: list[bytes], duplicates: bool, empty: bool) -> None:
    options = {"allow_duplicates": duplicates, "allow_empty_value": empty}
    forms = stored_forms(*columns(many), **options)
    for row, data in enumerate(many):
        expected = careful(data, **options)
        if isinstance(expected, str):
            assert forms.errors[row] == expected
        else:
            assert row not in forms.errors
            assert forms.buf[forms.at[row] : forms.at[row] + forms.size[row]].tobytes() == expected[0]
    assert list(forms.errors) == sorted(forms.errors)


def test_an_id_of_very_many_tags() -> None:
    tags = [(b"t%04d" % (i * 7919 % 1000), b"v%d" % i) for i in range(1000)]
    forms = stored_forms(
        *columns([encode_tags(tags[:128]), encode_tags(tags)]), allow_duplicates=False, allow_empty_value=False
    )
    assert forms.buf[forms.at[0] : forms.at[0] + forms.size[0]].tobytes() == encode_tags(sorted(tags[:128]))
    assert forms.buf[forms.at[1] : forms.at[1] + forms.size[1]].tobytes() == encode_tags(sorted(tags))


def entered(index: SeriesIndex, ids: list[bytes], most: int = 100) -> list[int]:
    forms = stored_forms(*columns(ids), allow_duplicates=False, allow_empty_value=False)
    return index.enter(forms, np.arange(len(ids)), most, 1000 + len(index), 5).tolist()


def test_series_are_entered_once() -> None:
    index = SeriesIndex()
    a, b, c, d = (encode_tags([(b"a", value), (b"b", b"1")]) for value in (b"1", b"2", b"3", b"4"))
    a_as_it_comes = encode_tags([(b"b", b"1"), (b"a", b"1")]) + b".suffix"
    assert entered(index, [a, b, a_as_it_comes, b]) == [0, 1, 0, 1]
    assert entered(index, [c, a, d], most=3) == [2, 0, -1]
    assert len(index) == 3
    numbers, ids = index.new_ids(1, 3)
    assert (numbers.tolist(), ids) == ([1001, 1002], [b, c])
    kept = index.without(np.array([1]))
    assert [kept.tags(entry) for entry in range(2)] == [[(b"a", b"1"), (b"b", b"1")], [(b"a", b"3"), (b"b", b"1")]]
    assert kept.numbers(np.arange(2)).tolist() == [1000, 1002]
    assert kept.unseen_since(6).tolist() == [0, 1]
    assert kept.unseen_since(5).tolist() == []
    assert entered(kept, [a, b]) == [0, 2]


def test_forms_are_forgotten_when_there_are_far_more_of_them_than_series() -> None:
    index = SeriesIndex()
    series_id = encode_tags([(b"a", b"1")])
    index.load([series_id], [7], 0)
    forms = [series_id + b".%d" % i for i in range(70_000)]
    for first in range(0, len(forms), 10_000):
        index.remember(*columns(forms[first : first + 10_000]), np.zeros(10_000, np.int64))

    def find(form: bytes) -> int:
        buf = np.frombuffer(bytearray(form), np.uint8)
        return int(index.find(buf, np.zeros(1, np.int64), np.array([len(form)], np.int64))[0][0])

    assert (find(forms[0]), find(forms[-1])) == (-1, 0)
    assert index.size_bytes < 30_000_000
    assert index.numbers(np.zeros(1, np.int64)).tolist() == [7]
