"""The body of a remote write → columns: snappy or zstd, and Prometheus' ``WriteRequest`` (docs/m3/coordinator.md, remote write).

The request of Remote Write 2.0 becomes the same columns.
"""

import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray

from coordinator import prompb
from coordinator.examples import SampleTime
from coordinator.not_kept import Reason
from coordinator.sinks.values import TimeUnit
from coordinator.write import kernels
from coordinator.write.batches import MILLISECOND_NS
from coordinator.write.declared import Declared
from coordinator.write.known import TriedBody
from coordinator.write.media import ZSTD
from coordinator.write.options import (
    REMOTE_WRITE_2,
    BadRequestError,
    TooLargeBodyError,
    UnsupportedMediaError,
    WriteOptions,
)
from m3x.protobuf import DecodeError

MAX_BODY_BYTES = 64 << 20
"""Largest body, before and after decompression."""
MAX_PLAIN_BODY_BYTES = 16 << 20
"""Largest body that is decoded in Python (``turns``)."""

_OTHERS = {
    kernels.EXEMPLARS: Reason.EXEMPLAR,
    kernels.HISTOGRAMS: Reason.NATIVE_HISTOGRAM,
    kernels.METADATA: Reason.METADATA,
    kernels.STARTED: Reason.CREATED_TIMESTAMP,
    kernels.UNREAD_SAMPLES: Reason.INVALID_LABELS,
}
_ZSTD_FRAME = b"\x28\xb5\x2f\xfd"
_NO_ROOM = "whole buffer"
"""What the package says of frames that have more than there is room for."""
_USUAL_RATIO = 32
"""By which a body seldom grows when it is decompressed."""


@dataclass(slots=True)
class Decoded:
    """A request in columns."""

    buf: NDArray[np.uint8]
    series: NDArray[Any]
    """``kernels.SERIES_ROW``."""
    times: NDArray[np.int64]
    """Counting ``unit_ns``."""
    values: NDArray[np.float64]
    others: dict[Reason, int]
    """What is in the request besides samples that can be kept."""
    unit_ns: int = MILLISECOND_NS
    unread: int = 0
    """Lines or data points that cannot be kept whatever comes, and have no row for that reason."""
    last_unread: str = ""
    """What the last of them is told."""
    points: int | None = None
    """Data points that came, where a sample is not the same."""
    native: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Labels and whole message of each series with native histograms, where they are wanted."""
    histograms: int = 0
    """Native ones that are in it as classic ones."""
    classic: int = 0
    """The samples that they have become."""
    lasting: bool = False
    """Whether it stays valid while other requests are decoded."""

    def kept(self) -> "Decoded":
        """A copy that stays valid."""
        times, values = self.times.copy(), self.values.copy()
        return replace(self, buf=self.buf.copy(), series=self.series.copy(), times=times, values=values, lasting=True)

    def samples(self, rows: Any = slice(None)) -> int:
        """The samples of some series; of all."""
        return int(self.series["samples"][rows].sum(dtype=np.int64))

    def as_write_request(self) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """The columns as a ``WriteRequest`` of Remote Write 1.0, and the rows of its series; copies."""
        series = self.series.copy()
        out = np.empty(0, np.uint8)
        size = kernels.write_request(self.buf, series, self.times, self.values, out)
        out = np.empty(size, np.uint8)
        kernels.write_request(self.buf, series, self.times, self.values, out)
        return out, series

    def sample_time(self, time_ns: int) -> SampleTime:
        """The time of a sample as it was sent, for the log."""
        return (
            SampleTime(time_ns // MILLISECOND_NS, "milliseconds")
            if self.unit_ns == MILLISECOND_NS
            else SampleTime(time_ns)
        )

    def units(self, times_ns: NDArray[np.int64]) -> tuple[tuple[TimeUnit, ...], NDArray[np.uint16]]:
        """In which units the times of some samples are stored, and which of these each has.

        Where times count nanoseconds, that is the coarsest one that has the time exactly, as M3 takes those of InfluxDB.
        """
        if self.unit_ns >= MILLISECOND_NS:
            return (TimeUnit.of(self.unit_ns),), np.zeros(len(times_ns), np.uint16)
        odd = [(times_ns % unit.ns != 0).astype(np.uint16) for unit in _UNITS[:-1]]
        return _UNITS, np.sum(odd, axis=0, dtype=np.uint16)


_UNITS = (TimeUnit.SECONDS, TimeUnit.MILLISECONDS, TimeUnit.MICROSECONDS, TimeUnit.NANOSECONDS)
"""Each is a multiple of the next."""


def decompress(body: bytes, encoding: str = "") -> NDArray[np.uint8]:
    """Snappy's block format, or with the encoding ``zstd`` frames of that. Raises ``BadRequestError``."""
    if encoding == ZSTD and body.startswith(_ZSTD_FRAME):
        return _decompress_zstd(body)
    try:
        size = cramjam.snappy.decompress_raw_len(body)
        if size > MAX_BODY_BYTES:
            raise TooLargeBodyError(MAX_BODY_BYTES)
        out = np.empty(size, np.uint8)
        written = cramjam.snappy.decompress_raw_into(body, out.data)
    except (cramjam.DecompressionError, OverflowError, ValueError) as error:
        if isinstance(error, BadRequestError):
            raise
        raise BadRequestError("snappy: corrupt input") from error
    if written != size:
        raise BadRequestError("snappy: corrupt input")
    return out


