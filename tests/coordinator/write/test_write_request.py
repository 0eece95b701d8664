"""The compiled decoder of WriteRequest against the plain one."""

import struct
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import prompb
from coordinator.write import kernels
from m3x.protobuf import DecodeError, marshal, varint


def _compiled(body: bytes) -> tuple[int, list[dict[str, Any]]]:
    """Status and what the columns say, in the plain decoder's shape; ``labels``: bytes, None where they had to be read and are broken."""
    buf = np.frombuffer(bytearray(body) or bytearray(1), np.uint8)[: len(body)]
    series = np.zeros(len(body) + 1, kernels.SERIES_ROW)
    times, values = np.zeros(len(body) + 1, np.int64), np.zeros(len(body) + 1, np.float64)
    status, rows, used = kernels.request(buf, series, times, values, np.zeros(kernels.OTHERS, np.int64))
    result = []
    for row in series[:rows]:
        at, size = int(row["message_at"]), int(row["message_size"])
        message = body[at : at + size]
        labels_at, labels_size = int(row["labels_at"]), int(row["labels_size"])
        labels = _gathered(message) if row["scattered"] else body[labels_at : labels_at + labels_size]
        begin, count = int(row["sample_from"]), int(row["samples"])
        result.append(
            {
                "labels": labels,
                "samples": [(struct.pack("<d", values[k]), int(times[k])) for k in range(begin, begin + count)],
                "types": (int(row["m3_type"]), int(row["source"]), int(row["prom_type"])),
            }
        )
    assert sum(len(one["samples"]) for one in result) == used or status != kernels.DONE
    return status, result


def _gathered(message: bytes) -> bytes | None:
    try:
        return prompb.label_fields(message)
    except DecodeError:
        return None


def _plain(body: bytes) -> list[dict[str, Any]]:
    return [
        {
            "labels": [(label.get("name", b""), label.get("value", b"")) for label in one.get("labels", [])],
            "samples": [
                (struct.pack("<d", s.get("value", 0.0)), s.get("timestamp", 0)) for s in one.get("samples", [])
            ],
            "types": (one.get("m3_type", 0), one.get("source", 0), one.get("type", 0)),
        }
        for one in prompb.decode(body)
    ]


def _judge(body: bytes) -> None:
    status, compiled = _compiled(body)
    try:
        plain = _plain(body)
    except DecodeError:
        if status == kernels.DONE:
            # Labels are looked into only when a series is new.
            key_at = np.zeros(1, np.uint32)
            broken = False
            for one in compiled:
                if one["labels"] is None:
                    broken = True
                    continue
                labels = np.frombuffer(bytearray(one["labels"]) or bytearray(1), np.uint8)
                size = np.array([len(one["labels"])], np.uint32)
                broken |= kernels.check_labels(labels, key_at, size, np.zeros(1, np.int64), 65535)[0] != 0
            assert broken
        return
    assert status == kernels.DONE
    for one in compiled:
        one["labels"] = prompb.labels_of(one["labels"])
    assert compiled == plain


def test_decode_what_clients_write() -> None:
    body = marshal(
        prompb.WRITE_REQUEST,
        {
            "timeseries": [
                {
                    "labels": [{"name": b"__name__", "value": b"up"}, {"name": b"job", "value": b"x" * 300}],
                    "samples": [{"value": 1.5, "timestamp": 1_700_000_000_000}, {"value": -0.0, "timestamp": -5}],
                    "type": 1,
                },
                {"labels": [], "samples": [{}]},
            ]
        },
    )
    status, series = _compiled(body)
    assert status == kernels.DONE
    assert [one["samples"] for one in series] == [
        [(struct.pack("<d", 1.5), 1_700_000_000_000), (struct.pack("<d", 0.0), -5)],
        [(struct.pack("<d", 0.0), 0)],
    ]
    assert series[0]["types"] == (0, 0, 1)
    _judge(body)


def _embedded(message: bytes) -> bytes:
    return b"\x0a" + varint(len(message)) + message


