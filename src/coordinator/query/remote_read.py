"""``/api/v1/prom/remote/read``: raw points by matchers, so that a Prometheus evaluates PromQL over our series.

The answer is of the SAMPLES type, to which the protocol lets a server fall back whatever types the request accepts. Both ends of the range
belong to it, as the protocol says (M3 leaves the end out). ``GET`` takes ``query``, ``start``, ``end`` and ``format=json`` as in M3
(docs/m3/coordinator.md, remote read).
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import cramjam
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from coordinator.matchers import Matcher, MatcherError, MatchOp
from coordinator.query import kernels
from coordinator.query.errors import QueryError
from coordinator.query.parameters import body_of, read_options, read_parameters
from coordinator.query.rendering import encode, note_headers, number_text
from coordinator.query.selector import parse_selector
from coordinator.query.source import NO_NOTES, Notes, ReadOptions, Selection, Source
from m3x.clock import wall_ns
from m3x.protobuf import DecodeError, Field, Kind, generated, unmarshal, varint

__all__ = ["RemoteRead", "encode_response"]

_MATCHER = generated(
    "LabelMatcher", Field(1, "type", Kind.INT32), Field(2, "name", Kind.BYTES), Field(3, "value", Kind.BYTES)
)
_QUERY = generated(
    "Query",
    Field(1, "start", Kind.INT64),
    Field(2, "end", Kind.INT64),
    Field(3, "matchers", Kind.MESSAGE, _MATCHER, repeated=True),
)
_READ_REQUEST = generated("ReadRequest", Field(1, "queries", Kind.MESSAGE, _QUERY, repeated=True))
_MAX_REQUEST_BYTES = 32 << 20
_MAX_QUERIES = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RemoteRead:
    """The handlers of ``POST`` and ``GET``; they raise ``QueryError``."""

    def __init__(self, source: Source, defaults: ReadOptions) -> None:
        self._source = source
        self._defaults = defaults

    async def post(self, request: Request) -> Response:
        """A snappy-compressed ``ReadRequest``."""
        queries = _parse(await body_of(request))
        options = read_options(request, self._defaults)
        results = [
            await self._source.select(matchers, start_ms, end_ms, options) for matchers, start_ms, end_ms in queries
        ]
        notes = reduce(Notes.joined, (result.notes for result in results), NO_NOTES)
        return _protobuf(await asyncio.to_thread(encode_response, results), notes)

    async def get(self, request: Request) -> Response:
        """One query in the URL."""
        parameters = await read_parameters(request, wall_ns() // 1_000_000)
        selector = parse_selector(parameters.text("query"))
        start_ms, end_ms = parameters.time_ms("start"), parameters.time_ms("end")
        result = await self._source.select(selector.matchers, start_ms, end_ms, read_options(request, self._defaults))
        if parameters.text("format") == "json":
            body = await asyncio.to_thread(_json, selector.matchers, result, start_ms, end_ms)
            return Response(body, media_type="application/json", headers=note_headers(result.notes))
        return _protobuf(await asyncio.to_thread(encode_response, [result]), result.notes)


def _parse(body: bytes) -> list[tuple[tuple[Matcher, ...], int, int]]:
    """Matchers, start and end of each query. Raises ``QueryError``."""
    try:
        if int(cramjam.snappy.decompress_raw_len(body)) > _MAX_REQUEST_BYTES:
            raise QueryError(f"the request is larger than {_MAX_REQUEST_BYTES} bytes without compression", status=413)
        data = bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError as error:
        raise QueryError(f"the request body is not snappy in block format: {error}") from None
    try:
        queries = unmarshal(_READ_REQUEST, data).get("queries", ())
    except DecodeError as error:
        raise QueryError(f"the request body is not a prometheus.ReadRequest: {error.reason}") from None
    if len(queries) > _MAX_QUERIES:
        raise QueryError(f"{len(queries)} queries in one request; at most {_MAX_QUERIES} are answered")
    try:
        return [
            (
                tuple(
                    Matcher(MatchOp(one.get("type", 0)), one.get("name", b""), one.get("value", b""))
                    for one in query.get("matchers", ())
                ),
                query.get("start", 0),
                query.get("end", 0),
            )
            for query in queries
        ]
    except ValueError as error:
        kind = "" if isinstance(error, MatcherError) else "unknown matcher type: "
        raise QueryError(f"{kind}{error}") from None


def encode_response(results: Sequence[Selection]) -> bytes:
    """The compressed ``ReadResponse``: a ``QueryResult`` per query, its series sorted by labels."""
    parts: list[bytes] = []
    for result in results:
        arena, id_at = result.series.arena, result.series.at
        sizes = np.zeros(len(result), np.int64)
        kernels.series_sizes(arena, id_at, result.offsets, result.time_ms, result.bits, sizes)
        # The tag of each series and the length before it take six bytes at most below 4 GiB.
        out = np.zeros(int(sizes.sum()) + 6 * len(result) + 8, np.uint8)
        order = np.array(result.order_by_labels(), np.int64)
        end = kernels.put_series(arena, id_at, result.offsets, result.time_ms, result.bits, sizes, order, out, 0)
        parts += [b"\x0a" + varint(end), out[:end].tobytes()]
    return bytes(cramjam.snappy.compress_raw(b"".join(parts)))


def _protobuf(body: bytes, notes: Notes) -> Response:
    headers = {"Content-Encoding": "snappy", **note_headers(notes)}
    return Response(body, media_type="application/x-protobuf", headers=headers)


_TYPE_NAMES = {MatchOp.EQUAL: "EQ", MatchOp.NOT_EQUAL: "NEQ", MatchOp.REGEX: "RE", MatchOp.NOT_REGEX: "NRE"}


def _json(matchers: Sequence[Matcher], result: Selection, start_ms: int, end_ms: int) -> bytes:
    span: dict[str, Any] = {"start": _rfc3339(start_ms), "end": _rfc3339(end_ms)}
    series = []
    values = result.values
    for i in result.order_by_labels():
        first, last = int(result.offsets[i]), int(result.offsets[i + 1])
        points = zip(result.time_ms[first:last].tolist(), values[first:last].tolist(), strict=True)
        series.append(
            {
                **span,
                "tags": [[name.decode(errors="replace"), value.decode(errors="replace")] for name, value in result.tags(i)],
                "datapoints": [{"val": number_text(value), "ts": _rfc3339(time)} for time, value in points],
            }
        )  # fmt: skip
    shown = [
        {
            "type": _TYPE_NAMES[one.op],
            "name": one.name.decode(errors="replace"),
            "value": one.value.decode(errors="replace"),
        }
        for one in matchers
    ]
    return encode({"queries": [{"query": {"matchers": shown}, **span, "series": series}]})


def _rfc3339(time_ms: int) -> str:
    try:
        moment = _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        raise QueryError(f"the time {time_ms} ms is out of range") from None
    fraction = f".{moment.microsecond // 1000:03d}".rstrip("0") if moment.microsecond else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"
