"""Where the families of messages differ on the wire: one test per row of the table in ``m3x.protobuf``.

``metrics`` are the messages that M3's gogo code reads (``m3metrics.codec``), ``cluster`` those of the KV and the admin API
(``m3cluster.proto``), ``m3msg`` the frames (``m3msg.frames``).
"""

import struct
from typing import Any

import numpy as np
import pytest

from coordinator import prompb
from coordinator.write import kernels as write_kernels
from m3cluster.proto import DecodeError, Enum, decode, encode
from m3cluster.proto import Field as ClusterField
from m3cluster.proto import Kind as ClusterKind
from m3cluster.proto import Message as ClusterMessage
from m3metrics.codec.messages import AGGREGATED_METRIC, BATCH_TIMER, METRIC_WITH_METADATAS, STORAGE_POLICY, TIMED_METRIC
from m3metrics.errors import UnmarshalError
from m3metrics.kernels import decode_aggregated
from m3metrics.rows import AGGREGATED_ROW, ROW_OK
from m3msg.frames import FrameError, Metadata, decode_message
from m3msg.kernels import scan_frames
from m3msg.rows import FRAME_ROW, MAX_FRAME, SCAN_MORE
from m3x.protobuf import Field, Kind, generated, marshal, unmarshal, varint

INNER = ClusterMessage("t.Inner", (ClusterField(1, "n", ClusterKind.INT64), ClusterField(2, "s", ClusterKind.STRING)))
OUTER = ClusterMessage(
    "t.Outer",
    (
        ClusterField(1, "number", ClusterKind.UINT32),
        ClusterField(2, "inner", ClusterKind.MESSAGE, INNER),
        ClusterField(3, "ratios", ClusterKind.DOUBLE, repeated=True),
        ClusterField(4, "colour", ClusterKind.ENUM, Enum("t.Colour", {"RED": 0})),
        ClusterField(5, "packed", ClusterKind.INT32, repeated=True),
        ClusterField(6, "by_name", ClusterKind.MESSAGE, INNER, map_key=ClusterKind.STRING),
    ),
)
MAPS = generated("t.Maps", Field(6, "by_name", Kind.MESSAGE, generated("t.Inner"), map_key=Kind.STRING))
ONE = struct.pack("<d", 1.0)
TENTH_2 = b"\x85" + b"\x80" * 8 + b"\x02"
"""5 in ten bytes, the last of which has a bit beyond the 64th."""


def metrics(data: bytes | str) -> Any:
    """What a TimedMetric is, or the text of the error."""
    try:
        return unmarshal(TIMED_METRIC, bytes.fromhex(data) if isinstance(data, str) else data)
    except UnmarshalError as error:
        return str(error)


def cluster(data: bytes | str) -> Any:
    """What is set in a ``t.Outer``, or the text of the error."""
    try:
        value = decode(OUTER, bytes.fromhex(data) if isinstance(data, str) else data)
    except DecodeError as error:
        return str(error)
    return {name: item for name, item in value.items() if item not in (None, 0, [], {})}


def m3msg(data: bytes | str) -> Any:
    """What a ``msgpb.Message`` is, or ``FrameError``."""
    try:
        return decode_message(bytes.fromhex(data) if isinstance(data, str) else data)
    except FrameError:
        return FrameError


def test_the_tenth_byte_of_a_varint_keeps_the_low_64_bits() -> None:
    assert metrics(b"\x08" + TENTH_2) == {"type": 5}
    assert cluster(b"\x08" + TENTH_2) == {"number": 5}
    assert m3msg(b"\x0a\x0b\x08" + TENTH_2)[0] == Metadata(5)


def test_an_eleventh_byte_overflows() -> None:
    long = b"\x08" + b"\xff" * 10 + b"\x01"
    assert metrics(long) == "proto: integer overflow"
    assert cluster(long) == "cannot read t.Outer: proto: integer overflow (varint longer than 10 bytes at byte 11)"
    assert m3msg(b"\x0a\x0c" + long) is FrameError


