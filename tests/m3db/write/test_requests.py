"""Frames of batch writes: the kernel against the plain codec."""

import struct
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.m3db.node import Calls as Received
from tests.m3db.write.series import Point, id_of, rows_of

from m3db.connection import MessageIds
from m3db.tchannel import Call
from m3db.tchannel.frames import MAX_FRAME_BYTES
from m3db.thrift import unmarshal
from m3db.write import WriteRows, encode_calls
from m3db.write.requests import WRITE
from m3metrics.ids import decode_tags, encode_tags

points = st.builds(
    Point,
    st.sampled_from([id_of("a"), id_of("b", host="x" * 40), id_of("c", long="y" * 9000), id_of("d", odd='"é')]),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.sampled_from([b"default", b"agg", b"agg_1m"]),
    st.integers(0, 3),
    st.sampled_from([b"", b"\x01\x02", b"z" * 300]),
)


def plain_calls(rows: WriteRows, order: list[int], first_id: int, ttl_ms: int, most: int) -> list[bytes]:
    """The frames of each call, written by the plain code: rows of a namespace together, in their order."""
    by_namespace = defaultdict(list)
    for row in order:
        by_namespace[int(rows.namespace[row])].append(row)
    calls = []
    for number, found in sorted(by_namespace.items()):
        for at in range(0, len(found), most):
            elements = []
            for row in found[at : at + most]:
                form = rows.forms.form(int(rows.series[row]))
                datapoint = {
                    "timestamp": int(rows.timestamp[row]),
                    "value": float(rows.values[row]),
                    "annotation": rows.annotations[rows.annotation[row]] or None,
                    "timestampTimeType": int(rows.time_type[row]),
                }
                elements.append({"id": form.id, "encodedTags": form.encoded_tags, "datapoint": datapoint})
            body = WRITE.body({"nameSpace": rows.namespaces[number], "elements": elements})
            calls.append(Call(first_id + len(calls), b"writeTaggedBatchRaw", body, ttl_ms).frames())
    return calls


def check(rows: WriteRows, order: list[int] | None, most: int) -> None:
    ids = MessageIds(7)
    picked = None if order is None else np.array(order, np.int64)
    calls = encode_calls(rows, picked, ids.reserve, 1234, most_elements=most)
    wanted = plain_calls(rows, list(range(len(rows))) if order is None else order, 7, 1234, most)
    assert len(calls) == len(wanted)
    assert calls.first_id == 7
    assert ids.reserve(1) == 7 + len(wanted)
    for number, frames in enumerate(wanted):
        assert calls.frames[calls.at[number] : calls.at[number + 1]] == frames
    assert calls.at[-1] == len(calls.frames)
    for number, call in enumerate(Received().feed(bytes(calls.frames))):
        request = unmarshal(WRITE.args, call.body)["req"]
        assert len(request["elements"]) == len(calls.rows_of((number,)))
        for row, element in zip(calls.rows_of((number,)), request["elements"], strict=True):
            assert request["nameSpace"] == rows.namespaces[rows.namespace[row]]
            assert element["id"] == rows.forms.form(int(rows.series[row])).id
            assert element["datapoint"]["timestamp"] == rows.timestamp[row]
            assert encode_tags(decode_tags(element["encodedTags"])) == element["encodedTags"]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.data())
def test_rows_and_sizes_of_any_calls(count: int, most: int, data: st.DataObject) -> None:
    rows = rows_of([Point(id_of("a" * (1 + number)), namespace=b"xy"[number % 2 :][:1]) for number in range(count)])
    calls = encode_calls(rows, None, MessageIds().reserve, 1, most_elements=most)
    numbers = st.integers(0, len(calls) - 1)
    runs = st.tuples(numbers, numbers).map(lambda ends: range(min(ends), max(ends) + 1))
    for chosen in data.draw(st.lists(runs | st.lists(numbers, min_size=1, max_size=8), min_size=1, max_size=4)):
        assert calls.rows_of(chosen).tolist() == [row for number in chosen for row in calls.rows_of([number]).tolist()]
        frames = [calls.frames[calls.at[number] : calls.at[number + 1]] for number in chosen]
        assert calls.size_of(chosen) == sum(map(len, frames))


@settings(deadline=None)
@given(st.lists(points, min_size=1, max_size=40), st.integers(1, 20), st.data())
def test_frames_are_those_of_the_plain_code(given_points: list[Point], most: int, data: st.DataObject) -> None:
    rows = rows_of(given_points)
    check(rows, None, most)
    check(rows, data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=60)), most)