def _decompress_zstd(body: bytes) -> NDArray[np.uint8]:
    """Raises ``BadRequestError``."""
    for most in (min(_USUAL_RATIO * len(body), MAX_BODY_BYTES), MAX_BODY_BYTES):
        out = np.empty(most, np.uint8)
        try:
            return out[: cramjam.zstd.decompress_into(body, out.data)]
        except cramjam.DecompressionError as error:
            text = str(error)
    if _NO_ROOM in text:
        raise TooLargeBodyError(MAX_BODY_BYTES)
    raise BadRequestError(f"zstd: {text}")


def inflate(body: bytes, encoding: str, most: int = MAX_PLAIN_BODY_BYTES) -> bytes:
    """The body behind ``Content-Encoding: gzip``; as it is without one. Raises ``BadRequestError``; ``most``: bytes that it may have."""
    if encoding != "gzip":
        if len(body) > most:
            raise TooLargeBodyError(most)
        return body
    parts, size = [], 0
    while body:
        one = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            parts.append(one.decompress(body, most - size + 1))
        except zlib.error as error:
            raise BadRequestError(f"gzip: {error}") from error
        size += len(parts[-1])
        if size > most:
            raise TooLargeBodyError(most)
        if not one.eof:
            raise BadRequestError("gzip: unexpected end of the body")
        body = one.unused_data
    return b"".join(parts)


