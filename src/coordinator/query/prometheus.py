"""Prometheus' query API for plain selectors and constants: ``query``, ``query_range``, ``labels``, ``label/<name>/values``, ``series``.

As in Prometheus, and other than in M3, a point at the very end of a range belongs to it. Names, values and series that are listed are
those with a point in the range; without a range, those of which a point may be within retention.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from coordinator.query.constants import evaluate
from coordinator.query.errors import QueryError
from coordinator.query.parameters import Parameters, label_name, read_options, read_parameters
from coordinator.query.rendering import (
    ENDING,
    constant_matrix,
    constant_value,
    label_set,
    listing,
    matrix,
    note_headers,
    raw_matrix,
    time_text,
    vector,
)
from coordinator.query.selector import parse_expression, parse_matchers, selector_of
from coordinator.query.source import EARLIEST_MS, LATEST_MS, NO_NOTES, Alternatives, Notes, ReadOptions, Source
from m3x.clock import wall_ns

__all__ = ["LOOKBACK_MS", "MAX_STEPS", "PrometheusAPI"]

LOOKBACK_MS = 300_000
"""Default of ``lookbackDuration``."""
MAX_STEPS = 11_000
"""From the start of a range to its end; it has one point more."""
_TYPE_OF_RANGE = 'invalid expression type "{}" for range query, must be Scalar or instant Vector'


class PrometheusAPI:
    """The handlers; each takes a request and answers, or raises ``QueryError``.

    ``lookback_ms``: how old a value may be that an instant takes; a series whose resolution is coarser has that long.
    """

    def __init__(self, source: Source, defaults: ReadOptions, lookback_ms: int = LOOKBACK_MS) -> None:
        self._source = source
        self._defaults = defaults
        self._lookback_ms = lookback_ms

    async def query(self, request: Request) -> Response:
        """``/api/v1/query``."""
        parameters = await _parameters(request)
        limit, time_ms = parameters.limit(), parameters.time_ms("time", parameters.now_ms)
        options = self._options(request, parameters)
        expression = parse_expression(parameters.text("query"))
        constant = evaluate(expression, np.array([time_ms], np.int64))
        if constant is not None:
            return await _stream(constant_value(constant, time_ms), NO_NOTES)
        selector = selector_of(expression)
        at_ms = selector.shift(time_ms, time_ms, time_ms)
        if selector.range_ms:
            found = await self._source.select(selector.matchers, at_ms - selector.range_ms + 1, at_ms, options)
            return await _stream(raw_matrix(found, limit), found.notes)
        found = await self._source.select(selector.matchers, at_ms, at_ms, options, lookback_ms=self._lookback_ms)
        return await _stream(vector(found, time_ms, at_ms, self._lookback_ms, limit), found.notes)

    async def query_range(self, request: Request) -> Response:
        """``/api/v1/query_range``."""
        parameters = await _parameters(request)
        limit, options = parameters.limit(), self._options(request, parameters)
        start_ms, step_ms, steps = _steps(parameters)
        end_ms = parameters.time_ms("end")
        expression = parse_expression(parameters.text("query"))
        constant = evaluate(expression, start_ms + step_ms * np.arange(steps))
        if constant is not None:
            if constant.kind == "string":
                raise QueryError(_TYPE_OF_RANGE.format("string"))
            return await _stream(constant_matrix(constant, start_ms, step_ms), NO_NOTES)
        selector = selector_of(expression)
        if selector.range_ms:
            raise QueryError(_TYPE_OF_RANGE.format("range vector"))
        first_ms = selector.shift(start_ms, start_ms, end_ms)
        look_step_ms = step_ms if selector.at is None else 0
        last_ms = first_ms + (steps - 1) * look_step_ms
        found = await self._source.select(selector.matchers, first_ms, last_ms, options, lookback_ms=self._lookback_ms)
        pieces = matrix(found, start_ms, step_ms, steps, first_ms, look_step_ms, self._lookback_ms, limit)
        return await _stream(pieces, found.notes)

    async def labels(self, request: Request) -> Response:
        """``/api/v1/labels``."""
        parameters = await _parameters(request)
        limit, options = parameters.limit(), self._options(request, parameters)
        found = await self._source.label_names(_alternatives(parameters), *_range(parameters), options)
        return _json(listing(_shown(found.texts), limit, found.notes), found.notes)

    async def label_values(self, request: Request) -> Response:
        """``/api/v1/label/<name>/values``."""
        parameters = await _parameters(request)
        limit, options = parameters.limit(), self._options(request, parameters)
        name = label_name(request.path_params["name"]).encode(errors="replace")
        found = await self._source.label_values(name, _alternatives(parameters), *_range(parameters), options)
        return _json(listing(_shown(found.texts), limit, found.notes), found.notes)

    async def series(self, request: Request) -> Response:
        """``/api/v1/series``."""
        parameters = await _parameters(request)
        limit, options = parameters.limit(), self._options(request, parameters)
        alternatives = _alternatives(parameters)
        if not alternatives:
            raise QueryError("no match[] parameter provided")
        found = await self._source.series(alternatives, *_range(parameters), options)

        def render() -> bytes:
            ordered = sorted(map(found.tags, range(len(found))))
            # One more than are shown, which tells that there are more.
            return listing(list(map(label_set, ordered[: limit + 1 if limit else None])), limit, found.notes)

        return _json(await asyncio.to_thread(render), found.notes)

    def _options(self, request: Request, parameters: Parameters) -> ReadOptions:
        """What headers say, and the parameter ``timeout``, which can only shorten."""
        options = read_options(request, self._defaults)
        if not parameters.text("timeout"):
            return options
        timeout_s = max(parameters.duration_ms("timeout"), 1) / 1000
        return msgspec.structs.replace(options, timeout_s=min(options.timeout_s, timeout_s))


def _steps(parameters: Parameters) -> tuple[int, int, int]:
    """Where a range starts, its step, and how many points it has."""
    start_ms, end_ms = parameters.time_ms("start"), parameters.time_ms("end")
    step_ms = parameters.step_ms()
    if end_ms < start_ms:
        raise QueryError(f"start ({time_text(start_ms)}) must be before end ({time_text(end_ms)})")
    steps = (end_ms - start_ms) // step_ms
    if steps > MAX_STEPS:
        raise QueryError(
            f"exceeded maximum resolution of {MAX_STEPS} points per timeseries: {steps} steps; "
            "ask for a larger step or a shorter range"
        )
    return start_ms, step_ms, steps + 1


def _alternatives(parameters: Parameters) -> Alternatives:
    """The matchers of every ``match[]``."""
    return list(map(parse_matchers, parameters.all("match[]")))


def _range(parameters: Parameters) -> tuple[int, int]:
    """Start and end of a listing; where it does not say, those of all time."""
    return parameters.time_ms("start", EARLIEST_MS), parameters.time_ms("end", LATEST_MS)


async def _parameters(request: Request) -> Parameters:
    return await read_parameters(request, wall_ns() // 1_000_000)


def _shown(texts: list[bytes]) -> list[str]:
    """Names or values; one without text is none."""
    return [text.decode(errors="replace") for text in texts if text]


def _json(body: bytes, notes: Notes) -> Response:
    return Response(body, media_type="application/json", headers=note_headers(notes))


async def _stream(pieces: Iterator[bytes], notes: Notes) -> Response:
    """Sends an answer while it is being rendered, off the event loop; a short one in one piece."""
    first = await asyncio.to_thread(next, pieces, b"")
    headers = note_headers(notes)
    if first.endswith(ENDING):
        return Response(first, media_type="application/json", headers=headers)

    async def body() -> AsyncIterator[bytes]:
        piece = first
        while piece:
            yield piece
            piece = await asyncio.to_thread(next, pieces, b"")

    return StreamingResponse(body(), media_type="application/json", headers=headers)
