"""Types of families out of annotations."""

from collections.abc import Sequence

import numpy as np
import pytest

from coordinator.prompb import METADATA_REQUEST
from coordinator.sinks.metric_types import MetricTypes
from coordinator.sinks.series import SeriesTable
from m3metrics.ids import encode_tags
from m3x.protobuf import marshal

COUNTER, GAUGE, HISTOGRAM, GAUGE_HISTOGRAM, SUMMARY, INFO = 1, 2, 3, 4, 5, 6


def id_of(name: str, **tags: str) -> bytes:
    pairs = [(b"__name__", name.encode()), *((key.encode(), value.encode()) for key, value in tags.items())]
    return encode_tags(sorted(pairs))


def note(types: MetricTypes, table: SeriesTable, rows: Sequence[tuple[bytes, bytes]]) -> None:
    """Values with these ids and annotations."""
    sizes = np.array([[len(data) for data in row] for row in rows], np.int64)
    ends = np.cumsum(sizes.ravel()).reshape(sizes.shape)
    buf = np.frombuffer(bytearray(b"".join(data for row in rows for data in row)), np.uint8)
    (id_at, annotation_at), (id_size, annotation_size) = (ends - sizes).T.copy(), sizes.T.copy()
    series = table.numbers(buf, id_at, id_size)
    types.note(table, series, buf, (id_at, id_size), (annotation_at, annotation_size))


def record(family: str, kind: int) -> bytes:
    """Field 3 of a ``WriteRequest``: a ``MetricMetadata`` with its fields 1 and 2."""
    name = family.encode()
    return bytes([0x1A, len(name) + 4, 0x08, kind, 0x12, len(name)]) + name


def test_each_family_once_and_again_when_it_changes() -> None:
    types, table = MetricTypes(), SeriesTable()
    counter, gauge = b"\x08\x01\x10\x01", b"\x08\x02"
    rows = [(id_of("a", h="1"), counter), (id_of("a", h="2"), counter), (id_of("b"), gauge), (id_of("c"), b"")]
    note(types, table, rows)
    assert types.records() == [record("a", COUNTER), record("b", GAUGE)]
    known = types.version
    note(types, table, [*rows, (id_of("a", h="3"), counter)])
    assert types.version == known
    assert types.records(known) == []
    note(types, table, [(id_of("b"), b"\x08\x06"), (id_of("d"), gauge)])
    assert types.records(known) == [record("b", INFO), record("d", GAUGE)]
    assert types.records() == [record("a", COUNTER), record("b", INFO), record("d", GAUGE)]


def test_another_table_of_series_says_nothing_new() -> None:
    types = MetricTypes()
    note(types, SeriesTable(), [(id_of("a"), b"\x08\x01"), (id_of("b"), b"\x08\x02")])
    known, other = types.version, SeriesTable()
    note(types, other, [(id_of("b"), b"\x08\x02"), (id_of("a"), b"\x08\x01")])
    assert types.version == known
    note(types, other, [(id_of("b"), b"\x08\x01")])
    assert types.records(known) == [record("b", COUNTER)]


@pytest.mark.parametrize(
    ("kind", "names", "family"),
    [
        (HISTOGRAM, ("h_bucket", "h_count", "h_sum"), "h"),
        (GAUGE_HISTOGRAM, ("h_bucket", "h_gcount", "h_gsum"), "h"),
        (SUMMARY, ("s_sum", "s_count", "s"), "s"),
        (SUMMARY, ("s_bucket",), "s_bucket"),
        (COUNTER, ("requests_total",), "requests_total"),
        (GAUGE, ("a_count",), "a_count"),
        (HISTOGRAM, ("_sum",), "_sum"),
    ],
)
def test_a_family_is_called_what_its_series_have_in_common(kind: int, names: tuple[str, ...], family: str) -> None:
    types = MetricTypes()
    note(types, SeriesTable(), [(id_of(name, le="1"), bytes([8, kind])) for name in names])
    assert types.records() == [record(family, kind)]
    assert types.version == 1


