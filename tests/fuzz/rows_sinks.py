"""What goes to stores, and what they answer: ids of aggregated values as labels of remote write in both versions; words of refusals."""

from itertools import pairwise
from typing import Any

import numpy as np
from tests.coordinator.sinks.prom_remote.test_symbols import as_1
from tests.fuzz.cliff import laid, room
from tests.fuzz.parser import Parser
from tests.fuzz.rows_metrics import TAGS

from coordinator import prompb
from coordinator.sinks.metric_types import MetricTypes
from coordinator.sinks.prom_remote.answers import judge
from coordinator.sinks.prom_remote.labels import LabelFields, LabelRules, fields_of, labels_of
from coordinator.sinks.prom_remote.named import named_series
from coordinator.sinks.prom_remote.symbols import SymbolEncoder
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import UNAGGREGATED, Values
from m3metrics.errors import IdError
from m3x.protobuf import unmarshal

__all__ = ["PARSERS"]

_NOW_NS = 1_700_000_000_000_000_000
_RULES = (LabelRules(), LabelRules(metric_name=b"name", bucket_name=b"b"))
_ROWS = 3
"""Of each series."""


class _Table(SeriesTable):
    """Of one id, which lies directly before an unreadable page."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    def __len__(self) -> int:
        return 1

    def ids(self) -> tuple[Any, Any, Any]:
        return laid(self._data), np.zeros(1, np.int64), np.array([len(self._data)], np.int64)

    def id(self, number: int) -> bytes:
        return self._data


class _Encoder(SymbolEncoder):
    """Writes into exactly the room that it asks for."""

    def _room(self, size: int) -> Any:
        return room(size)


def _read_labels(data: bytes) -> Any:
    """The series of a request, by rules; the same in Remote Write 2.0."""
    found = []
    for rules in _RULES:
        table, labels, encoder = _Table(data), LabelFields(rules), _Encoder()
        # As small as can be: it has to grow.
        labels.arena = room(0, "labels")
        series = np.zeros(_ROWS, np.uint32)
        if len(labels.require(table, series)):
            found.append(None)
            continue
        numbers = np.arange(_ROWS)
        times = _NOW_NS + numbers * 10**9
        batch = Values(table, series, times, numbers + 0.5, (UNAGGREGATED,), np.zeros(_ROWS, np.uint16))
        request = encoder.request(batch, numbers, labels).tobytes()
        (one,) = unmarshal(prompb.WRITE_REQUEST, request)["timeseries"]
        assert as_1(encoder.request_2(batch, numbers, labels).tobytes()) == [one]
        assert [sample["value"] for sample in one["samples"]] == [0.5, 1.5, 2.5]
        found.append([(label.get("name", b""), label.get("value", b"")) for label in one["labels"]])
        assert labels.rows_of(fields_of(found[-1]), table, series).tolist() == [0, 1, 2]
    return found


def _plain_labels(data: bytes) -> Any:
    found: list[Any] = []
    for rules in _RULES:
        try:
            found.append(labels_of(data, rules))
        except IdError:
            found.append(None)
    return found


_TYPE = b"\x08\x02"
"""The annotation of a gauge."""


def _read_table(data: bytes) -> Any:
    """Ids cut from the input become numbers and are the same afterwards; types of metrics are kept by their names."""
    cuts = sorted({0, len(data), *(len(data) * byte // 255 for byte in data[:6])})
    pieces = [data[begin:end] for begin, end in pairwise(cuts)] or [b""]
    buf, size = laid(_TYPE + data), np.array([len(one) for one in pieces], np.int64)
    at = len(_TYPE) + np.cumsum(size) - size
    table, types = SeriesTable(), MetricTypes()
    numbers = table.numbers(buf, at, size)
    assert [table.id(int(number)) for number in numbers] == pieces
    assert len(table) == len(set(pieces))
    types.note(table, numbers, buf, (at, size), (np.zeros_like(at), np.full_like(size, len(_TYPE))))
    assert types.of(table).types[numbers].tolist() == [2] * len(pieces)


def _read_answer(data: bytes) -> Any:
    text = data.decode(errors="replace")
    answers = [judge(status, text, text[:40], 1e9) for status in (200, 400, 401, 413, 415, 429, 500, 503, 302)]
    assert all(answer.kind is not None for answer in answers)
    return named_series(text)


_ANSWERS = (
    b'out of order sample for series up{instance="a:9100",job="b"}', b'{"status":"error","errorType":"bad_data","error":"too old"}',
    b"user=x: err: out of bounds. timestamp=2020-01-01T00:00:00Z, series={__name__=\"up\", le=\"0.5\"}", b"<html>503</html>",
)  # fmt: skip
_ANSWER_WORDS = (
    b"{", b"}", b'"', b"\\", b"=", b",", b" ", b"a", b"a{", b'{a="', b"\n", b"<", b"[", b"9", b"too old ", b"\xc3\xa9", b"out of order "
)  # fmt: skip

PARSERS = (
    Parser("sink-labels", TAGS, _read_labels, plain=_plain_labels, kernel=True),
    Parser("sink-ids", TAGS, _read_table, kernel=True),
    Parser("store-answers", lambda: _ANSWERS, _read_answer, words=_ANSWER_WORDS),
)
