"""Arguments and results of calls to nodes, byte for byte as M3's generated Thrift code has them."""

import re
from struct import pack
from typing import Any

import pytest
from tests.golden.m3db_structs import ALL_METHODS
from tests.golden.vectors import Vector, cases, from_bits, raw

from m3db.thrift import Kind, ListOf, MapOf, Struct, StructValue, Type, marshal, unmarshal

HEX = {"annotation", "encodedTags", "query", "head", "tail"}
"""Binary fields that the vectors write in hex; the others are text."""
PARTS = re.compile(r"conjunction\((.*)\)$|not (.*)$|term (\w+)=(\w+)$|field (\w+)$|(all)$")


def of_text(text: str) -> StructValue:
    """A query as the vectors describe it."""
    parts = PARTS.match(text)
    assert parts is not None, text
    inner, negated, name, term, field, _ = parts.groups()
    if inner is not None:
        return {"conjunction": {"queries": [of_text(part) for part in inner.split(", ")]}}
    if negated is not None:
        return {"negation": {"query": of_text(negated)}}
    if name is not None:
        return {"term": {"field": name.encode(), "term": term.encode()}}
    return {"all": {}} if field is None else {"field": {"field": field.encode()}}


def value_of(of: Type, name: str, written: Any) -> Any:
    """What the vectors write for a value, as the codec has it."""
    if isinstance(of, Struct):
        if isinstance(written, str) and name == "query":
            return of_text(written)
        if not isinstance(written, dict):  # a struct is written as the list of its values, or as the only one
            names = [field.name for field in of.fields]
            written = dict(zip(names, written if len(names) > 1 else [written], strict=True))
        known = {field.name: field.type for field in of.fields}
        return {key: value_of(known[key], key, value) for key, value in written.items()}
    if isinstance(of, ListOf):
        return [value_of(of.element, name, item) for item in written]
    if isinstance(of, MapOf):
        return {raw(key): raw(value) for key, value in written.items()}
    if of is Kind.BINARY:
        return bytes.fromhex(written) if name in HEX else raw(written)
    if of is Kind.DOUBLE:
        return from_bits(written.removeprefix("bits:")) if isinstance(written, str) else float(written)
    return written


def content(vector: Vector) -> tuple[Struct, StructValue]:
    """The struct of a vector, and what it holds."""
    method = ALL_METHODS[vector["method"]]
    fields = vector["fields"]
    if vector["part"] == "result":
        return method.result, value_of(method.result, "", fields)
    return method.args, value_of(method.args, "", {"req": fields} if method.request is not None else fields)


def exact(value: Any) -> Any:
    """The same with doubles as their bits, which can be compared."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return pack(">d", value) if isinstance(value, float) else value


@pytest.mark.parametrize("vector", cases("m3db/thrift.jsonl", "name"))
def test_structs_are_written_as_m3_writes_them(vector: Vector) -> None:
    struct, values = content(vector)
    assert marshal(struct, values).hex() == vector["hex"]


@pytest.mark.parametrize("vector", cases("m3db/thrift.jsonl", "name"))
def test_structs_are_read_as_m3_reads_them(vector: Vector) -> None:
    struct, values = content(vector)
    read = unmarshal(struct, bytes.fromhex(vector["hex"]))
    assert exact(read) == exact(values)
    assert marshal(struct, read).hex() == vector["hex"]
