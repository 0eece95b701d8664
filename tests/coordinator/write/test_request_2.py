"""The compiled decoder of Remote Write 2.0 against the plain one, and against 1.0."""

import struct
from typing import Any

import cramjam
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.prometheus import request_2

from coordinator import prompb
from coordinator.write import kernels
from coordinator.write.decoding import Decoded, RequestDecoder
from coordinator.write.options import REMOTE_WRITE_2, WriteOptions
from m3x.protobuf import DecodeError, marshal, unmarshal, varint

Label = tuple[bytes, bytes]


class Columns:
    """What the kernel makes of a body."""

    def __init__(self, body: bytes) -> None:
        room = len(body) + 1
        self.body = body
        self.rows = np.zeros(room, kernels.SERIES_ROW)
        self.times, self.values = np.zeros(room, np.int64), np.zeros(room, np.float64)
        self.others = np.zeros(kernels.OTHERS, np.int64)
        buf = np.frombuffer(bytearray(body) or bytearray(1), np.uint8)[: len(body)]
        symbols, self.labels = np.zeros(room, kernels.SYMBOL), np.zeros(1 << 10, np.uint8)
        while True:
            self.status, count, used, size = kernels.request_2(
                buf, self.rows, self.times, self.values, self.others, symbols, self.labels, False
            )
            if self.status != kernels.FULL_LABELS:
                break
            self.labels = np.zeros(2 * len(self.labels), np.uint8)
        self.rows, self.times, self.values = self.rows[:count], self.times[:used], self.values[:used]
        self.labels = self.labels[:size]

    def series(self) -> list[dict[str, Any]]:
        """The rows as plain values."""
        found = []
        for row in self.rows:
            at, size = int(row["labels_at"]), int(row["labels_size"])
            begin = int(row["sample_from"])
            found.append(
                {
                    "labels": prompb.labels_of(self.labels[at : at + size].tobytes()),
                    "samples": [
                        (struct.pack("<d", self.values[k]), int(self.times[k]))
                        for k in range(begin, begin + int(row["samples"]))
                    ],
                    "type": int(row["prom_type"]),
                }
            )
        return found


def labels_of(symbols: list[bytes], refs: list[int]) -> list[Label] | None:
    """None: the references are no pairs of symbols."""
    if len(refs) % 2 or any(ref >= len(symbols) for ref in refs):
        return None
    texts = [symbols[ref] for ref in refs]
    return list(zip(texts[::2], texts[1::2], strict=True))


def plain(body: bytes) -> tuple[list[dict[str, Any]], list[int]]:
    """The series with samples, and what is counted besides: exemplars, histograms, series and samples without labels."""
    request = unmarshal(prompb.REQUEST_2, body)
    found, others = [], [0, 0, 0, 0]
    for one in request.get("timeseries", []):
        labels = labels_of(request.get("symbols", []), one.get("labels_refs", []))
        samples = [(struct.pack("<d", s.get("value", 0.0)), s.get("timestamp", 0)) for s in one.get("samples", [])]
        others[0] += len(one.get("exemplars", []))
        if labels is None:
            others[2] += 1
            others[3] += len(samples)
            continue
        others[1] += len(one.get("histograms", []))
        kind = one.get("metadata", {}).get("type", 0)
        if samples:
            found.append({"labels": labels, "samples": samples, "type": kind if 0 <= kind <= 7 else 0})
    return found, others


def judge(body: bytes) -> None:
    compiled = Columns(body)
    try:
        series, others = plain(body)
    except DecodeError:
        assert compiled.status == kernels.BROKEN
        return
    assert compiled.status == kernels.DONE
    assert compiled.series() == series
    counted = (kernels.EXEMPLARS, kernels.HISTOGRAMS, kernels.UNREAD_SERIES, kernels.UNREAD_SAMPLES)
    assert [int(compiled.others[index]) for index in counted] == others


SERIES = [
    {
        "labels": [{"name": b"__name__", "value": b"up"}, {"name": b"job", "value": b"x" * 300}],
        "samples": [{"value": 1.5, "timestamp": 1_700_000_000_000}, {"value": 0.0, "timestamp": -5}],
        "type": 1,
    },
    {"labels": [{"name": b"__name__", "value": b""}], "samples": [{}]},
    {"labels": [{"name": b"__name__", "value": b"y" * 20_000}], "samples": [{"value": 2.0}], "type": 5},
]


