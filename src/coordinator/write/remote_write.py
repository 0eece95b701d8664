"""``POST /api/v1/prom/remote/write`` (reference/coordinator.md §7.2, §8).

``RemoteWriter`` is the core: body and options in, batches out. Series that have been seen before are recognised by the bytes of
their labels; what is new is prepared once, in compiled code if it is an ordinary gauge. The order of checks, the status codes and
the error texts are M3's.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coordinator.config.coordinator import TagOptionsConfig
from coordinator.downsample import Appended, Downsampler, TemplateSpec
from coordinator.write import kernels, prompb
from coordinator.write.attributes import Source, annotation_of, m3_type_of, prom_type_of, source_of
from coordinator.write.batches import MILLISECOND_NS, encode_samples
from coordinator.write.direct import SCHEME_TAG, DirectSeries, DirectStore, DirectWriteError
from coordinator.write.interest import Interest
from coordinator.write.options import BadRequestError, WriteOptions, apply_map_tags, parse_options
from coordinator.write.series_cache import SeriesCache, SeriesTooLargeError
from coordinator.write.sink import MessageSink, RefusedError
from m3metrics.errors import IdError, UnmarshalError
from m3metrics.ids import MAX_LITERAL_BYTES, Tags
from m3metrics.metric import PROM_TYPES
from m3metrics.series_ids import normalized_tags, validate_tags
from m3x.instrument import Scope
from m3x.log import logger

MAX_BODY_BYTES = 64 << 20
"""Largest body, before and after decompression."""

_FIRST_MAPPED_CONTEXT = 2
_MAX_MAPPED_CONTEXTS = 1024
_METADATA_BYTES = 96
"""What a message is longer than its share of the request, roughly."""
log = logger(__name__)


class FailedError(Exception):
    """The whole request failed with an error that trying again may cure; answered with 500."""


@dataclass(slots=True)
class Decoded:
    """A request in columns."""

    buf: NDArray[np.uint8]
    series: NDArray[Any]
    times_ms: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(slots=True)
class Errors:
    """What went wrong with single series, as M3 counts it: once per pass."""

    bad: int = 0
    last_bad: str = ""
    retryable: int = 0
    last_retryable: str = ""

    def response(self) -> Response:
        """Status and text (§8.5)."""
        if not self.bad and not self.retryable:
            return Response(status_code=200)
        parts = []
        if self.retryable:
            parts.append(f"retryable_errors: count={self.retryable}, last={self.last_retryable}")
        if self.bad:
            parts.append(f"bad_request_errors: count={self.bad}, last={self.last_bad}")
        return error_response(500 if self.retryable else 400, ", ".join(parts))


def error_response(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """M3's error document."""
    body = JSONResponse({"status": "error", "error": text}).body
    return Response(bytes(body) + b"\n", status, headers, media_type="application/json")


def decompress(body: bytes) -> NDArray[np.uint8]:
    """Snappy's block format. Raises ``BadRequestError``."""
    try:
        size = cramjam.snappy.decompress_raw_len(body)
        if size > MAX_BODY_BYTES:
            raise BadRequestError(f"snappy: decoded block is too large: {size} bytes, limit is {MAX_BODY_BYTES}")
        out = np.empty(size, np.uint8)
        written = cramjam.snappy.decompress_raw_into(body, out.data)
    except (cramjam.DecompressionError, OverflowError, ValueError) as error:
        if isinstance(error, BadRequestError):
            raise
        raise BadRequestError("snappy: corrupt input") from error
    if written != size:
        raise BadRequestError("snappy: corrupt input")
    return out