@pytest.mark.parametrize(
    ("data", "metric", "detail"),
    [
        ("08", "unexpected EOF", "truncated at byte 1"),
        ("80", "unexpected EOF", "truncated at byte 1"),
        ("1203 61", "unexpected EOF", "field 2 has 3 bytes, 1 are left"),
        ("7905", "unexpected EOF", "field 15 has 8 bytes, 1 are left"),
        ("7d05", "unexpected EOF", "field 15 has 4 bytes, 1 are left"),
    ],
)
def test_truncation(data: str, metric: str, detail: str) -> None:
    assert metrics(data) == metric
    assert cluster(data) == f"cannot read t.Outer: unexpected EOF ({detail})"
    assert m3msg(data) is FrameError


def test_positions_in_errors_count_from_the_start_of_the_innermost_message() -> None:
    assert cluster("0801 1202 08ff") == "cannot read t.Inner: unexpected EOF (truncated at byte 2)"
    assert cluster("0801 1203 1205 61") == "cannot read t.Inner: unexpected EOF (field 2 has 5 bytes, 1 are left)"
    assert cluster("0801 2a02 01ff") == "cannot read t.Outer: unexpected EOF (truncated at byte 2)"
    assert cluster("3204 0a01 61 12") == "cannot read t.Outer: unexpected EOF (truncated at byte 4)"


def test_a_length_beyond_63_bits_is_negative_or_merely_too_long() -> None:
    text = "proto: negative length found during unmarshaling"
    assert metrics(b"\x12" + varint(-1)) == text
    assert metrics(b"\x7a" + varint(-1)) == text
    left = f"(field 2 has {2**64 - 1} bytes, 0 are left)"
    assert cluster(b"\x12" + varint(-1)) == f"cannot read t.Outer: unexpected EOF {left}"
    assert m3msg(b"\x12" + varint(-1)) is FrameError


def test_unknown_groups_are_skipped_or_illegal() -> None:
    assert metrics("7b 7801 7b 7c 7c 0801") == {"type": 1}
    assert m3msg("7b 7801 7b 7c 7c 120161").value == b"a"
    assert cluster("7b 7801 7c 0801") == "cannot read t.Outer: proto: illegal wireType 3 (field 15, before byte 1)"


def test_the_end_of_a_group_that_was_not_begun() -> None:
    assert metrics("7c") == "proto: TimedMetric: wiretype end group for non-group"
    assert metrics("04") == "proto: TimedMetric: wiretype end group for non-group"
    assert cluster("7c") == "cannot read t.Outer: proto: illegal wireType 4 (field 15, before byte 1)"
    assert cluster("04") == "cannot read t.Outer: proto: Outer: illegal tag 0 (wire type 4) (before byte 1)"
    assert m3msg("7c") is FrameError


def test_a_group_without_end() -> None:
    assert metrics("7b 7801") == "unexpected EOF"
    assert m3msg("7b 7801") is FrameError


def test_field_number_0() -> None:
    assert metrics("0001") == "proto: TimedMetric: illegal tag 0 (wire type 0)"
    assert metrics("07") == "proto: TimedMetric: illegal tag 0 (wire type 7)"
    assert cluster("0001") == "cannot read t.Outer: proto: Outer: illegal tag 0 (wire type 0) (before byte 1)"
    assert cluster("07") == "cannot read t.Outer: proto: Outer: illegal tag 0 (wire type 7) (before byte 1)"
    assert m3msg("0001") is FrameError


