"""What is written to the coordinator: remote write from snappy to labels, carbon lines, and the ids of both on their way to stores."""

from functools import cache
from typing import Any

import cramjam
import numpy as np
from tests.fuzz.cliff import laid, room, rows
from tests.fuzz.parser import LEFT, Parser
from tests.fuzz.rows_metrics import TAGS

from coordinator import prompb
from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler
from coordinator.ingest.suffix_kernels import tags_sizes
from coordinator.store import label_kernels
from coordinator.store.series_kernels import FORM_OK, stored_forms
from coordinator.write import RemoteWriter, SeriesCache, kernels
from coordinator.write.carbon_line import CarbonLineError, parse_line, parse_value
from coordinator.write.decoding import RequestDecoder, decompress
from coordinator.write.options import BadRequestError, WriteOptions
from coordinator.write.outcome import Outcome
from coordinator.write.steps import finished
from m3db.write.form_kernels import ENTRY, SCHEME_PREPEND_META, SCHEME_QUOTED, SIZE_FACTOR, SIZE_MORE, STATE_READY, fill
from m3db.write.forms import FormRules, form_of
from m3metrics.errors import IdError
from m3metrics.ids import ID_SCHEME_TAG, encode_tags, iterate_tags
from m3msg.batch import joined_messages
from m3x.instrument import Registry
from m3x.protobuf import DecodeError, marshal

__all__ = ["PARSERS"]

_NOW_MS = 1_700_000_000_000
_SHARDS = 64