class RemoteWriter:
    """Turns bodies into batches. One per process; used from its event loop only."""

    def __init__(
        self,
        downsampler: Downsampler,
        cache: SeriesCache,
        sink: MessageSink | None,
        scope: Scope,
        *,
        tag_options: TagOptionsConfig | None = None,
        store_metrics_type: bool = False,
        direct: DirectStore | None = None,
    ) -> None:
        self._downsampler = downsampler
        self._cache = cache
        self._sink = sink
        self._scope = scope
        self._direct = direct
        self._tags = tag_options or TagOptionsConfig()
        self._renames = {b"__name__": self._tags.metric_name.encode(), b"le": self._tags.bucket_name.encode()}
        self._renames = {old: new for old, new in self._renames.items() if old != new}
        self._store_type = store_metrics_type
        self._generation = -1
        self._interest: Interest | None = None
        """Which series a rule may match; None: all."""
        self._spans = np.zeros((256, 4), np.int64)
        self._contexts: dict[tuple[tuple[bytes, bytes], ...], int] = {}
        self._next_context = _FIRST_MAPPED_CONTEXT
        self._series = np.empty(1024, kernels.SERIES_ROW)
        self._times, self._values = np.empty(4096, np.int64), np.empty(4096, np.float64)

    async def handle(self, request: Request) -> Response:
        """Answers one HTTP request."""
        started = time.monotonic()
        try:
            options = parse_options(request.headers)
            response = await self.write(await _body(request), options)
        except BadRequestError as error:
            response = error_response(400, str(error))
        except RefusedError as error:
            response = error_response(503, error.reason, {"Retry-After": str(error.retry_after_s)})
        except FailedError as error:
            response = error_response(500, f"retryable_errors: count=1, last={error}")
        if response.status_code == 200:
            self._scope.count("write_success")
        else:
            code = f"{response.status_code // 100}XX"
            self._scope.tagged(code=code).count("write_errors")
            if response.status_code != 503:
                log.warning_limited(
                    "remote write failed", status=response.status_code, error=bytes(response.body).decode()
                )
        self._scope.record("write_batch_latency", time.monotonic() - started)
        return response

    async def write(self, body: bytes, options: WriteOptions) -> Response:
        """Writes one compressed request. Raises ``BadRequestError``, ``RefusedError``, ``FailedError``."""
        request = self.decode(body, options)
        errors = Errors()
        if options.downsample and self._downsampler.enabled and self._sink is not None:
            if len(request.series):
                nbytes = len(request.buf) + _METADATA_BYTES * len(request.values)
                num_shards = self._sink.ready(nbytes)
                if num_shards is None:
                    num_shards = await self._sink.admit(nbytes)
                    # The scratch arrays may have been used by another request meanwhile.
                    request = self.decode(body, options)
                self._downsample(request, options, num_shards, errors, passes=1 + options.store)
        elif options.store:
            self._validate(request, options, errors)
        if options.store and self._direct is not None:
            await self._store(request, options, errors)
        return errors.response()

    def decode(self, body: bytes, options: WriteOptions) -> Decoded:
        """The request in columns, valid until the next call; sound down to the labels. Raises ``BadRequestError``, ``FailedError``."""
        if not body:
            raise BadRequestError("snappy: corrupt input")
        buf = decompress(body)
        while True:
            status, rows, samples = kernels.request(buf, self._series, self._times, self._values)
            if status == kernels.FULL_SERIES:
                self._series = np.empty(2 * len(self._series), kernels.SERIES_ROW)
            elif status == kernels.FULL_SAMPLES:
                size = 2 * len(self._times)
                self._times, self._values = np.empty(size, np.int64), np.empty(size, np.float64)
            else:
                break
        if status != kernels.DONE:
            raise BadRequestError(prompb.error_of(buf.tobytes()))
        series = self._series[:rows]
        if series["scattered"].any():
            try:
                buf = _gather_labels(buf, series)
            except UnmarshalError as error:
                raise BadRequestError(prompb.error_of(buf.tobytes())) from error
        if options.prom_type is not None:
            series["prom_type"] = options.prom_type
        return Decoded(buf, series, self._times[:samples], self._values[:samples])

    def _context(self, options: WriteOptions) -> int:
        """A number for everything outside the series that decides over its templates; numbers are never used twice."""
        if not options.map_tags:
            return 0
        context = self._contexts.get(options.map_tags)
        if context is None:
            if len(self._contexts) >= _MAX_MAPPED_CONTEXTS:
                self._contexts.clear()
            context = self._contexts[options.map_tags] = self._next_context
            self._next_context += 1
        return context

    def _advance(self) -> None:
        """Lets rules come into effect; what is remembered of the series is forgotten if they say something else now."""
        generation = self._downsampler.advance(time.time_ns())
        if generation != self._generation:
            self._generation = generation
            self._interest = Interest.of(self._downsampler.filters())
        self._cache.expect(generation)

    def _downsample(
        self, request: Decoded, options: WriteOptions, num_shards: int, errors: Errors, passes: int
    ) -> None:
        """Everything to the aggregators, in chunks that the cache can hold."""
        self._advance()
        series = request.series
        rows = len(series)
        key_at, key_size = np.empty(rows, np.uint32), np.empty(rows, np.uint32)
        contexts = np.empty(rows, np.uint64)
        wrong = kernels.keys(series, rows, self._context(options), key_at, key_size, contexts)
        chunks = _chunks(key_size, self._cache)
        if wrong >= 0 or len(chunks) > 1:
            # Nothing may have been sent when the request as a whole turns out to be bad.
            self._check_labels(request, key_at, key_size, self._cache.find(request.buf, key_at, key_size, contexts))
        if wrong >= 0:
            self._raise_attributes(series[wrong])
        for begin, end in chunks:
            part = slice(begin, end)
            self._send(request, options, part, key_at[part], key_size[part], contexts[part], num_shards, errors, passes)

    def _send(
        self,
        request: Decoded,
        options: WriteOptions,
        part: slice,
        key_at: NDArray[np.uint32],
        key_size: NDArray[np.uint32],
        contexts: NDArray[np.uint64],
        num_shards: int,
        errors: Errors,
        passes: int,
    ) -> None:
        series = request.series[part]

        def make(row: int) -> Sequence[TemplateSpec] | None:
            try:
                return self._prepare(request.buf, series[row], options)
            except IdError as error:
                errors.bad += passes
                errors.last_bad = str(error)
                return None

        def check(missing: NDArray[np.int64]) -> None:
            self._check_labels(request, key_at, key_size, missing)

        plain, plain_rows = self._downsampler.auto_metadatas, None
        if options.map_tags or self._renames or self._interest is None:
            plain = None
        elif plain is not None:
            odd = contexts & np.uint64(0xFFFF if self._store_type else 0xFFF0)
            plain_rows = None if not odd.any() else odd == 0
        try:
            first, count = self._cache.resolve(
                request.buf, key_at, key_size, contexts, make, plain, plain_rows, check, self._interest
            )
        except SeriesTooLargeError as error:
            raise BadRequestError(str(error)) from error
        batch = encode_samples(
            self._cache, series, first, count, request.times_ms, MILLISECOND_NS, request.values, num_shards
        )
        if batch is not None:
            assert self._sink is not None
            if not self._sink.produce(batch):
                raise RefusedError("the buffer towards the aggregators is full; send it again")
            self._scope.count("ingest_samples", len(batch))

    def _check_labels(
        self,
        request: Decoded,
        key_at: NDArray[np.uint32],
        key_size: NDArray[np.uint32],
        rows: NDArray[np.int64],
    ) -> None:
        """The labels of ``rows`` are sound protobuf and short enough. Raises ``BadRequestError``."""
        status, row, name, value = kernels.check_labels(request.buf, key_at, key_size, rows, MAX_LITERAL_BYTES)
        if status != 0:
            raise BadRequestError(prompb.error_of(request.buf.tobytes()))
        if row >= 0:
            raise BadRequestError(
                f"label literal is too long: nameLength={name}, valueLength={value}, maxLength={MAX_LITERAL_BYTES}"
            )

    @staticmethod
    def _raise_attributes(row: Any) -> None:
        """Names what is out of range; the whole request fails, as in M3."""
        try:
            source_of(int(row["source"]))
            m3_type_of(int(row["m3_type"]))
            prom_type_of(int(row["prom_type"]))
        except ValueError as error:
            raise FailedError(str(error)) from error

    def _labels(self, buf: NDArray[np.uint8], row: Any, options: WriteOptions) -> tuple[Tags, bytes]:
        """Sorted, valid tags of a series and the value of its ``__name__``. Raises ``IdError``."""
        at, size = int(row["labels_at"]), int(row["labels_size"])
        data = buf[at : at + size]
        found = kernels.label_spans(data, 0, size, self._spans)
        if found >= 0:
            text = data.tobytes()
            labels = [(text[a : a + n], text[b : b + m]) for a, n, b, m in self._spans[:found].tolist()]
        else:
            try:
                labels = prompb.labels_of(data.tobytes())
            except UnmarshalError as error:
                raise BadRequestError(str(error)) from error
        apply_map_tags(labels, options.map_tags)
        name = next((value for key, value in labels if key == b"__name__"), b"")
        graphite = int(row["source"]) == Source.GRAPHITE
        if self._renames:
            # Where tags of one name are allowed, these stand in front.
            labels.sort(key=lambda label: label[0] not in self._renames)
        tags = normalized_tags(((self._renames.get(key, key), value) for key, value in labels), graphite)
        validate_tags(tags, self._tags.allow_tag_name_duplicates, graphite or self._tags.allow_tag_value_empty)
        return tags, name

    def _prepare(self, buf: NDArray[np.uint8], row: Any, options: WriteOptions) -> Sequence[TemplateSpec]:
        """What the aggregators get of one series. Raises ``IdError``."""
        return self._appended(buf, row, options).specs

    def _appended(self, buf: NDArray[np.uint8], row: Any, options: WriteOptions) -> Appended:
        """What becomes of one series. Raises ``IdError``."""
        tags, name = self._labels(buf, row, options)
        metric_type, source = m3_type_of(int(row["m3_type"])), source_of(int(row["source"]))
        prom_type = prom_type_of(int(row["prom_type"]))
        annotation = annotation_of(source, metric_type, prom_type, name) if self._store_type else b""
        if source is Source.GRAPHITE:
            tags = [*tags, SCHEME_TAG]
        return self._downsampler.append(tags, metric_type, PROM_TYPES[prom_type], annotation=annotation)

    def _validate(self, request: Decoded, options: WriteOptions, errors: Errors) -> None:
        """The checks of the storage pass where there is no other; only with ``M3-Metrics-Type`` or without aggregated namespaces."""
        rows = len(request.series)
        key_at, key_size = np.empty(rows, np.uint32), np.empty(rows, np.uint32)
        contexts = np.empty(rows, np.uint64)
        wrong = kernels.keys(request.series, rows, self._context(options), key_at, key_size, contexts)
        self._check_labels(request, key_at, key_size, np.arange(rows))
        if wrong >= 0:
            self._raise_attributes(request.series[wrong])
        for row in request.series:
            try:
                self._labels(request.buf, row, options)
            except IdError as error:
                errors.bad += 1
                errors.last_bad = str(error)

    async def _store(self, request: Decoded, options: WriteOptions, errors: Errors) -> None:
        """The storage pass: every valid series to the namespace of the request."""
        assert self._direct is not None
        if not self._direct.accepts(options.policy):
            if options.policy is not None:
                text = (
                    "no configured cluster namespace for: "
                    f"retention={_go_duration(options.policy.retention_ns)}, "
                    f"resolution={_go_duration(options.policy.window_ns)}"
                )
            else:
                text = "unaggregated namespace is not yet initialized"
            # Without an unaggregated namespace ordinary writes go to the aggregators only.
            if not options.downsample and len(request.series):
                errors.retryable += len(request.series)
                errors.last_retryable = text
            return
        batch = []
        for row in request.series:
            try:
                tags, _ = self._labels(request.buf, row, options)
                if options.policy is None and options.downsample and self._is_dropped(request.buf, row, options):
                    self._scope.count("metrics_dropped")
                    continue
            except IdError:
                continue
            part = slice(int(row["sample_from"]), int(row["sample_from"]) + int(row["samples"]))
            graphite = int(row["source"]) == Source.GRAPHITE
            batch.append(DirectSeries(tags, graphite, request.times_ms[part].copy(), request.values[part].copy()))
        try:
            refused = await self._direct.write(options.policy, batch)
        except DirectWriteError as error:
            errors.retryable += len(batch)
            errors.last_retryable = str(error)
            return
        if refused:
            errors.bad += len(refused)
            errors.last_bad = refused[-1][1]

    def _is_dropped(self, buf: NDArray[np.uint8], row: Any, options: WriteOptions) -> bool:
        """Whether a drop rule keeps the series out of the unaggregated namespace. Raises ``IdError``."""
        if not self._downsampler.matching:
            return False
        return self._appended(buf, row, options).drop_policy_applied


