"""Numbers, times, label sets and results as Prometheus writes them in JSON."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np

from coordinator.query import kernels
from coordinator.query.constants import Constant
from coordinator.query.errors import QueryError
from coordinator.query.source import NO_NOTES, Notes, Selection
from m3metrics.ids import Tags

__all__ = [
    "ENDING",
    "constant_matrix",
    "constant_value",
    "encode",
    "error_body",
    "label_set",
    "listing",
    "matrix",
    "note_headers",
    "number_text",
    "raw_matrix",
    "success",
    "time_text",
    "vector",
]

_encoder = msgspec.json.Encoder()
_SERIES_PER_PIECE = 64
ENDING = b"}\n"
"""Of the last piece of an answer, and of no other."""
_INCOMPLETE = "m3db exceeded query limit: results not exhaustive"
_TRUNCATED = "results truncated due to limit"


def encode(value: Any) -> bytes:
    """``value`` as JSON."""
    return _encoder.encode(value)


def number_text(value: float) -> str:
    """The shortest decimal without exponent that reads back as ``value``; ``NaN``, ``+Inf``, ``-Inf``."""
    text = repr(value)
    if text.endswith(".0"):
        return text[:-2]
    if "e" in text:
        return format(Decimal(text), "f")
    if "n" in text:
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[text]
    return text


def time_text(time_ms: int) -> str:
    """Unix seconds, with decimals if there are any."""
    seconds, milliseconds = divmod(abs(time_ms), 1000)
    sign = "-" if time_ms < 0 else ""
    return f"{sign}{seconds}" + (f".{milliseconds:03d}".rstrip("0") if milliseconds else "")


def label_set(tags: Tags) -> dict[str, str]:
    """Labels by name; bytes that are no UTF-8 become U+FFFD."""
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in tags}


def success(data: Any, warnings: Sequence[str] = ()) -> bytes:
    """The answer around ``data``."""
    return encode({"status": "success", "data": data, **({"warnings": warnings} if warnings else {})})


def listing(found: Sequence[Any], limit: int, notes: Notes) -> bytes:
    """The answer with the first ``limit`` of them (0: all)."""
    truncated = 0 < limit < len(found)
    return success(found[:limit] if truncated else found, _warnings(notes, truncated))


def _warnings(notes: Notes, truncated: bool) -> list[str]:
    return [
        *notes.warnings,
        *([_INCOMPLETE] if notes.limited else []),
        *([_TRUNCATED] if truncated else []),
    ]


def error_body(error: QueryError) -> bytes:
    """The answer to a query that is refused; ``errorType`` is Prometheus' addition to what M3 says."""
    return encode({"status": "error", "errorType": error.kind, "error": str(error)})


def note_headers(notes: Notes) -> dict[str, str]:
    """M3's headers for them (docs/m3/coordinator.md, limits of queries)."""
    said = [*(["max_fetch_series_limit_applied"] if notes.limited else []), *notes.warnings]
    headers = {"M3-Results-Limited": ",".join(said), "M3-Namespaces": ",".join(notes.places)}
    return {name: text for name, text in headers.items() if text}


def _framed(kind: str, results: Iterator[bytes], notes: Notes, limit: int) -> Iterator[bytes]:
    """The whole answer with the first ``limit`` series (0: all), in pieces of some tens of them."""
    piece = [b'{"status":"success","data":{"resultType":"%s","result":[' % kind.encode()]
    truncated = False
    for count, result in enumerate(results):
        if count == limit > 0:
            truncated = True
            break
        if count:
            piece.append(b",")
        piece.append(result)
        if len(piece) >= 2 * _SERIES_PER_PIECE:
            yield b"".join(piece)
            piece = []
    piece.append(b"]}")
    warnings = _warnings(notes, truncated)
    if warnings:
        piece.append(b',"warnings":' + encode(warnings))
    piece.append(ENDING)
    yield b"".join(piece)


def _points(times: Sequence[str], values: Sequence[float]) -> bytes:
    """``times`` come as ``[seconds,"``."""
    return ",".join([f'{time}{number_text(value)}"]' for time, value in zip(times, values, strict=True)]).encode()