def test_decodes_what_clients_write() -> None:
    body = request_2(SERIES)
    series = Columns(body).series()
    assert [one["labels"] for one in series] == [
        [(b"__name__", b"up"), (b"job", b"x" * 300)],
        [(b"__name__", b"")],
        [(b"__name__", b"y" * 20_000)],
    ]
    assert [one["type"] for one in series] == [1, 0, 5]
    judge(body)


def test_columns_are_those_of_version_1() -> None:
    version_1 = marshal(prompb.WRITE_REQUEST, {"timeseries": SERIES})
    columns = Columns(request_2(SERIES))
    decoded = Decoded(columns.labels, columns.rows, columns.times, columns.values, {})
    written, rows = decoded.as_write_request()
    assert written.tobytes() == version_1
    rest = np.zeros(3, kernels.SERIES_ROW), np.zeros(4, np.int64), np.zeros(4), np.zeros(kernels.OTHERS, np.int64)
    assert kernels.request(written, *rest)[:2] == (kernels.DONE, 3)
    for name in ("labels_at", "labels_size", "message_at", "message_size", "prom_type", "samples", "sample_from"):
        assert rows[name].tolist() == rest[0][name].tolist(), name


def embedded(number: int, message: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(message)) + message


def test_symbols_may_come_last() -> None:
    series = embedded(5, b"\x0a\x02\x01\x02" + b"\x12\x00")
    judge(series + embedded(4, b"") + embedded(4, b"a") + embedded(4, b"b"))


def test_references_may_stand_alone_and_in_pieces() -> None:
    symbols = b"".join(embedded(4, text) for text in (b"", b"a", b"b"))
    for refs in (b"\x08\x01\x08\x02", b"\x0a\x01\x01\x12\x00\x0a\x01\x02", b"\x0a\x03\x01\x82\x00"):
        body = symbols + embedded(5, refs + b"\x12\x00")
        assert Columns(body).series()[0]["labels"] == [(b"a", b"b")]
        judge(body)


def test_labels_come_again_under_any_name_and_in_any_size() -> None:
    # Sizes around those at which copies and lengths change; more symbols than two bytes can refer to.
    sizes = [*range(1, 70), *range(120, 135), 300]
    symbols = [b"zero", *(b"n" * size for size in sizes), *(b"v%d" % k for k in range(17_000))]
    names = [0, 1, 2, 15, 31, 32, 33, 63, 64, 69, 75, 80, 90, 16_500]
    refs = [[name, value, other, value, name, value] for name in names for other in names for value in (*names, 17_000)]
    # One that is not kept lends its labels all the same.
    refs[1:1] = [[1, 2, 3], [1, 2, 1, 20_000]]
    series = [{"labels_refs": one, "samples": [{"value": 1.0, "timestamp": 5}]} for one in refs]
    body = marshal(prompb.REQUEST_2, {"symbols": symbols, "timeseries": series})
    judge(body)
    assert len(Columns(body).rows) == len(refs) - 2


def test_created_timestamps_are_counted() -> None:
    request = {
        "symbols": [b"", b"a", b"b"],
        "timeseries": [
            {"labels_refs": [1, 2], "samples": [{"value": 1.0, "timestamp": 2_000_000_000_000, "start_timestamp": 7}]}
        ],
    }
    columns = Columns(marshal(prompb.REQUEST_2, request))
    assert columns.others[kernels.STARTED] == 1
    assert columns.times.tolist() == [2_000_000_000_000]
    # As requests said it before samples had it.
    body = b"".join(embedded(4, text) for text in (b"", b"a", b"b")) + embedded(5, b"\x0a\x02\x01\x02\x12\x00\x30\x07")
    assert Columns(body).others[kernels.STARTED] == 1