def _go_duration(ns: int) -> str:
    """``48h0m0s``: as Go prints a duration, for whole seconds."""
    seconds = ns // 1_000_000_000
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _gather_labels(buf: NDArray[np.uint8], series: NDArray[Any]) -> NDArray[np.uint8]:
    """Series whose labels do not stand side by side get a copy of them behind the body, and their ranges point there.

    Raises ``UnmarshalError`` for labels that are none.
    """
    parts, end = [buf], len(buf)
    for row in np.flatnonzero(series["scattered"]):
        at, size = int(series["message_at"][row]), int(series["message_size"][row])
        labels = np.frombuffer(prompb.label_fields(buf[at : at + size].tobytes()), np.uint8)
        parts.append(labels)
        series["labels_at"][row], series["labels_size"][row] = end, len(labels)
        end += len(labels)
    return np.concatenate(parts)


def _chunks(key_size: NDArray[np.uint32], cache: SeriesCache) -> list[tuple[int, int]]:
    """Row ranges that one ``resolve`` can take."""
    rows = len(key_size)
    if rows <= cache.max_rows and int(key_size.sum(dtype=np.int64)) <= cache.max_key_bytes:
        return [(0, rows)]
    chunks, begin, size = [], 0, 0
    for row in range(rows):
        if row > begin and (row - begin >= cache.max_rows or size + int(key_size[row]) > cache.max_key_bytes):
            chunks.append((begin, row))
            begin, size = row, 0
        size += int(key_size[row])
    chunks.append((begin, rows))
    return chunks


async def _body(request: Request) -> bytes:
    """The whole body. Raises ``BadRequestError`` beyond ``MAX_BODY_BYTES``."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise BadRequestError(f"request body is larger than {MAX_BODY_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def remote_write_routes(writer: RemoteWriter) -> list[Route]:
    """The route of remote write."""
    return [Route("/api/v1/prom/remote/write", writer.handle, methods=["POST"])]