def test_field_numbers_are_32_bits_of_the_tag_or_all_and_below_2_to_29() -> None:
    wrapped = varint((1 << 32 | 1) << 3) + b"\x05"
    assert metrics(wrapped) == {"type": 5}
    assert m3msg(varint((1 << 32 | 2) << 3 | 2) + b"\x01a").value == b"a"
    number = (1 << 32) | 1
    assert cluster(wrapped) == f"cannot read t.Outer: proto: Outer: illegal tag {number} (wire type 0) (before byte 6)"
    large = varint(1 << 29 << 3) + b"\x05"
    assert metrics(large) == {}
    assert cluster(large) == (f"cannot read t.Outer: proto: Outer: illegal tag {1 << 29} (wire type 0) (before byte 5)")
    negative = varint(1 << 31 << 3) + b"\x05"
    assert metrics(negative) == f"proto: TimedMetric: illegal tag {-(1 << 31)} (wire type {1 << 34})"
    assert m3msg(negative) is FrameError


def test_a_wrong_wire_type_is_seen_before_or_behind_the_content() -> None:
    assert metrics("0a05") == "proto: wrong wireType = 2 for field Type"
    assert metrics("1a00") == "proto: wrong wireType = 2 for field TimeNanos"
    assert cluster("0a00") == "cannot read t.Outer: proto: wrong wireType = 2 for field Number"
    assert cluster("0a05") == "cannot read t.Outer: unexpected EOF (field 1 has 5 bytes, 0 are left)"
    assert cluster("3005") == "cannot read t.Outer: proto: wrong wireType = 0 for field ByName"
    assert m3msg("0801") is FrameError


def test_known_fields_of_no_wire_type() -> None:
    assert metrics("0e") == "proto: wrong wireType = 6 for field Type"
    assert metrics("0b") == "proto: wrong wireType = 3 for field Type"
    assert metrics("7e") == "proto: illegal wireType 6"
    assert cluster("0e") == "cannot read t.Outer: proto: illegal wireType 6 (field 1, before byte 1)"
    assert cluster("0b") == "cannot read t.Outer: proto: illegal wireType 3 (field 1, before byte 1)"


def test_a_message_field_that_occurs_again_merges_or_replaces() -> None:
    assert unmarshal(STORAGE_POLICY, bytes.fromhex("0a020805 0a021007"))["resolution"] == {
        "window_size": 5,
        "precision": 7,
    }
    assert m3msg("0a020805 0a021007 120161")[0] == Metadata(5, 7)
    assert cluster("12020805 1203120161") == {"inner": {"n": 0, "s": "a"}}


def test_scalars_and_bytes_that_occur_again_replace() -> None:
    assert metrics("0801 0802 120161 120162") == {"type": 2, "id": b"b"}
    assert cluster("0801 0802") == {"number": 2}
    assert m3msg("120161 120162").value == b"b"


def test_unknown_fields_are_skipped_and_not_kept() -> None:
    unknown = bytes.fromhex("f807 01 fa07 02 6162 fd07 01020304 f907 0102030405060708")
    assert marshal(TIMED_METRIC, metrics(unknown + b"\x08\x01" + unknown)) == b"\x08\x01"
    assert encode(OUTER, cluster(unknown + b"\x08\x01" + unknown)) == b"\x08\x01"
    assert m3msg(unknown + b"\x12\x01a") == (Metadata(), b"a")


def test_absent_fields_are_absent_or_have_their_defaults() -> None:
    assert metrics("") == {}
    assert decode(OUTER, b"") == OUTER.defaults()
    assert OUTER.defaults() == {"number": 0, "inner": None, "ratios": [], "colour": 0, "packed": [], "by_name": {}}


def test_absent_messages_are_written_by_value_or_not_at_all() -> None:
    assert marshal(AGGREGATED_METRIC, {}) == bytes.fromhex("0a0a 0a00 1204 0a00 1200 1a00")
    assert marshal(METRIC_WITH_METADATAS, {}) == b""
    assert encode(OUTER, {}) == b""
    assert encode(OUTER, {"inner": {}}) == b"\x12\x00"


def test_a_packed_run_of_doubles_that_does_not_divide_by_eight() -> None:
    assert unmarshal(BATCH_TIMER, b"\x12\x01" + ONE)["values"] == [1.0]
    assert cluster(b"\x1a\x01" + ONE) == "cannot read t.Outer: unexpected EOF (packed field ratios)"