@cache
def _requests() -> list[bytes]:
    """Bodies without compression."""
    labels = [
        {"name": b"__name__", "value": b"up"},
        {"name": b"job", "value": b"api"},
        {"name": b"le", "value": b"0.5"},
    ]
    samples = [{"value": 1.5, "timestamp": _NOW_MS}, {"value": float("nan"), "timestamp": -1}, {"value": 0.0}]
    plain = {"labels": labels, "samples": samples[:1]}
    typed = {"labels": labels[:1], "samples": samples, "m3_type": 2, "source": 1, "type": 3}
    written = [
        marshal(prompb.WRITE_REQUEST, {"timeseries": series}) for series in ([plain], [plain, typed], [plain] * 9, [])
    ]
    series = marshal(prompb.TIME_SERIES, plain)
    # Labels on both sides of the sample, an exemplar, a histogram, metadata, a field that nobody knows.
    scattered = series + series[: len(series) // 2 // 8] + b"\x1a\x02\x0a\x00\x22\x02\x08\x01"
    odd = [b"\x0a" + bytes([len(one)]) + one for one in (scattered, series + series) if len(one) < 128]
    metadata = marshal(prompb.METADATA_REQUEST, {"metadata": [{"type": 1, "metric_family_name": b"up"}]})
    return [*written, *odd, metadata, written[0] + metadata, b"\x12\x01x"]


def _bodies() -> list[bytes]:
    return [bytes(cramjam.snappy.compress_raw(one)) for one in _requests()]


class _Usual:
    """A writer whose cache knows what it has met."""

    def __init__(self) -> None:
        namespace = Namespace("ten", 10 * 10**9, 6 * 3600 * 10**9)
        self.cache = SeriesCache(0, 1 << 22)
        scope = Registry().scope("fuzz")
        self._writer = RemoteWriter(Downsampler([namespace], now_ns=_NOW_MS * 10**6), self.cache, None, scope)
        self._decoder = RequestDecoder()
        self._writer._advance()

    def encode(self, data: bytes) -> Any:
        """Payload, offsets and shards by all the steps."""
        request = self._decoder.decode(bytes(cramjam.snappy.compress_raw(data)), WriteOptions())
        encoded = finished(self._writer._encode(request, WriteOptions(), _SHARDS, Outcome()))
        batch = joined_messages(encoded.batches)
        return batch.payload.tobytes(), batch.offsets.tolist(), batch.shards.tolist()


@cache
def _usual() -> _Usual:
    usual = _Usual()
    for one in _known_requests():
        usual.encode(one)
    return usual


@cache
def _known_requests() -> list[bytes]:
    """Those of which ``kernels.known`` makes messages."""
    times = (_NOW_MS, _NOW_MS + 1)
    series = [
        {
            "labels": [
                {"name": name, "value": b"v" * size}
                for name, size in ((b"__name__", 2), (b"app", k), (b"z", 100))[: 1 + k % 3]
            ],
            "samples": [{"value": 0.5 * k, "timestamp": at} for at in times[: 1 + k % 2]],
        }
        for k in range(1, 40)
    ]
    return [marshal(prompb.WRITE_REQUEST, {"timeseries": some}) for some in (series[:1], series[:4], series)]


def _read_known(data: bytes) -> Any:
    size = len(data)
    buf = laid(data + bytes(kernels.KNOWN_SLACK))
    most = size // 9 + 1
    offsets, shards = rows(most + 1, np.int64, "times"), rows(most, np.uint32, "shards")
    for out in (room(4 * size + 64), room(100 * size + 1024)):
        messages, used, _ = _usual().cache.encode_known(buf, size, _SHARDS, out, offsets, shards)
        if messages != kernels.NO_ROOM:
            break
    if messages <= 0:
        return LEFT
    return out[:used].tobytes(), offsets[: messages + 1].tolist(), shards[:messages].tolist()


def _plain_known(data: bytes) -> Any:
    return _usual().encode(data)


def _read_request(data: bytes) -> Any:
    series = rows(len(data) // 2 + 1, kernels.SERIES_ROW)
    times, values = rows(len(data) // 2 + 1, np.int64, "times"), rows(len(data) // 2 + 1, np.float64, "values")
    others = np.zeros(kernels.OTHERS, np.int64)
    buf = laid(data)
    status, count, used = kernels.request(buf, series, times, values, others)
    if status != kernels.DONE:
        raise BadRequestError("broken")
    found = []
    for row in series[:count]:
        first = int(row["sample_from"])
        points = [(int(times[k]), values[k : k + 1].tobytes()) for k in range(first, first + int(row["samples"]))]
        message = data[int(row["message_at"]) :][: int(row["message_size"])]
        attributes = tuple(int(row[name]) for name in ("m3_type", "source", "prom_type"))
        found.append((message, points, attributes))
        _check_labels(buf, data, row)
    return found, int(used)


def _check_labels(buf: Any, data: bytes, row: Any) -> None:
    """The kernels that look into labels say what the plain reader says."""
    if row["scattered"]:
        return
    at, size = int(row["labels_at"]), int(row["labels_size"])
    one = np.zeros(1, np.int64)
    found = kernels.check_labels(buf, np.array([at], np.uint32), np.array([size], np.uint32), one, 65535)
    spans = np.zeros((64, 4), np.int64)
    count = kernels.label_spans(buf, at, size, spans)
    beyond = np.zeros(1, np.uint8)
    kernels.beyond(buf, row[np.newaxis], 1, 4, 4, beyond)
    kernels.enter_series(np.zeros(2, np.uint64), np.zeros(2, np.bool_), buf, row[np.newaxis], 1, np.zeros(1, np.bool_))
    try:
        labels = prompb.labels_of(data[at : at + size])
    except DecodeError:
        assert found[0] == kernels.BROKEN
        assert count < 0
        return
    assert tuple(map(int, found[:2])) == (kernels.DONE, -1)
    assert bool(beyond[0]) == (len(labels) > 1 or any(len(text) > 4 for label in labels for text in label))
    if count >= 0:
        assert labels == [(data[a : a + n], data[b : b + m]) for a, n, b, m in spans[:count].tolist()]


_UNREAD_LABELS = prompb.generated(
    "TimeSeries",
    prompb.Field(1, "labels", prompb.Kind.BYTES, repeated=True),
    *(field for field in prompb.TIME_SERIES.ascending if field.number != 1),
)
"""Labels are looked into when a series is met for the first time."""


def _plain_request(data: bytes) -> Any:
    found, used = [], 0
    for message in _messages(data):
        series = prompb.unmarshal(_UNREAD_LABELS, message)
        points = [
            (one.get("timestamp", 0), np.float64(one.get("value", 0.0)).tobytes()) for one in series.get("samples", [])
        ]
        used += len(points)
        found.append((message, points, tuple(series.get(name, 0) for name in ("m3_type", "source", "type"))))
    return found, used


def _messages(data: bytes) -> list[bytes]:
    """The bytes of each TimeSeries."""
    table = prompb.generated("WriteRequest", prompb.Field(1, "timeseries", prompb.Kind.BYTES, repeated=True))
    found: list[bytes] = prompb.unmarshal(table, data).get("timeseries", [])
    return found


def _read_body(data: bytes) -> Any:
    """The whole of it, by a decoder that has seen other requests before."""
    decoded = _decoder().decode(data, WriteOptions())
    for row in decoded.series:
        at = int(row["labels_at"])
        prompb.labels_of(decoded.buf[at : at + int(row["labels_size"])].tobytes())
    return len(decoded.series), decoded.samples()


@cache
def _decoder() -> RequestDecoder:
    return RequestDecoder()


def _plain_body(data: bytes) -> Any:
    if not data:
        raise BadRequestError("empty")
    raw = decompress(data).tobytes()
    series = prompb.decode(raw)
    if not series and raw and not _has_metadata(raw):
        raise BadRequestError("another protocol")
    return len(series), sum(len(one.get("samples", [])) for one in series)


def _has_metadata(data: bytes) -> bool:
    """Whether a field has the number of metadata, whatever its wire type."""
    table = prompb.generated("WriteRequest", prompb.Field(3, "metadata", prompb.Kind.BYTES, repeated=True))
    try:
        return bool(prompb.unmarshal(table, data))
    except DecodeError:
        return True


def _lines() -> list[bytes]:
    return [
        b"servers.web1.load 1.5 1700000000\n",
        b"a.b 1 1700000000\r\nc;tag=value -2.25 1700000001\n",
        b"  a.b\t1e5   1700000000.5 \n\nx nan 1\ny inf 2\nz 0x1p4 3\n",
        "ä.ö 1 1700000000\n".encode(),
        b"a 123456789012345 1\na 1234567890123456 1\na +.5 1\na 5. 1\na - 1\na 1 12345678901234567890\n",
        b"no newline 1 1",
    ]


def _read_lines(data: bytes) -> Any:
    count = len(data) + 1
    at, size = rows(count, np.uint32, "at"), rows(count, np.uint32, "size")
    values, times = rows(count, np.float64, "values"), rows(count, np.int64, "times")
    odd, odd_end = rows(count, np.int64, "odd"), rows(count, np.int64, "odd end")
    lines, n_odd, end = kernels.carbon_lines(laid(data), 0, len(data), at, size, values, times, odd, odd_end)
    left = {int(odd[k]): int(odd_end[k]) for k in range(n_odd)}
    found: list[Any] = []
    for row in range(lines):
        begin = int(at[row])
        if row in left:
            found.append(_parsed(data[begin : left[row]]))
        else:
            found.append((data[begin : begin + int(size[row])], values[row : row + 1].tobytes(), int(times[row])))
    return found, int(end)


def _parsed(line: bytes) -> Any:
    try:
        path, value, seconds = parse_line(line)
    except CarbonLineError as error:
        return error.reason
    return path, np.float64(value).tobytes(), seconds


def _plain_lines(data: bytes) -> Any:
    *lines, rest = data.split(b"\n")
    return [_parsed(line.removesuffix(b"\r")) for line in lines], len(data) - len(rest)


def _read_value(data: bytes) -> Any:
    return parse_value(data.decode(errors="replace"))


def _one_id(data: bytes) -> tuple[Any, Any, Any]:
    return laid(data), np.zeros(1, np.int64), np.array([len(data)], np.int64)


def _read_stored_form(data: bytes) -> Any:
    """Of an id: what the embedded store keeps of it, and its tags in columns."""
    buf, at, size = _one_id(data)
    out_at, out_size, status = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.uint8)
    out = room(len(data))
    stored_forms(buf, at, size, out, out_at, out_size, status)
    cut = np.zeros(1, np.int64)
    tags_sizes(buf, at, size, cut)
    assert 0 <= cut[0] <= len(data)
    many = int(label_kernels.count_tags(buf, at, size))
    entries, tag_at, tag_size = (rows(many, kind, what) for what, kind in _COLUMNS)
    count = int(label_kernels.split_tags(buf, at, size, 0, entries, tag_at, tag_size))
    assert all(tag_at[k] >= 0 and tag_at[k] + tag_size[k] <= len(data) for k in range(count))
    return out[: int(out_size[0])].tobytes() if status[0] == FORM_OK else None


_COLUMNS = (("entries", np.int32), ("tag at", np.int64), ("tag size", np.int64))


def _checked_stored_form(data: bytes) -> Any:
    found = _read_stored_form(data)
    if found is not None:
        tags = sorted(tag for tag in iterate_tags(data[: _whole(data)]) if tag[0] != ID_SCHEME_TAG)
        assert found == encode_tags(tags)
    return found


def _whole(data: bytes) -> int:
    """How many bytes the tags take."""
    out = np.zeros(1, np.int64)
    tags_sizes(np.frombuffer(bytearray(data), np.uint8), np.zeros(1, np.int64), np.array([len(data)], np.int64), out)
    return int(out[0])


_RULES = {
    scheme: FormRules(shards=64, id_scheme=name, hash_seed=7)  # type: ignore[arg-type]
    for scheme, name in ((SCHEME_QUOTED, "quoted"), (SCHEME_PREPEND_META, "prepend_meta"))
}
_MARKER = encode_tags([(ID_SCHEME_TAG, b"graphite")])[4:]


def _read_forms(data: bytes) -> Any:
    """What M3DB is written of an id, into exactly the room that is asked for; what the kernel leaves is the plain code's."""
    found = []
    for scheme, rules in _RULES.items():
        ids, at, size = _one_id(data)
        entries, shards = np.zeros(1, ENTRY), np.zeros(1, np.uint32)
        arena = room(SIZE_FACTOR * len(data) + SIZE_MORE, f"arena {scheme}")
        fill(
            np.zeros(1, np.uint32), 0, ids, at, size, entries, shards, arena, 0, laid(_MARKER, "marker"), len(ID_SCHEME_TAG),
            scheme, np.uint32(rules.hash_seed), np.uint32(rules.shards),
        )  # fmt: skip
        if entries["state"][0] != STATE_READY:
            found.append(_form(data, rules))
            continue
        form = arena[: int(entries["size"][0])].tobytes()
        id_end = 7 + int.from_bytes(form[3:7], "big")
        found.append((form[7:id_end], form[id_end + 7 : -6], int(shards[0])))
    return found


def _form(data: bytes, rules: FormRules) -> Any:
    try:
        form = form_of(data, rules)
    except IdError:
        return None
    return form.id, form.encoded_tags, form.shard


def _plain_forms(data: bytes) -> Any:
    return [_form(data, rules) for rules in _RULES.values()]


_NUMBERS = (
    b"e",
    b"E",
    b"_",
    b"+",
    b"-",
    b".",
    b"0x",
    b"p",
    b"9",
    b"0",
    b"inf",
    b"nan",
    b" ",
    b"\t",
    b"\r\n",
    b"\n",
    b"\xc2\xa0",
    b";",
)

PARSERS = (
    Parser("write-request", _requests, _read_request, (BadRequestError, DecodeError), _plain_request, kernel=True),
    Parser("known-request", _known_requests, _read_known, (BadRequestError, DecodeError), _plain_known, kernel=True),
    Parser("remote-write", _bodies, _read_body, (BadRequestError, DecodeError), _plain_body),
    Parser("carbon-lines", _lines, _read_lines, (), _plain_lines, _NUMBERS, kernel=True),
    Parser(
        "carbon-value",
        lambda: [b"1.5", b"-2e10", b"0x1p4", b"nan", b"+Inf"],
        _read_value,
        (CarbonLineError,),
        words=_NUMBERS,
    ),
    Parser("stored-forms", TAGS, _checked_stored_form, (), kernel=True),
    Parser("m3db-forms", TAGS, _read_forms, (), _plain_forms, kernel=True),
)
