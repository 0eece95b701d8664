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
from coordinator.sinks.prom_remote.label_kernels import MOST_ORDERS, PLACE_KEPT, PLACE_ORDER
from coordinator.sinks.prom_remote.labels import LabelCache, LabelFields, LabelRules, label_fields, labels_of, why_bad
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import Values
from m3metrics.errors import IdError
from m3metrics.ids import coordinator_id, encode_tags
from m3metrics.tag_kernels import MOST_TAGS
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
    assert (labels.forms["place"][:5000] == PLACE_ORDER).all()
    assert labels.size_bytes < 5000 * 20


def test_orders_of_tags_are_shared_and_bounded() -> None:
    chance = random.Random(7)
    table, labels = SeriesTable(), LabelFields(LabelRules())
    tags = [(b"l%d" % i, b"%d" % i) for i in range(7)]
    ids = [coordinator_id([(b"__name__", b"m%d" % i), *tags[: i % 7]], "gauge") for i in range(200)]
    batch = values_of([(data, 0.0, 0) for data in ids], table)
    assert not len(labels.require(table, batch.series))
    assert len(np.unique(labels.forms["place"][:200])) == 7
    assert not labels.any_kept
    # As many orders again as there is room for: the last ones are kept as label fields.
    shuffled = [encode_tags([(b"a", b"%d" % i), *chance.sample(tags, 7)]) for i in range(2 * MOST_ORDERS)]
    more = values_of([(data, 0.0, 0) for data in shuffled], table)
    assert not len(labels.require(table, more.series))
    places = labels.forms["place"][: len(table)]
    assert len(np.unique(places[places < PLACE_KEPT])) == MOST_ORDERS
    assert (places >= PLACE_KEPT).sum() > MOST_ORDERS // 2
    for one in (batch, more):
        for row in range(len(one)):
            assert written(one, row, labels) == label_fields(table.id(int(one.series[row])), LabelRules())


def test_series_are_found_by_their_label_fields() -> None:
    table, labels = SeriesTable(), LabelFields(LabelRules())
    orders = ([0, 1, 2], [2, 0, 1], [1, 2, 0])
    tags = [(b"__name__", b"m"), (b"a", b"y"), (b"b", b"x")]
    ids = [encode_tags([tags[i] for i in order]) for order in orders]
    odd = encode_tags([(b"t%02d" % i, b"x") for i in range(MOST_TAGS + 1)])
    batch = values_of([(data, 0.0, 0) for data in [*ids, odd, encode_tags([*tags[:2], (b"b", b"z")])]], table)
    assert not len(labels.require(table, batch.series))
    assert labels.any_kept
    found = [labels.rows_of(label_fields(data, LabelRules()), table, batch.series).tolist() for data in (ids[1], odd)]
    assert found == [[0, 1, 2], [3]]
    other = label_fields(encode_tags([*tags[:2], (b"c", b"x")]), LabelRules())
    assert labels.rows_of(other, table, batch.series).tolist() == []


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
