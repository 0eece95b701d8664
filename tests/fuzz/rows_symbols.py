"""Remote Write 2.0, from the compression to the labels."""

from functools import cache
from typing import Any

import cramjam
import numpy as np
from tests.fuzz.cliff import laid, room, rows
from tests.fuzz.parser import Parser

from coordinator import prompb
from coordinator.write import kernels
from coordinator.write.declared import Declared
from coordinator.write.decoding import RequestDecoder
from coordinator.write.media import ZSTD
from coordinator.write.native_histograms import HISTOGRAM, samples_of
from coordinator.write.options import REMOTE_WRITE_2, BadRequestError, WriteOptions
from m3x.protobuf import DecodeError, marshal, unmarshal

__all__ = ["PARSERS"]

_NOW_MS = 1_700_000_000_000
_ZSTD = WriteOptions(dialect=REMOTE_WRITE_2, encoding=ZSTD)


@cache
def _requests() -> list[bytes]:
    symbols = [b"", b"__name__", b"up", b"job", b"api", b"le", b"0.5", b"x" * 40]
    sample = {"value": 1.5, "timestamp": _NOW_MS}
    plain = {"labels_refs": [1, 2, 3, 4], "samples": [sample], "metadata": {"type": 1, "help_ref": 7}}
    odd = {
        "labels_refs": [1, 7, 5, 6],
        "samples": [{**sample, "start_timestamp": 1}, {}, {"value": float("nan"), "timestamp": -1}],
    }
    others = {"labels_refs": [1, 2], "histograms": [b"\x08\x01"], "exemplars": [b""], "metadata": {"type": 9}}
    wrong = {"labels_refs": [1, 8, 300], "samples": [sample]}
    many = [[plain], [plain, odd, others, wrong], [plain] * 9, []]
    written = [marshal(prompb.REQUEST_2, {"symbols": symbols, "timeseries": series}) for series in many]
    # Symbols behind the series; references by themselves, a created timestamp of the series.
    alone = b"\x2a\x0a\x08\x01\x08\x02\x12\x02\x18\x01\x30\x01"
    series = marshal(prompb.REQUEST_2, {"timeseries": [plain]})
    return [*written, series + marshal(prompb.REQUEST_2, {"symbols": symbols}), written[0] + alone, b"\x0a\x00"]


def _read(data: bytes) -> Any:
    many = len(data) // 2 + 1
    series = rows(many, kernels.SERIES_ROW)
    times, values = rows(many, np.int64, "times"), rows(many, np.float64, "values")
    symbols, others = rows(many, kernels.SYMBOL, "symbols"), np.zeros(kernels.OTHERS, np.int64)
    size = 1 << 12
    while True:
        labels = room(size, "labels")
        status, count, used, _ = kernels.request_2(laid(data), series, times, values, others, symbols, labels, False)
        if status != kernels.FULL_LABELS:
            break
        size *= 2
    if status != kernels.DONE:
        raise BadRequestError("broken")
    kernels.declarations(laid(data), labels, series[:count], symbols, rows(int(count), kernels.DECLARATION, "declared"))
    found = []
    for row in series[:count]:
        at, first = int(row["labels_at"]), int(row["sample_from"])
        points = [(int(times[k]), values[k : k + 1].tobytes()) for k in range(first, first + int(row["samples"]))]
        written = labels[at : at + int(row["labels_size"])].tobytes()
        found.append((prompb.labels_of(written), points, int(row["prom_type"])))
    return found, int(used)


def _plain(data: bytes) -> Any:
    request = unmarshal(prompb.REQUEST_2, data)
    symbols = request.get("symbols", [])
    found = []
    for one in request.get("timeseries", []):
        refs = one.get("labels_refs", [])
        points = [
            (sample.get("timestamp", 0), np.float64(sample.get("value", 0.0)).tobytes())
            for sample in one.get("samples", [])
        ]
        if not points or len(refs) % 2 or any(ref >= len(symbols) for ref in refs):
            continue
        texts = [symbols[ref] for ref in refs]
        kind = one.get("metadata", {}).get("type", 0)
        found.append((list(zip(texts[::2], texts[1::2], strict=True)), points, kind if 0 <= kind <= 7 else 0))
    return found, sum(len(points) for _, points, _ in found)


def _bodies() -> list[bytes]:
    return [bytes(cramjam.zstd.compress(one)) for one in _requests()]


@cache
def _decoder() -> RequestDecoder:
    return RequestDecoder(declared=Declared(lambda *_: None, lambda: 0.0))


def _read_body(data: bytes) -> Any:
    """The whole of it, by a decoder that has seen other requests before."""
    decoded = _decoder().decode(data, _ZSTD)
    # Written as 1.0 it is the same.
    again = prompb.decode(decoded.as_write_request()[0].tobytes())
    assert [len(one["samples"]) for one in again] == decoded.series["samples"].tolist()
    return len(decoded.series), decoded.samples()


def _histograms() -> list[bytes]:
    spans, deltas = [{"offset": 2, "length": 2}, {"offset": 4, "length": 1}], [2, 2, 4]
    exponential = {
        "count_int": 9,
        "sum": 1.5,
        "schema": 4,
        "zero_count_int": 1,
        "zero_threshold": 1e-9,
        "timestamp": _NOW_MS,
    }
    below = {"negative_spans": spans, "negative_counts": [1.0, 2.0, 3.0]}
    custom = {"schema": 105, "custom_values": [0.1, 0.5, 1.0], "positive_spans": spans[:1], "positive_deltas": [2, 2]}
    many = [{**exponential, "positive_spans": spans, "positive_deltas": deltas}, {**exponential, **below}, custom, {}]
    return [marshal(HISTOGRAM, one) for one in many]


def _read_histogram(data: bytes) -> Any:
    return len(samples_of(unmarshal(HISTOGRAM, data)))


PARSERS = (
    Parser("native-histogram", _histograms, _read_histogram, (DecodeError, ValueError, OverflowError)),
    Parser("write-request-2", _requests, _read, (BadRequestError, DecodeError), _plain, kernel=True),
    Parser("remote-write-2", _bodies, _read_body, (BadRequestError, DecodeError)),
)
