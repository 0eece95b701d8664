"""The plain codec of Thrift structs."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3db.errors import NodeError, ThriftError
from m3db.thrift import METHODS, Field, Kind, ListOf, MapOf, Struct, marshal, unmarshal
from m3db.thrift.plain import MAX_DEPTH

INNER = Struct("Inner", (Field(1, "n", Kind.I64, True), Field(2, "m", Kind.I16, default=7)))
CHAIN = Struct("Chain", (Field(1, "next", lambda: CHAIN),))
ALL = Struct(
    "All",
    (
        Field(1, "flag", Kind.BOOL),
        Field(2, "byte", Kind.BYTE),
        Field(3, "double", Kind.DOUBLE),
        Field(4, "short", Kind.I16),
        Field(5, "int", Kind.I32),
        Field(6, "long", Kind.I64),
        Field(7, "data", Kind.BINARY),
        Field(8, "inner", INNER),
        Field(9, "map", MapOf(Kind.BINARY, Kind.I32)),
        Field(10, "list", ListOf(INNER)),
        Field(11, "lists", ListOf(ListOf(Kind.BOOL))),
    ),
)
NOTHING = Struct("Nothing")


def ints(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


inners = st.fixed_dictionaries({"n": ints(64), "m": ints(16)})
values = st.fixed_dictionaries(
    {},
    optional={
        "flag": st.booleans(),
        "byte": ints(8),
        "double": st.floats(allow_nan=False),
        "short": ints(16),
        "int": ints(32),
        "long": ints(64),
        "data": st.binary(),
        "inner": inners,
        "map": st.dictionaries(st.binary(max_size=5), ints(32), max_size=4),
        "list": st.lists(inners, max_size=4),
        "lists": st.lists(st.lists(st.booleans(), max_size=3), max_size=3),
    },
)


@given(values)
def test_there_and_back(value: dict[str, Any]) -> None:
    data = marshal(ALL, value)
    assert unmarshal(ALL, data) == value
    assert unmarshal(NOTHING, data) == {}  # every type can be skipped


@given(values)
def test_every_cut_is_refused(value: dict[str, Any]) -> None:
    data = marshal(ALL, value)
    for end in range(len(data)):
        for struct in (ALL, NOTHING):
            with pytest.raises(ThriftError):
                unmarshal(struct, data[:end])
    with pytest.raises(ThriftError, match="bytes behind its end"):
        unmarshal(ALL, data + b"\0")


@given(values, st.randoms(use_true_random=False))
def test_broken_bytes_are_read_or_refused(value: dict[str, Any], chance: random.Random) -> None:
    data = bytearray(marshal(ALL, value))
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    for struct in (ALL, NOTHING):
        try:
            unmarshal(struct, bytes(data))
        except ThriftError:
            continue


def test_a_field_of_another_type_is_unknown() -> None:
    other = Struct("Other", (Field(1, "n", Kind.BINARY),))
    data = marshal(other, {"n": b"abc"})
    with pytest.raises(ThriftError, match="required field n of Inner is not set"):
        unmarshal(INNER, data)
    assert unmarshal(Struct("Loose", (Field(1, "n", Kind.I64),)), data) == {}


def test_defaults_are_not_written() -> None:
    assert marshal(INNER, {"n": 1, "m": 7}) == marshal(INNER, {"n": 1})
    assert unmarshal(INNER, marshal(INNER, {"n": 1})) == {"n": 1, "m": 7}


def test_what_cannot_be_written() -> None:
    for value in ({}, {"n": None}, {"n": 1 << 63}, {"n": b"x"}, {"n": "1"}):
        with pytest.raises(ThriftError, match="cannot write Inner"):
            marshal(INNER, value)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0f\x00\x0a\x0c\x7f\xff\xff\xff",  # a known list, an unknown one, a map, more bytes than there are
        b"\x0f\x00\x63\x02\x7f\xff\xff\xff",
        b"\x0f\x00\x0a\x0c\xff\xff\xff\xff",
        b"\x0d\x00\x09\x0b\x08\x7f\xff\xff\xff",
        b"\x0d\x00\x63\x0b\x08\xff\xff\xff\xff",
        b"\x0b\x00\x07\x7f\xff\xff\xff",
        b"\x0b\x00\x07\xff\xff\xff\xff",
        b"\x01\x00\x63\x00",
    ],
)
def test_what_is_announced_but_not_there_takes_no_memory(data: bytes) -> None:
    with pytest.raises(ThriftError):
        unmarshal(ALL, data + b"\0" * 20)


def test_nesting_is_bounded() -> None:
    deep = b"\x0c\x00\x01" * MAX_DEPTH + b"\0" * (MAX_DEPTH + 1)
    assert unmarshal(CHAIN, deep)
    assert unmarshal(NOTHING, deep) == {}
    deeper = b"\x0c\x00\x01" * 5000 + b"\0" * 5001
    for struct in (CHAIN, NOTHING):
        with pytest.raises(ThriftError, match="deep"):
            unmarshal(struct, deeper)


def test_outcomes_of_a_method() -> None:
    health, written = METHODS["health"], METHODS["bootstrapped"]
    assert health.body() == b"\0"
    good = {"ok": True, "status": b"up", "bootstrapped": False}
    assert health.outcome(marshal(health.result, {"success": good})) == good
    failed = marshal(health.result, {"err": {"type": 1, "message": b"limit \xff", "flags": 5}})
    with pytest.raises(NodeError, match=r"limit \\xff") as caught:
        health.outcome(failed)
    assert caught.value.bad_request
    assert caught.value.flags == 1
    with pytest.raises(ThriftError, match="neither a result nor an error"):
        health.outcome(b"\0")
    assert written.outcome(marshal(written.result, {"success": {}})) == {}