def constant_value(constant: Constant, time_ms: int) -> Iterator[bytes]:
    """An expression without series, of one step, as a scalar, a string or a vector."""
    text = constant.text if constant.kind == "string" else number_text(float(constant.values[0]))
    pair = f"[{time_text(time_ms)},{encode(text).decode()}]"
    if constant.kind == "vector":
        results = iter([b'{"metric":{},"value":%s}' % pair.encode()] if constant.there[0] else [])
        return _framed("vector", results, NO_NOTES, 0)
    return iter(
        [b'{"status":"success","data":{"resultType":"%s","result":%s}}\n' % (constant.kind.encode(), pair.encode())]
    )


def constant_matrix(constant: Constant, start_ms: int, step_ms: int) -> Iterator[bytes]:
    """An expression without series over a range: one series without labels, if it has any value."""
    present = np.flatnonzero(constant.there).tolist()
    times = [f'[{time_text(start_ms + k * step_ms)},"' for k in present]
    points = _points(times, constant.values[present].tolist())
    results = iter([b'{"metric":{},"values":[%s]}' % points] if present else [])
    return _framed("matrix", results, NO_NOTES, 0)


def vector(selection: Selection, time_ms: int, looked_at_ms: int, lookback_ms: int, limit: int = 0) -> Iterator[bytes]:
    """An instant vector: the last value of each series within the look-back (at least its resolution) before ``looked_at_ms``."""

    def results() -> Iterator[bytes]:
        found, values = np.empty(1, np.int64), selection.values
        head = f'"value":[{time_text(time_ms)},"'
        for i in selection.order_by_labels():
            first, last = int(selection.offsets[i]), int(selection.offsets[i + 1])
            back_ms = max(lookback_ms, int(selection.windows_ms[i]))
            kernels.latest(selection.time_ms[first:last], selection.bits[first:last], looked_at_ms, 1, back_ms, found)
            if found[0] >= 0:
                value = number_text(float(values[first + int(found[0])]))
                yield b'{"metric":%s,%s' % (encode(label_set(selection.tags(i))), f'{head}{value}"]}}'.encode())

    return _framed("vector", results(), selection.notes, limit)


def matrix(
    selection: Selection,
    start_ms: int,
    step_ms: int,
    steps: int,
    looked_at_ms: int,
    look_step_ms: int,
    lookback_ms: int,
    limit: int = 0,
) -> Iterator[bytes]:
    """Values at ``start``, ``start + step`` …, each the last one within the look-back before the time that is looked at."""

    def results() -> Iterator[bytes]:
        found, values = np.empty(steps, np.int64), selection.values
        times = [f'[{time_text(start_ms + k * step_ms)},"' for k in range(steps)]
        for i in selection.order_by_labels():
            first, last = int(selection.offsets[i]), int(selection.offsets[i + 1])
            back_ms = max(lookback_ms, int(selection.windows_ms[i]))
            kernels.latest(
                selection.time_ms[first:last], selection.bits[first:last], looked_at_ms, look_step_ms, back_ms, found
            )
            present = np.flatnonzero(found >= 0)
            if len(present):
                points = _points([times[k] for k in present.tolist()], values[first + found[present]].tolist())
                yield b'{"metric":%s,"values":[%s]}' % (encode(label_set(selection.tags(i))), points)

    return _framed("matrix", results(), selection.notes, limit)


def raw_matrix(selection: Selection, limit: int = 0) -> Iterator[bytes]:
    """All points as they are stored, staleness markers left out."""

    def results() -> Iterator[bytes]:
        values = selection.values
        for i in selection.order_by_labels():
            first, last = int(selection.offsets[i]), int(selection.offsets[i + 1])
            present = first + np.flatnonzero(selection.bits[first:last] != kernels.STALE_NAN)
            if len(present):
                times = [f'[{time_text(time)},"' for time in selection.time_ms[present].tolist()]
                points = _points(times, values[present].tolist())
                yield b'{"metric":%s,"values":[%s]}' % (encode(label_set(selection.tags(i))), points)

    return _framed("matrix", results(), selection.notes, limit)
