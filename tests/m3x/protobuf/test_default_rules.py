"""Messages of the KV and the admin API, as Go's generated code lays them out."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3x.protobuf import DecodeError, Enum, Field, Kind, Message
from m3x.protobuf import marshal as encode
from m3x.protobuf import unmarshal as decode

COLOUR = Enum("t.Colour", {"RED": 0, "BLUE": 1})
INNER = Message("t.Inner", (Field(1, "n", Kind.INT64), Field(2, "s", Kind.STRING)))
OUTER = Message(
    "t.Outer",
    (
        Field(9, "last", Kind.BOOL),
        Field(1, "number", Kind.UINT32),
        Field(2, "inner", Kind.MESSAGE, INNER),
        Field(3, "many", Kind.MESSAGE, INNER, repeated=True),
        Field(4, "by_name", Kind.MESSAGE, INNER, map_key=Kind.STRING),
        Field(5, "counts", Kind.INT64, map_key=Kind.INT32),
        Field(6, "packed", Kind.INT32, repeated=True),
        Field(7, "ratio", Kind.DOUBLE),
        Field(8, "colour", Kind.ENUM, COLOUR),
        Field(10, "raw", Kind.BYTES),
        Field(11, "words", Kind.STRING, repeated=True),
        Field(12, "ratios", Kind.DOUBLE, repeated=True),
    ),
)

int32s = st.integers(-(1 << 31), (1 << 31) - 1)
int64s = st.integers(-(1 << 63), (1 << 63) - 1)
inners = st.fixed_dictionaries({"n": int64s, "s": st.text()})
outers = st.fixed_dictionaries(
    {
        "last": st.booleans(),
        "number": st.integers(0, (1 << 32) - 1),
        "inner": st.none() | inners,
        "many": st.lists(inners, max_size=3),
        "by_name": st.dictionaries(st.text(max_size=5), inners, max_size=3),
        "counts": st.dictionaries(int32s, int64s, max_size=3),
        "packed": st.lists(int32s, max_size=4),
        "ratio": st.floats(allow_nan=False),
        "colour": int32s,
        "raw": st.binary(),
        "words": st.lists(st.text(), max_size=3),
        "ratios": st.lists(st.floats(allow_nan=False), max_size=3),
    }
)


@given(outers)
def test_what_is_written_is_read_back(value):
    assert decode(OUTER, encode(OUTER, value)) == value


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_decode_error(data):
    try:
        decode(OUTER, data)
    except DecodeError as error:
        assert "t." in str(error)
        assert error.reason


@given(outers, st.data())
def test_damaged_messages_do_not_raise_anything_else(value, data):
    encoded = encode(OUTER, value)
    cut = data.draw(st.integers(0, len(encoded)))
    flip = data.draw(st.integers(0, 255))
    damaged = encoded[:cut] + bytes([flip]) + encoded[cut + 1 :]
    with contextlib.suppress(DecodeError):
        decode(OUTER, damaged)


def test_the_layout_is_that_of_gos_generated_code():
    value = {
        "last": True,
        "number": 300,
        "inner": {},
        "by_name": {"b": {}, "a": {"n": -1}},
        "counts": {0: 0},
        "packed": [1, -1],
    }
    assert encode(OUTER, value).hex(" ") == (
        "08 ac 02 "  # number
        "12 00 "  # an empty message that is present
        "22 10 0a 01 61 12 0b 08 ff ff ff ff ff ff ff ff ff 01 "  # by_name, in order of key
        "22 05 0a 01 62 12 00 "
        "2a 04 08 00 10 00 "  # key and value of a map entry are always there
        "32 0b 01 ff ff ff ff ff ff ff ff ff 01 "  # packed
        "48 01"
    )


def test_absent_fields_have_defaults_and_zero_bytes_are_a_message():
    assert decode(OUTER, b"") == OUTER.defaults()
    assert OUTER.defaults()["inner"] is None


def test_unknown_fields_of_every_wire_type_are_skipped():
    unknown = (
        bytes.fromhex("a001 ac02")
        + bytes.fromhex("a901")
        + bytes(8)
        + bytes.fromhex("b201 03 616263")
        + bytes.fromhex("bd01")
        + bytes(4)
    )
    assert decode(OUTER, unknown + b"\x08\x05" + unknown)["number"] == 5


def test_repeated_numbers_are_read_packed_or_not():
    assert decode(OUTER, bytes.fromhex("30 01 32 02 02 03 30 04"))["packed"] == [1, 2, 3, 4]


def test_a_map_entry_without_value_has_the_zero_value_which_is_none_for_a_message():
    assert decode(OUTER, bytes.fromhex("22 03 0a 01 61"))["by_name"] == {"a": None}
    assert decode(OUTER, bytes.fromhex("2a 00"))["counts"] == {0: 0}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("ffff", "unexpected EOF"),
        ("08", "unexpected EOF"),
        ("1205", "unexpected EOF"),
        ("0a00", "proto: wrong wireType = 2 for field Number"),
        ("1000", "proto: wrong wireType = 0 for field Inner"),
        ("2000", "proto: wrong wireType = 0 for field ByName"),
        ("08ffffffffffffffffffff01", "proto: integer overflow"),
        ("00", "proto: Outer: illegal tag 0 (wire type 0)"),
        ("0b", "proto: illegal wireType 3"),
        ("1203 1201 ff", "field s is not UTF-8"),
        ("39 0000", "unexpected EOF"),
        ("6203 000000", "unexpected EOF"),
    ],
)
def test_errors_say_what_go_says(data, reason):
    with pytest.raises(DecodeError) as raised:
        decode(OUTER, bytes.fromhex(data))
    assert raised.value.reason == reason
    assert reason in str(raised.value)


def test_numbers_outside_their_type_are_refused_on_writing():
    with pytest.raises(ValueError, match="number: -1 is outside"):
        encode(OUTER, {"number": -1})


def test_a_message_within_itself_ends():
    node = Message("t.Node", ())
    object.__setattr__(node, "by_number", {1: Field(1, "next", Kind.MESSAGE, node)})
    data = b""
    for _ in range(40):
        data = b"\x0a" + bytes([len(data)]) + data
    with pytest.raises(DecodeError, match="too deeply"):
        decode(node, data)