def test_series_without_samples_are_no_rows() -> None:
    symbols = b"".join(embedded(4, text) for text in (b"", b"a", b"b"))
    histograms, exemplar = embedded(5, b"\x0a\x02\x01\x02\x1a\x00\x1a\x00"), embedded(5, b"\x0a\x02\x02\x01\x22\x00")
    # The labels of what is left out are those of the next series as well.
    columns = Columns(symbols + histograms + exemplar + embedded(5, b"\x0a\x04\x02\x01\x01\x02\x12\x00"))
    assert [one["labels"] for one in columns.series()] == [[(b"b", b"a"), (b"a", b"b")]]
    assert (columns.others[kernels.HISTOGRAMS], columns.others[kernels.EXEMPLARS]) == (2, 1)


def test_asks_for_room() -> None:
    body = request_2([{"labels": [{"name": b"a", "value": b"b"}], "samples": [{"value": 1.0}] * 3}] * 2)
    buf, others = np.frombuffer(bytearray(body), np.uint8), np.zeros(kernels.OTHERS, np.int64)

    def status(series: int, samples: int, symbols: int, labels: int) -> int:
        columns = np.zeros(series, kernels.SERIES_ROW), np.zeros(samples, np.int64), np.zeros(samples)
        room = np.zeros(symbols, kernels.SYMBOL), np.zeros(labels, np.uint8)
        found: int = kernels.request_2(buf, *columns, others, *room, False)[0]
        return found

    assert status(2, 6, 3, 128) == kernels.DONE
    assert status(1, 6, 3, 128) == kernels.FULL_SERIES
    assert status(2, 5, 3, 128) == kernels.FULL_SAMPLES
    assert status(2, 6, 2, 128) == kernels.FULL_SYMBOLS
    assert status(2, 6, 3, 32) == kernels.FULL_LABELS


_bytes = st.binary(max_size=40)
_message_2 = st.fixed_dictionaries(
    {},
    optional={
        "symbols": st.lists(_bytes, max_size=6),
        "timeseries": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "labels_refs": st.lists(st.integers(0, 6), max_size=6),
                    "samples": st.lists(
                        st.fixed_dictionaries(
                            {},
                            optional={
                                "value": st.floats(width=64),
                                "timestamp": st.integers(-(1 << 63), (1 << 63) - 1),
                                "start_timestamp": st.integers(-(1 << 63), (1 << 63) - 1),
                            },
                        ),
                        max_size=3,
                    ),
                    "histograms": st.lists(_bytes, max_size=2),
                    "exemplars": st.lists(_bytes, max_size=2),
                    "metadata": st.fixed_dictionaries(
                        {}, optional={"type": st.integers(-1, 9), "help_ref": st.integers(0, 9)}
                    ),
                },
            ),
            max_size=4,
        ),
    },
).map(lambda values: marshal(prompb.REQUEST_2, values))
_odd = st.sampled_from(
    [b"\x0a\x02hi", b"\x28\x07", b"\x22\x00", b"\x2a\x02\x08\x01", b"\x2a\x02\x30\x01", b"\x8a\x00\x00"]
)
_MORE = b"\x32\x40" + bytes(64)
"""Symbols far from the end of the body are read otherwise than those near it."""
_body = st.tuples(st.lists(st.one_of(_message_2, _odd), max_size=3).map(b"".join), st.sampled_from((b"", _MORE))).map(
    b"".join
)


@given(_body)
def test_decodes_as_the_plain_decoder(body: bytes) -> None:
    judge(body)


@settings(max_examples=300)
@given(_body, st.data())
def test_refuses_what_the_plain_decoder_refuses(body: bytes, data: st.DataObject) -> None:
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    judge(bytes(changed[: data.draw(st.integers(0, len(changed)))]))


@given(st.binary(max_size=64))
def test_random_bytes(body: bytes) -> None:
    judge(body)


def test_is_compiled_at_start_with_the_arguments_of_callers() -> None:
    kernels.warm()
    compiled = set(kernels.request_2.signatures)
    judge(request_2(SERIES))
    RequestDecoder().decode(bytes(cramjam.snappy.compress_raw(request_2(SERIES))), WriteOptions(dialect=REMOTE_WRITE_2))
    assert set(kernels.request_2.signatures) == compiled