def test_a_map_entry_without_its_message() -> None:
    assert unmarshal(MAPS, bytes.fromhex("32 03 0a 01 61")) == {"by_name": {"a": None}}
    assert cluster("32 03 0a 01 61") == {"by_name": {"a": None}}


def test_the_wire_type_of_a_key() -> None:
    assert unmarshal(MAPS, bytes.fromhex("32 03 08 01 61")) == {"by_name": {"a": None}}
    assert cluster("32 03 08 01 61") == "cannot read t.Outer: proto: wrong wireType = 0 for field ByName"


def test_numbers_beyond_their_type_are_cut_or_refused_on_writing() -> None:
    assert marshal(TIMED_METRIC, {"type": 1 << 33}) == b"\x08" + varint(1 << 33)
    assert marshal(TIMED_METRIC, {"time_nanos": (1 << 64) + 5}) == b"\x18\x05"
    with pytest.raises(ValueError, match=r"^number: 4294967296 is outside 0\.\.4294967295$"):
        encode(OUTER, {"number": 1 << 32})


def test_numbers_beyond_their_type_are_cut_on_reading() -> None:
    assert metrics(b"\x08" + varint((1 << 32) + 3)) == {"type": 3}
    assert cluster(b"\x08" + varint((1 << 32) + 3)) == {"number": 3}
    assert cluster(b"\x20" + varint((1 << 32) + 3)) == {"colour": 3}


def test_both_zeros_are_left_out_and_nan_is_not() -> None:
    nan = struct.pack("<d", float("nan"))
    for value, encoded in ((0.0, b""), (-0.0, b""), (float("nan"), b"\x21" + nan)):
        assert marshal(TIMED_METRIC, {"value": value}) == encoded
    inner = ClusterMessage("t.Ratio", (ClusterField(1, "ratio", ClusterKind.DOUBLE),))
    for value, encoded in ((0.0, b""), (-0.0, b""), (float("nan"), b"\x09" + nan)):
        assert encode(inner, {"ratio": value}) == encoded


def test_text_must_be_utf_8_and_bytes_may_be_anything() -> None:
    assert metrics("1201ff") == {"id": b"\xff"}
    assert cluster("12031201ff").startswith("cannot read t.Inner: field s is not UTF-8 (")


def test_the_tenth_byte_in_compiled_readers() -> None:
    payload = b"\x0a\x0b\x08" + TENTH_2
    frame = np.frombuffer(len(payload).to_bytes(4, "big") + payload, np.uint8)
    rows = np.zeros(1, FRAME_ROW)
    assert scan_frames(frame, 0, len(frame), MAX_FRAME, rows) == (1, len(frame), SCAN_MORE)
    assert rows[0]["shard"] == 5

    timed = b"\x0a\x0b\x18" + TENTH_2 + b"\x12\x00"
    message = b"\x0a" + bytes([len(timed)]) + timed
    metric = np.zeros(1, AGGREGATED_ROW)
    decode_aggregated(np.frombuffer(message, np.uint8), np.zeros(1, int), np.array([len(message)]), 1, metric)
    assert unmarshal(AGGREGATED_METRIC, message)["metric"]["timed_metric"] == {"time_nanos": 5}
    assert (metric[0]["status"], metric[0]["time_ns"]) == (ROW_OK, 5)

    sample = b"\x10" + TENTH_2
    series = b"\x12" + bytes([len(sample)]) + sample
    body = b"\x0a" + bytes([len(series)]) + series
    rows, times, values = np.zeros(1, write_kernels.SERIES_ROW), np.zeros(1, np.int64), np.zeros(1)
    others = np.zeros(write_kernels.OTHERS, np.int64)
    status, _, _ = write_kernels.request(np.frombuffer(body, np.uint8), rows, times, values, others)
    assert prompb.decode(body) == [{"samples": [{"timestamp": 5}]}]
    assert (status, times[0]) == (write_kernels.DONE, 5)