def two_points(size: int) -> WriteRows:
    """Points whose call has ``size`` bytes without the begin of a continuation."""

    def sized(more: int) -> WriteRows:
        namespace = b"n" * (1 + more % 2)
        return rows_of(
            [Point(id_of("a", y="y" * (5000 + more // 2)), namespace=namespace), Point(id_of("b"), namespace=namespace)]
        )

    return sized(size - len(encode_calls(sized(0), None, MessageIds().reserve, 1).frames))


@pytest.mark.parametrize("more", range(-10, 150))
def test_calls_that_end_around_the_end_of_a_frame(more: int) -> None:
    """The frame is full, or a byte more or less, behind the second element, inside it, behind the first, and inside the bytes that end
    the structs."""
    rows = two_points(MAX_FRAME_BYTES + more)
    calls = encode_calls(rows, None, MessageIds().reserve, 1)
    assert len(calls.frames) == MAX_FRAME_BYTES + more + (20 if more > 0 else 0)
    check(rows, None, 2)


@pytest.mark.parametrize("size", [65_000, 130_000, 300_000])
def test_elements_longer_than_a_frame(size: int) -> None:
    tags = [(b"t%d" % number, b"v" * 60_000) for number in range(size // 60_000)]
    check(rows_of([Point(id_of("a")), Point(encode_tags(tags)), Point(id_of("b"))]), None, 10)


def test_values_keep_their_bits() -> None:
    bits = [0x7FF8000000000001, 0x7FF0000000000002, 0x8000000000000000, 0xFFF0000000000000, 0x3FF8000000000000]
    rows = rows_of([Point(id_of("a"))] * len(bits))
    rows.values = np.array(bits, np.uint64).view(np.float64)
    body = Received().feed(bytes(encode_calls(rows, None, MessageIds().reserve, 1).frames))[0].body
    elements = unmarshal(WRITE.args, body)["req"]["elements"]
    for wanted, element in zip(bits, elements, strict=True):
        assert struct.pack(">Q", wanted) in body
        assert struct.pack(">d", element["datapoint"]["value"]) == struct.pack(">Q", wanted)


def test_seconds_and_empty_annotations_are_not_written() -> None:
    rows = rows_of([Point(id_of("a"))])
    body = Received().feed(bytes(encode_calls(rows, None, MessageIds().reserve, 1).frames))[0].body
    assert body.endswith(b"\x04\x00\x02" + struct.pack(">d", 1.0) + bytes(4))


def test_nothing_to_write_is_no_call() -> None:
    rows = rows_of([Point(id_of("a"))])
    calls = encode_calls(rows, np.empty(0, np.int64), MessageIds().reserve, 1)
    assert len(calls) == 0
    assert len(calls.frames) == 0


def test_what_is_refused() -> None:
    reserve = MessageIds().reserve
    for change in (
        {"series": np.array([1], np.uint32)},
        {"series": np.array([1 << 20], np.uint32)},
        {"namespace": np.array([1], np.uint16)},
        {"annotation": np.array([1], np.uint16)},
        {"namespaces": (b"",)},
        {"namespaces": (b"n" * 5000,)},
    ):
        rows = rows_of([Point(id_of("a"))])
        for name, value in change.items():
            setattr(rows, name, value)
        with pytest.raises(ValueError, match="a row with|a namespace of"):
            encode_calls(rows, None, reserve, 1)
    with pytest.raises(ValueError, match="a time to live of 0 ms"):
        encode_calls(rows_of([Point(id_of("a"))]), None, reserve, 0)
    assert reserve(1) == 2


def test_columns_of_any_layout() -> None:
    rows = rows_of([Point(id_of(f"m{number}"), timestamp=number) for number in range(10)])
    wanted = encode_calls(rows, np.arange(0, 10, 2), MessageIds().reserve, 1).frames
    even = WriteRows(
        rows.forms,
        rows.series[::2],
        rows.namespaces,
        rows.namespace[::2],
        np.frombuffer(rows.timestamp[::2].tobytes(), np.int64),
        rows.time_type[::2],
        rows.values[::2],
        rows.annotations,
        rows.annotation[::2],
    )
    assert encode_calls(even, None, MessageIds().reserve, 1).frames == wanted
