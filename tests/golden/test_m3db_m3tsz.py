"""Streams of points, as M3's encoder writes and its reader reads them."""

import zlib
from base64 import b64decode
from struct import pack, unpack
from typing import Any

import pytest
from tests.golden.vectors import Vector, cases, from_bits, lines

from m3db.m3tsz import EncodeError, Encoder, StreamEnd, StreamError, Unit, decode, joined, read_points

UNITS = {unit.short: int(unit) for unit in Unit} | {"none": 0, "": 99}
"""By the texts of the vectors; 99 is no unit at all."""
ERRORS = {StreamEnd.MARKER: "", StreamEnd.TRUNCATED: "EOF"}
Row = tuple[int, int, int, bytes]


def double(written: Any) -> float:
    return from_bits(written.removeprefix("bits:")) if isinstance(written, str) else float(written)


def row_of(time_ns: int, value: Any, unit: str, annotation: str = "") -> Row:
    return time_ns, unpack(">Q", pack(">d", double(value)))[0], UNITS[unit], b64decode(annotation)


def expected_of(vector: Vector) -> tuple[list[Row], str]:
    rows = vector["input"] if vector.get("decoded_same_as_input") else vector["decoded"]
    return [row_of(*row) for row in rows], vector.get("decode_error", "")


@pytest.mark.parametrize("vector", [case for case in cases("m3db/m3tsz.jsonl", "name") if "input" in case.values[0]])
def test_encoder(vector: Vector) -> None:
    encoder = Encoder(vector["start"])
    error = None
    for number, (time_ns, value, unit, *annotation) in enumerate(vector["input"]):
        try:
            encoder.add(time_ns, double(value), UNITS[unit], b64decode(*annotation or [""]))
        except EncodeError as raised:
            error = [number, str(raised)]
            break
    assert error == vector.get("encode_error")
    head, tail = encoder.segment()
    assert head + tail == b64decode(vector["stream"])
    assert len(head) == vector["head_len"]
    assert zlib.adler32(encoder.stream()) == vector["adler32"]


@pytest.mark.parametrize("vector", cases("m3db/m3tsz.jsonl", "name"))
def test_plain_reader(vector: Vector) -> None:
    rows: list[Row] = []
    end = StreamEnd.MARKER
    try:
        rows.extend(tuple(point) for point in read_points(b64decode(vector["stream"])))
    except StreamError as error:
        end = error.end
    assert (rows, ERRORS[end]) == expected_of(vector)


def test_compiled_reader() -> None:
    vectors = list(lines("m3db/m3tsz.jsonl"))
    arena, at, size = joined([b64decode(vector["stream"]) for vector in vectors])
    points = decode(arena, at, size)
    annotations = {int(row): points.annotation(note, arena) for note, row in enumerate(points.notes[:, 0])}
    columns = zip(points.time_ns.tolist(), points.bits.tolist(), points.unit.tolist(), strict=True)
    rows = [(*row, annotations.get(number, b"")) for number, row in enumerate(columns)]
    begin = 0
    for vector, stop, end in zip(vectors, points.stops.tolist(), points.ends.tolist(), strict=True):
        assert (rows[begin:stop], ERRORS[StreamEnd(end)]) == expected_of(vector), vector["name"]
        begin = stop