class RequestDecoder:
    """Decodes into columns that it keeps and uses again. ``native``: whether native histograms are wanted; ``declared``: who looks
    at what is declared of metrics."""

    def __init__(self, native: bool = False, declared: Declared | None = None) -> None:
        self._native = native
        self._declared = declared
        self._series = np.empty(1024, kernels.SERIES_ROW)
        self._times, self._values = np.empty(4096, np.int64), np.empty(4096, np.float64)
        self._others = np.zeros(kernels.OTHERS, np.int64)
        self._symbols = np.empty(1024, kernels.SYMBOL)
        self._labels = np.empty(1 << 16, np.uint8)

    def decode(self, body: bytes, options: WriteOptions) -> Decoded:
        """The request in columns, valid until the next call; sound down to the labels. Raises ``BadRequestError``."""
        try:
            if not body:
                raise BadRequestError("snappy: corrupt input")
            tried = body.plain if isinstance(body, TriedBody) else None
            buf = decompress(body, options.encoding) if tried is None else tried
            decoded = self._request_2(buf) if options.dialect == REMOTE_WRITE_2 else self._request(buf)
        except UnsupportedMediaError:
            raise
        except BadRequestError as error:
            if options.unfamiliar:
                raise UnsupportedMediaError(f"{options.unfamiliar} ({error})") from error
            raise
        if options.prom_type is not None:
            decoded.series["prom_type"] = options.prom_type
        if any(self._others.tolist()):
            decoded.others = {
                reason: int(self._others[index]) for index, reason in _OTHERS.items() if self._others[index]
            }
        return decoded

    def _request(self, buf: NDArray[np.uint8]) -> Decoded:
        """A ``WriteRequest``."""
        others = self._others
        while True:
            status, rows, samples = kernels.request(buf, self._series, self._times, self._values, others)
            if not self._grow(status):
                break
        if status != kernels.DONE:
            raise BadRequestError(prompb.error_of(buf.tobytes()))
        if rows == 0 and others[kernels.METADATA] == 0 and others[kernels.UNKNOWN]:
            raise UnsupportedMediaError(
                "a body without any timeseries, but with other fields, like one of Remote Write 2.0,"
            )
        series = self._series[:rows]
        if series["scattered"].any():
            try:
                buf = _gather_labels(buf, series)
            except DecodeError as error:
                raise BadRequestError(prompb.error_of(buf.tobytes())) from error
        return self._with_native(Decoded(buf, series, self._times[:samples], self._values[:samples], {}), buf)

    def _request_2(self, buf: NDArray[np.uint8]) -> Decoded:
        """A request of Remote Write 2.0; ``Decoded.buf`` has the labels as 1.0 writes them."""
        others = self._others
        while True:
            status, rows, samples, size = kernels.request_2(
                buf,
                self._series,
                self._times,
                self._values,
                others,
                self._symbols,
                self._labels,
                self._native,
            )
            if not self._grow(status):
                break
        if status != kernels.DONE:
            raise BadRequestError(prompb.error_of(buf.tobytes(), prompb.REQUEST_2))
        if rows == 0 and others[kernels.UNKNOWN]:
            raise UnsupportedMediaError("a body with other fields than Remote Write 2.0 has, like one of 1.0,")
        if self._declared is not None:
            self._declared.look(buf, self._labels[:size], self._series[:rows], self._symbols)
        decoded = Decoded(
            self._labels[:size], self._series[:rows], self._times[:samples], self._values[:samples], {},
            unread=int(others[kernels.UNREAD_SERIES]), last_unread=_UNREAD_LABELS,
        )  # fmt: skip
        return self._with_native(decoded, buf)

    def _with_native(self, decoded: Decoded, buf: NDArray[np.uint8]) -> Decoded:
        """Native histograms where they are wanted, whose series are no rows if they have nothing else. ``buf``: has the messages."""
        if self._native and self._others[kernels.HISTOGRAMS]:
            series = decoded.series
            for row in series[series["histograms"] > 0]:
                labels = decoded.buf[int(row["labels_at"]) :][: int(row["labels_size"])]
                message = buf[int(row["message_at"]) :][: int(row["message_size"])]
                decoded.native.append((labels.tobytes(), message.tobytes()))
            decoded.series = series[(series["samples"] > 0) | (series["histograms"] == 0)]
        return decoded

    def _grow(self, status: int) -> bool:
        """Whether there was too little room, of which there is more now. Raises ``BadRequestError``."""
        if status == kernels.FULL_SERIES:
            self._series = np.empty(2 * len(self._series), kernels.SERIES_ROW)
        elif status == kernels.FULL_SAMPLES:
            size = 2 * len(self._times)
            self._times, self._values = np.empty(size, np.int64), np.empty(size, np.float64)
        elif status == kernels.FULL_SYMBOLS:
            self._symbols = np.empty(2 * len(self._symbols), kernels.SYMBOL)
        elif status == kernels.FULL_LABELS:
            if len(self._labels) >= MAX_BODY_BYTES:
                raise BadRequestError(f"the labels of the request have more than {MAX_BODY_BYTES} bytes")
            self._labels = np.empty(2 * len(self._labels), np.uint8)
        else:
            return False
        return True


_UNREAD_LABELS = "labels_refs are no pairs, or lead to no symbol of the request"


def _gather_labels(buf: NDArray[np.uint8], series: NDArray[Any]) -> NDArray[np.uint8]:
    """Series whose labels do not stand side by side get a copy of them behind the body, and their ranges point there.

    Raises ``DecodeError`` for labels that are none.
    """
    parts, end = [buf], len(buf)
    for row in np.flatnonzero(series["scattered"]):
        at, size = int(series["message_at"][row]), int(series["message_size"][row])
        labels = np.frombuffer(prompb.label_fields(buf[at : at + size].tobytes()), np.uint8)
        parts.append(labels)
        series["labels_at"][row], series["labels_size"][row] = end, len(labels)
        end += len(labels)
    return np.concatenate(parts)