_bytes = st.binary(max_size=12)
_label = st.fixed_dictionaries({}, optional={"name": _bytes, "value": _bytes})
_sample = st.fixed_dictionaries(
    {},
    optional={
        "value": st.floats(width=64),
        "timestamp": st.one_of(
            st.integers(-(1 << 63), (1 << 63) - 1), st.integers(1_600_000_000_000, 1_800_000_000_000)
        ),
    },
)
_series = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.lists(_label, max_size=4),
        "samples": st.lists(_sample, max_size=4),
        "m3_type": st.integers(-1, 9),
        "source": st.integers(0, 3),
        "type": st.integers(0, 9),
    },
)
_field = st.one_of(
    _series.map(lambda one: _embedded(marshal(prompb.TIME_SERIES, one))),
    # Unknown fields, long tags, groups, metadata, and fields of a series in any order.
    st.sampled_from([b"\x1a\x02hi", b"\x28\x07", b"\x8a\x00\x00", b"\x23\x08\x01\x24", b"\x35abcd", b"\x39abcdefgh"]),
    st.lists(
        st.sampled_from(
            [
                b"\x0a\x04\x0a\x02ab",
                b"\x12\x00",
                b"\x12\x02\x10\x05",
                b"\xa8\x06\x01",
                b"\xb0\x06\x02",
                b"\xc8\x3e\x03",
                b"\x1a\x01x",
                b"\x8a\x00\x00",
            ]
        ),
        max_size=6,
    ).map(lambda parts: _embedded(b"".join(parts))),
)


@given(st.lists(_field, max_size=5))
def test_decodes_as_the_plain_decoder(fields: list[bytes]) -> None:
    _judge(b"".join(fields))


@settings(max_examples=300)
@given(st.lists(_field, min_size=1, max_size=3), st.data())
def test_refuses_what_the_plain_decoder_refuses(fields: list[bytes], data: st.DataObject) -> None:
    body = bytearray(b"".join(fields))
    for _ in range(data.draw(st.integers(1, 3))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    _judge(bytes(body[: data.draw(st.integers(0, len(body)))]))


@given(st.binary(max_size=64))
def test_random_bytes(body: bytes) -> None:
    _judge(body)


def test_asks_for_room() -> None:
    body = marshal(prompb.WRITE_REQUEST, {"timeseries": [{"samples": [{"value": 1.0}] * 3}] * 2})
    buf = np.frombuffer(bytearray(body), np.uint8)
    others = np.zeros(kernels.OTHERS, np.int64)
    one, few = np.zeros(1, kernels.SERIES_ROW), np.zeros(2, kernels.SERIES_ROW)
    assert kernels.request(buf, one, np.zeros(6, np.int64), np.zeros(6), others)[0] == kernels.FULL_SERIES
    assert kernels.request(buf, few, np.zeros(5, np.int64), np.zeros(5), others)[0] == kernels.FULL_SAMPLES
    assert kernels.request(buf, few, np.zeros(6, np.int64), np.zeros(6), others) == (kernels.DONE, 2, 6)


def test_what_is_not_a_sample_is_counted_once() -> None:
    label, exemplar, histogram = b"\x0a\x04\x0a\x02ab", b"\x1a\x00", b"\x22\x00"
    series = label + exemplar + histogram + exemplar
    body = (b"\x0a" + varint(len(series)) + series) * 2 + b"\x1a\x00" + b"\x2a\x00"
    buf, others = np.frombuffer(bytearray(body), np.uint8), np.zeros(kernels.OTHERS, np.int64)
    for room, status in ((1, kernels.FULL_SERIES), (2, kernels.DONE)):
        rows = np.zeros(room, kernels.SERIES_ROW)
        assert kernels.request(buf, rows, np.zeros(1, np.int64), np.zeros(1), others)[0] == status
    assert {
        name: int(others[index])
        for name, index in (
            ("exemplars", kernels.EXEMPLARS),
            ("histograms", kernels.HISTOGRAMS),
            ("metadata", kernels.METADATA),
            ("unknown", kernels.UNKNOWN),
        )
    } == {"exemplars": 4, "histograms": 2, "metadata": 1, "unknown": 1}
