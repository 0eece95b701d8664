"""Protobuf's odd corners, as M3's generated code takes them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3metrics.codec.messages import BATCH_TIMER, METRIC_WITH_METADATAS, STORAGE_POLICY, TIMED_METRIC
from m3metrics.errors import UnmarshalError
from m3x.protobuf import DecodeError, Field, Kind, generated, marshal, read_varint, unmarshal, varint

ONE = struct.pack("<d", 1.0)


@given(st.integers(-(2**63), 2**64 - 1))
def test_varint_round_trip(value: int) -> None:
    data = varint(value)
    assert read_varint(data, 0, len(data)) == (value % 2**64, len(data))
    assert len(data) <= 10


@given(st.binary(max_size=80))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        values = unmarshal(METRIC_WITH_METADATAS, data)
    except UnmarshalError:
        return
    assert unmarshal(METRIC_WITH_METADATAS, marshal(METRIC_WITH_METADATAS, values)).get("type", 0) == values.get(
        "type", 0
    )


def test_packed_and_unpacked_doubles_mix() -> None:
    assert unmarshal(BATCH_TIMER, b"\x11" + ONE + b"\x12\x08" + ONE + b"\x11" + ONE)["values"] == [1.0, 1.0, 1.0]


def test_a_packed_run_of_odd_size_is_read_on() -> None:
    assert unmarshal(BATCH_TIMER, b"\x12\x01" + ONE)["values"] == [1.0]
    with pytest.raises(UnmarshalError, match="unexpected EOF"):
        unmarshal(BATCH_TIMER, b"\x12\x01\x00")


def test_sub_messages_merge_and_scalars_replace() -> None:
    twice = b"\x0a\x02\x08\x05" + b"\x0a\x02\x10\x07" + b"\x12\x02\x08\x01" + b"\x12\x02\x08\x02"
    assert unmarshal(STORAGE_POLICY, twice) == {
        "resolution": {"window_size": 5, "precision": 7},
        "retention": {"period": 2},
    }


def test_narrow_fields_drop_high_bits() -> None:
    assert unmarshal(TIMED_METRIC, b"\x08" + varint(2**32 + 3))["type"] == 3
    assert unmarshal(TIMED_METRIC, b"\x08" + varint(-1))["type"] == -1


@pytest.mark.parametrize(
    "unknown",
    [
        b"\x78\x01",
        b"\x79" + bytes(8),
        b"\x7d" + bytes(4),
        b"\x7a\x02ab",
        b"\x7b\x78\x01\x7b\x7c\x7c",
        b"\x7b" * 5000 + b"\x7c" * 5000,
    ],
    ids=["varint", "fixed64", "fixed32", "bytes", "group", "deep groups"],
)
def test_unknown_fields_are_skipped(unknown: bytes) -> None:
    assert unmarshal(TIMED_METRIC, unknown + b"\x08\x01") == {"type": 1}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x00", "proto: TimedMetric: illegal tag 0 (wire type 0)"),
        (b"\x0c", "proto: TimedMetric: wiretype end group for non-group"),
        (b"\x0a\x00", "proto: wrong wireType = 2 for field Type"),
        (b"\x1a\x00", "proto: wrong wireType = 2 for field TimeNanos"),
        (b"\x7e", "proto: illegal wireType 6"),
        (b"\x08" + b"\xff" * 10, "proto: integer overflow"),
        (b"\x12" + varint(-1), "proto: negative length found during unmarshaling"),
        (b"\x7a" + varint(-1), "proto: negative length found during unmarshaling"),
        (b"\x12\x05abc", "unexpected EOF"),
        (b"\x21\x00", "unexpected EOF"),
        (b"\x79\x00", "unexpected EOF"),
        (b"\x7b\x78\x01", "unexpected EOF"),
        (b"\x80", "unexpected EOF"),
    ],
)
def test_errors(data: bytes, text: str) -> None:
    with pytest.raises(UnmarshalError) as caught:
        unmarshal(TIMED_METRIC, data)
    assert str(caught.value) == text


def test_zero_is_left_out_and_messages_are_not() -> None:
    assert marshal(TIMED_METRIC, {"type": 0, "id": b"", "value": -0.0}) == b""
    assert marshal(STORAGE_POLICY, {}) == b"\x0a\x00\x12\x00"
    assert marshal(METRIC_WITH_METADATAS, {"counter_with_metadatas": {}}) == b"\x12\x04\x0a\x00\x12\x00"
    assert marshal(METRIC_WITH_METADATAS, {}) == b""


INNER = generated("t.Inner", Field(1, "n", Kind.INT64))
MAPS = generated(
    "t.Maps",
    Field(1, "by_name", Kind.MESSAGE, INNER, map_key=Kind.STRING),
    Field(2, "counts", Kind.INT64, map_key=Kind.INT64),
)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("0a 07 0a 01 61 12 02 08 05", {"by_name": {"a": {"n": 5}}}),
        # Without a value, without a key, empty.
        ("0a 03 0a 01 61", {"by_name": {"a": None}}),
        ("0a 04 12 02 08 05", {"by_name": {"": {"n": 5}}}),
        ("0a 00", {"by_name": {"": None}}),
        ("12 00", {"counts": {0: 0}}),
        # The wire types of key and value are not looked at.
        ("0a 03 08 01 61", {"by_name": {"a": None}}),
        ("12 04 0a 03 15 07", {"counts": {3: 7}}),
        # A key that is no text.
        ("0a 03 0a 01 ff", {"by_name": {"\udcff": None}}),
        # What is neither is skipped.
        ("0a 05 18 01 0a 01 61", {"by_name": {"a": None}}),
        # The key reaches beyond its entry.
        ("0a 02 0a 02 12 00", {"by_name": {"\x12\x00": None}, "counts": {0: 0}}),
        ("0a 02 08 01", "unexpected EOF"),
        ("0a 02 18 80", "unexpected EOF"),
        ("0a 01 18 00", "unexpected EOF"),
        ("0a 0b 0a ff ff ff ff ff ff ff ff ff 01", "proto: negative length found during unmarshaling"),
    ],
)  # fmt: skip
def test_maps(data, value):
    """As Go's generated code reads the same bytes."""
    try:
        found = unmarshal(MAPS, bytes.fromhex(data))
    except DecodeError as error:
        found = error.reason
    assert found == value
