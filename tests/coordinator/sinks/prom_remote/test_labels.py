"""Label fields of ids: the kernel against the plain code."""

import gc
import random
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.coordinator.sinks.prom_remote.batches import T0_NS, id_of, values_of

from coordinator.sinks.prom_remote.encoding import Encoder
from coordinator.sinks.prom_remote.label_kernels import PLACE_ID, PLACE_KEPT
from coordinator.sinks.prom_remote.labels import LabelCache, LabelFields, LabelRules, label_fields, labels_of, why_bad
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import Values
from m3metrics.errors import IdError
from m3metrics.ids import encode_tags
from m3x.protobuf import varint

RENAMED = LabelRules(metric_name=b"name", bucket_name=b"b")
RULES = [
    LabelRules(),
    LabelRules(keep_scheme=True),
    LabelRules(allow_duplicates=True, allow_empty_values=True),
    RENAMED,
    LabelRules(metric_name=b"m" * 40),
]

literals = st.sampled_from(
    [b"__name__", b"name", b"b", b"le", b"__option_id_scheme__", b"graphite", b"a", b"zz", b"\xff"]
)
names = literals | st.binary(min_size=1, max_size=40)
values = literals | st.binary(max_size=200) | st.just(b"v" * 300)
tag_sets = st.lists(st.tuples(names, values), max_size=8)


def made(data: bytes, rules: LabelRules) -> bytes | None:
    """What ``LabelFields`` makes of an id; None: it cannot be stored."""
    batch = values_of([(data, 0.0, 0)])
    labels = LabelFields(rules)
    bad = labels.require(batch.table, batch.series)
    if len(bad):
        with pytest.raises(IdError) as caught:
            labels_of(data, rules)
        assert why_bad(data, rules) == str(caught.value)
        return None
    return written(batch, 0, labels)


def written(batch: Values, row: int, labels: LabelFields) -> bytes:
    """The label fields in a request for that row, which has neither time nor value."""
    request = bytes(Encoder().request(batch, np.array([row]), labels))
    size = int(labels.forms[batch.series[row]]["size"])
    begin, end = b"\x0a" + varint(size + 2), b"\x12\x00"
    assert (request[: len(begin)], request[-2:], len(request)) == (begin, end, len(begin) + size + 2)
    return request[len(begin) : -2]


def expected(data: bytes, rules: LabelRules) -> bytes | None:
    """As the plain code."""
    try:
        return label_fields(data, rules)
    except IdError:
        return None


@given(tag_sets, st.sampled_from(RULES))
def test_the_kernel_makes_what_the_plain_code_makes(tags: list[tuple[bytes, bytes]], rules: LabelRules) -> None:
    data = encode_tags(tags)
    assert made(data, rules) == expected(data, rules)


@given(tag_sets, st.sampled_from(RULES), st.randoms(use_true_random=False))
def test_mutated_ids_are_judged_alike(
    tags: list[tuple[bytes, bytes]], rules: LabelRules, chance: random.Random
) -> None:
    data = bytearray(encode_tags(tags))
    for _ in range(chance.randint(0, 3)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    cut = bytes(data[: chance.randint(0, len(data))])
    assert made(cut, rules) == expected(cut, rules)


def test_labels_are_sorted_by_the_bytes_of_their_names() -> None:
    data = encode_tags([(f"__g{i}__".encode(), b"x") for i in range(12)] + [(b"__option_id_scheme__", b"graphite")])
    assert [name for name, _ in labels_of(data, LabelRules())] == sorted(f"__g{i}__".encode() for i in range(12))
    assert made(data, LabelRules()) == label_fields(data, LabelRules())
    assert made(data, LabelRules(keep_scheme=True)) != made(data, LabelRules())


def test_names_of_tag_options_are_called_as_prometheus_calls_them() -> None:
    data = encode_tags([(b"b", b"0.5"), (b"name", b"requests"), (b"zone", b"x")])
    assert labels_of(data, RENAMED) == [(b"__name__", b"requests"), (b"le", b"0.5"), (b"zone", b"x")]
    assert made(data, RENAMED) == label_fields(data, RENAMED)


def test_labels_are_made_once_and_only_for_those_asked_for() -> None:
    table = SeriesTable()
    batch = values_of([(id_of(f"m{i}", host="h" * 50), 0.0, 0) for i in range(5000)], table)
    labels = LabelFields(LabelRules())
    assert not len(labels.require(table, batch.series[:10]))
    assert np.count_nonzero(labels.forms["place"]) == 10
    first = labels.forms[:10].copy()
    labels.require(batch.table, batch.series)
    assert (labels.forms[:10] == first).all()
    for row in (0, 4999):
        assert written(batch, row, labels) == label_fields(table.id(row), LabelRules())
    assert (labels.forms["place"][:5000] == PLACE_ID).all()
    assert labels.size_bytes < 5000 * 20


def test_label_fields_that_are_not_the_tags_of_the_id_as_they_stand_are_kept() -> None:
    table = SeriesTable()
    ids = [encode_tags([(b"__name__", b"m"), (b"b", b"x" * i), (b"a", b"y")]) for i in range(1, 300)]
    batch = values_of([(data, 0.0, 0) for data in [id_of("m", a="y", b="x"), *ids]], table)
    labels = LabelFields(LabelRules())
    assert not len(labels.require(table, batch.series))
    assert labels.forms["place"][0] == PLACE_ID
    assert (labels.forms["place"][1:300] >= PLACE_KEPT).all()
    for row in range(300):
        assert written(batch, row, labels) == label_fields(table.id(row), LabelRules())
    # The first two ids have the same labels in another order.
    everything = np.arange(300, dtype=np.uint32)
    assert labels.rows_of(label_fields(ids[0], LabelRules()), table, everything).tolist() == [0, 1]
    assert labels.rows_of(label_fields(ids[-1], LabelRules()), table, everything).tolist() == [299]
    assert labels.rows_of(label_fields(id_of("n", a="y", b="x"), LabelRules()), table, everything).tolist() == []


def test_labels_end_with_their_table() -> None:
    cache, table = LabelCache(LabelRules()), SeriesTable()
    labels = cache.of(table)
    assert cache.of(table) is labels
    assert cache.of(SeriesTable()) is not labels
    labels.require(table, values_of([(id_of("a"), 1.0, T0_NS)], table).series)
    gone = weakref.ref(labels)
    del labels, table
    gc.collect()
    assert gone() is None