def test_what_says_no_type_or_has_no_name() -> None:
    types = MetricTypes()
    whole = id_of("a", h="1")
    note(types, SeriesTable(), [
        (id_of("graphite"), b"\x18\x01\x20\x01"), (id_of("resets"), b"\x10\x01"), (id_of("short"), b"\x08"),
        (id_of("later"), b"\x08\x08"), (id_of("long"), b"\x08\x81\x00"), (encode_tags([(b"h", b"1")]), b"\x08\x01"),
        (b"plain", b"\x08\x01"), (b"", b"\x08\x01"), (id_of("n" * 513), b"\x08\x01"),
        *((whole[:size], b"\x08\x01") for size in range(len(encode_tags([(b"__name__", b"a")])))),
    ])  # fmt: skip
    assert types.records() == []
    assert types.version == 0


def test_the_tag_with_the_name_is_that_of_the_configuration() -> None:
    types = MetricTypes(b"__n")
    note(types, SeriesTable(), [(encode_tags([(b"__n", b"a"), (b"__name__", b"b")]), b"\x08\x01")])
    assert types.records() == [record("a", COUNTER)]


def test_names_beyond_the_bound_are_not_noted() -> None:
    types, table = MetricTypes(most_names=300), SeriesTable()
    for first in (0, 200, 400):
        note(types, table, [(id_of(f"m{i}"), b"\x08\x02") for i in range(first, first + 200)])
    assert types.records() == [record(f"m{i}", GAUGE) for i in range(300)]
    note(types, table, [(id_of("m0"), b"\x08\x01"), (id_of("m599"), b"\x08\x01")])
    assert types.records(300) == [record("m0", COUNTER)]


def described(types: MetricTypes, table: SeriesTable, name: str) -> tuple[int, bytes, bytes]:
    """Type, help and unit of the series of that name without other labels."""
    data = np.frombuffer(bytearray(id_of(name)), np.uint8)
    number = int(table.numbers(data, np.zeros(1, np.int64), np.array([len(data)], np.int64))[0])
    known = types.of(table)
    name_number = int(known.names[number])
    return int(known.types[number]), known.texts[known.helps[name_number]], known.texts[known.units[name_number]]


def test_what_is_declared_of_a_family_is_told_of_all_of_its_series() -> None:
    types, table = MetricTypes(), SeriesTable()
    types.declare(b"took_seconds", b"How long it took.", b"seconds")
    names = ("took_seconds_bucket", "took_seconds_sum", "b")
    note(types, table, [(id_of(names[0]), b"\x08\x03"), (id_of(names[1]), b"\x08\x03"), (id_of("b"), b"\x08\x02")])
    assert [described(types, table, name) for name in names] == [
        (HISTOGRAM, b"How long it took.", b"seconds"), (HISTOGRAM, b"How long it took.", b"seconds"), (GAUGE, b"", b""),
    ]  # fmt: skip
    known = types.version
    request = {
        "type": HISTOGRAM,
        "metric_family_name": b"took_seconds",
        "help": b"How long it took.",
        "unit": b"seconds",
    }
    assert types.records() == [marshal(METADATA_REQUEST, {"metadata": [request]}), record("b", GAUGE)]
    # Again, otherwise, and of one that is known.
    types.declare(b"took_seconds", b"How long it took.", b"seconds")
    assert types.version == known
    types.declare(b"took_seconds", b"Longer.", b"")
    types.declare(b"b", b"What it is.", b"")
    types.declare(b"unknown", b"Nobody has seen it.", b"")
    assert [described(types, table, name)[1:] for name in names] == [
        (b"Longer.", b""),
        (b"Longer.", b""),
        (b"What it is.", b""),
    ]
    assert len(types.records(known)) == 2
    # Whose type is another one belongs to another family.
    note(types, table, [(id_of(names[0]), b"\x08\x02")])
    types.declare(b"took_seconds", b"Longest.", b"")
    assert [described(types, table, name)[1] for name in names[:2]] == [b"", b"Longest."]


def test_what_is_declared_is_bounded_and_survives_growth() -> None:
    types, table = MetricTypes(most_names=600), SeriesTable()
    for i in range(700):
        types.declare(b"m%d" % i, b"Help %d." % i, b"")
    note(types, table, [(id_of(f"m{i}"), b"\x08\x01") for i in range(700)])
    assert [described(types, table, f"m{i}")[1] for i in (0, 255, 256, 599)] == [
        b"Help %d." % i for i in (0, 255, 256, 599)
    ]
    assert described(types, table, "m600") == (COUNTER, b"", b"")
