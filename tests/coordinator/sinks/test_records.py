"""Records: what was encoded is read back, in every table, and what is missing costs no neighbour."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.coordinator.sinks.batches import LONG, SHORT, Row, batch_of, rows_of

from coordinator.sinks.annotations import Annotations
from coordinator.sinks.records import (
    _HEADER,
    Encoder,
    Interner,
    RecordError,
    RecordVersionError,
    decode,
    header_of,
)
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import UNAGGREGATED, Destination, TimeUnit, Values

IN_SECONDS = Destination(None, TimeUnit.SECONDS)
_ROWS = st.builds(
    Row,
    st.binary(min_size=0, max_size=20),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.sampled_from([SHORT, LONG, UNAGGREGATED, IN_SECONDS]),
    st.one_of(st.just(b""), st.binary(max_size=20)),
)
_BATCHES = st.lists(st.lists(_ROWS, min_size=1, max_size=12), min_size=1, max_size=8)


def _data(parts: list[bytes | np.ndarray]) -> memoryview:
    return memoryview(b"".join(bytes(part) if isinstance(part, bytes) else part.tobytes() for part in parts))


def _encode(encoder: Encoder, batch: Values, first: int = 0) -> memoryview:
    return _data(encoder.encode(batch, first, 5))


@given(_BATCHES, st.integers(0, 8), st.integers(0, 8))
def test_what_was_encoded_is_read(batches: list[list[Row]], new_segment: int, new_table: int) -> None:
    table, encoder = SeriesTable(), Encoder()
    encoder.begin_segment()
    read_into = SeriesTable()
    read_into.numbers(np.frombuffer(bytearray(b"another"), np.uint8), np.zeros(1, np.int64), np.array([7]))
    interner = Interner(read_into)
    first = 0
    for k, rows in enumerate(batches):
        if k == new_table:
            table = SeriesTable()
        if k == new_segment:
            encoder.begin_segment()
            interner = Interner(read_into)
        record = decode(_data(encoder.encode(batch_of(table, rows), first, 1_000 + k, answered=k % 2 == 1)))
        assert (record.header.first, record.header.rows, record.header.at_ns) == (first, len(rows), 1_000 + k)
        assert record.header.answered == (k % 2 == 1)
        assert rows_of(interner.values(record)) == rows
        first += len(rows)


def test_a_known_value_has_20_bytes_or_22() -> None:
    table, encoder = SeriesTable(), Encoder()
    encoder.begin_segment()
    one = batch_of(table, [Row(b"%0150d" % i, i) for i in range(1000)])
    two = batch_of(table, [Row(b"%0150d" % i, i, 1.0, SHORT if i % 2 else LONG) for i in range(1000)])
    _encode(encoder, one)
    assert len(_encode(encoder, one)) == 40 + 1000 * 20
    _encode(encoder, two)
    assert len(_encode(encoder, two)) == 40 + 1000 * 22


@pytest.mark.parametrize(
    ("texts", "bytes_each"), [(1, 0), (2, 1), (256, 1), (257, 2), (1 << 16, 2), ((1 << 16) + 1, 4)]
)
def test_annotations_cost_a_byte_a_value_where_they_differ(texts: int, bytes_each: int) -> None:
    rows = 1 << 17
    table, encoder = SeriesTable(), Encoder()
    encoder.begin_segment()
    batch = batch_of(table, [Row(b"a", 1)] * rows)
    _encode(encoder, batch)
    plain = len(_encode(encoder, batch))
    some = tuple(b"%d" % k for k in range(texts))
    # Those that no value has are left out.
    batch.annotations = Annotations((*some, b"unused"), (np.arange(rows) % texts).astype(np.uint32))
    data = _encode(encoder, batch)
    assert len(data) == plain + 8 + 4 * texts + sum(map(len, some)) + rows * bytes_each
    found = decode(data)
    assert found.annotations is not None
    assert found.annotations.texts == some
    assert np.array_equal(found.annotations.column, batch.annotations.column)


def test_the_bits_of_nan_are_kept() -> None:
    stale = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
    table, encoder = SeriesTable(), Encoder()
    encoder.begin_segment()
    found = Interner(SeriesTable()).values(
        decode(_encode(encoder, batch_of(table, [Row(b"a", 1, stale), Row(b"a", 2, math.nan)])))
    )
    assert found.values.view(np.uint64).tolist() == [0x7FF0000000000002, 0x7FF8000000000000]


def test_rows_whose_definition_is_missing_are_left_out_and_no_others() -> None:
    table, encoder = SeriesTable(), Encoder()
    encoder.begin_segment()
    first = [Row(b"a", 1)]
    missing = [Row(b"b", 2, 1.0, LONG)]
    last = [Row(b"a", 3), Row(b"b", 4), Row(b"c", 5), Row(b"a", 6, 1.0, LONG), Row(b"a", 7, 1.0, UNAGGREGATED)]
    records = [decode(_encode(encoder, batch_of(table, rows))) for rows in (first, missing, last)]
    interner = Interner(SeriesTable())
    assert rows_of(interner.values(records[0])) == first
    assert rows_of(interner.values(records[2])) == [last[0], last[2], last[4]]
    assert rows_of(Interner(SeriesTable()).values(records[2])) == []


def test_records_that_claim_more_destinations_than_numbers_can_name_are_read() -> None:
    table, encoder = SeriesTable(), Encoder()
    encoder.begin_segment()
    data = _encode(encoder, batch_of(table, [Row(b"a", 1), Row(b"b", 2, 1.0, LONG)]))
    fields = list(_HEADER.unpack_from(data))
    fields[8] = 0xFFFF  # known_destinations
    interner = Interner(SeriesTable())
    interner.learn(decode(_HEADER.pack(*fields) + data[_HEADER.size :]))
    # Its numbers mean others now: what it says is somewhere, and no error.
    assert len(interner.values(decode(data))) <= 2


def test_definitions_alone() -> None:
    table, encoder = SeriesTable(), Encoder()
    encoder.begin_segment()
    rows = [Row(b"a", 1), Row(b"b", 2, 1.0, LONG)]
    data = _encode(encoder, batch_of(table, rows)), _encode(encoder, batch_of(table, rows))
    interner = Interner(SeriesTable())
    assert len(interner.values(decode(data[0], definitions_only=True))) == 0
    assert rows_of(interner.values(decode(data[1]))) == rows


def test_another_version_is_said() -> None:
    encoder = Encoder()
    encoder.begin_segment()
    data = bytearray(_encode(encoder, batch_of(SeriesTable(), [Row(b"a", 1)])))
    data[0] = 3
    with pytest.raises(RecordVersionError, match="format version 3, this release reads version 2 and before"):
        header_of(memoryview(data))


@pytest.mark.parametrize("size", [0, 39, 40, 60, 83])
def test_bytes_that_are_no_record_are_said(size: int) -> None:
    encoder = Encoder()
    encoder.begin_segment()
    data = _encode(encoder, batch_of(SeriesTable(), [Row(b"a", 1)]))
    with pytest.raises(RecordError, match="bytes"):
        decode(data[:size])


def test_annotations_that_cannot_be_are_said() -> None:
    encoder = Encoder()
    encoder.begin_segment()
    rows = [Row(b"a", 1, annotation=b"one"), Row(b"a", 2, annotation=b"two")]
    data = bytearray(_encode(encoder, batch_of(SeriesTable(), rows)))
    for size in range(len(data)):
        with pytest.raises(RecordError):
            decode(memoryview(data)[:size])
    data[-1] = 2
    with pytest.raises(RecordError, match="annotation 2 of a record that has 2"):
        decode(memoryview(data))
