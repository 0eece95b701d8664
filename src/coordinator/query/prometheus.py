"""Prometheus' query API for plain selectors: ``query``, ``query_range``, ``labels``, ``label/<name>/values``, ``series``.

As in Prometheus, and other than in M3, a point at the very end of a range belongs to it. Metadata is not limited to the given time
range: a series is listed as long as a point of it may be within retention.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from coordinator.query.errors import QueryError
from coordinator.query.parameters import Parameters, read_options, read_parameters
from coordinator.query.rendering import (
    ENDING,
    label_set,
    matrix,
    note_headers,
    raw_matrix,
    success,
    time_text,
    vector,
)
from coordinator.query.selector import parse_selector
from coordinator.query.source import Alternatives, Notes, ReadOptions, Source
from m3x.clock import wall_ns

__all__ = ["LOOKBACK_MS", "PrometheusAPI"]

LOOKBACK_MS = 300_000
"""Default of ``lookbackDuration``."""
_MAX_STEPS = 11_000
_Item = TypeVar("_Item")


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
        selector = parse_selector(parameters.text("query"))
        time_ms = parameters.time_ms("time", parameters.now_ms)
        at_ms = selector.shift(time_ms, time_ms, time_ms)
        options = read_options(request, self._defaults)
        if selector.range_ms:
            found = await self._source.select(selector.matchers, at_ms - selector.range_ms + 1, at_ms, options)
            return await _stream(raw_matrix(found), found.notes)
        found = await self._source.select(selector.matchers, at_ms, at_ms, options, lookback_ms=self._lookback_ms)
        return await _stream(vector(found, time_ms, at_ms, self._lookback_ms), found.notes)

    async def query_range(self, request: Request) -> Response:
        """``/api/v1/query_range``."""
        parameters = await _parameters(request)
        selector = parse_selector(parameters.text("query"))
        if selector.range_ms:
            raise QueryError('invalid expression type "range vector" for range query, must be an instant vector')
        start_ms, end_ms = parameters.time_ms("start"), parameters.time_ms("end")
        step_ms = parameters.step_ms()
        if end_ms < start_ms:
            raise QueryError(f"start ({time_text(start_ms)}) must be before end ({time_text(end_ms)})")
        steps = (end_ms - start_ms) // step_ms + 1
        if steps > _MAX_STEPS:
            raise QueryError(
                f"exceeded maximum resolution of {_MAX_STEPS} points per timeseries: {steps} steps; "
                "ask for a larger step or a shorter range"
            )
        first_ms = selector.shift(start_ms, start_ms, end_ms)
        look_step_ms = step_ms if selector.at is None else 0
        last_ms = first_ms + (steps - 1) * look_step_ms
        found = await self._source.select(
            selector.matchers, first_ms, last_ms, read_options(request, self._defaults), lookback_ms=self._lookback_ms
        )
        pieces = matrix(found, start_ms, step_ms, steps, first_ms, look_step_ms, self._lookback_ms)
        return await _stream(pieces, found.notes)

    async def labels(self, request: Request) -> Response:
        """``/api/v1/labels``."""
        parameters = await _parameters(request)
        found = await self._source.label_names(
            _alternatives(parameters), *_range(parameters), read_options(request, self._defaults)
        )
        return _json(_limited(parameters, [name.decode(errors="replace") for name in found.texts]), found.notes)

    async def label_values(self, request: Request) -> Response:
        """``/api/v1/label/<name>/values``."""
        parameters = await _parameters(request)
        name = request.path_params["name"].encode()
        found = await self._source.label_values(
            name, _alternatives(parameters), *_range(parameters), read_options(request, self._defaults)
        )
        values = [value.decode(errors="replace") for value in found.texts if value]
        return _json(_limited(parameters, values), found.notes)

    async def series(self, request: Request) -> Response:
        """``/api/v1/series``."""
        parameters = await _parameters(request)
        alternatives = _alternatives(parameters)
        if not alternatives:
            raise QueryError("no match[] parameter provided")
        found = await self._source.series(alternatives, *_range(parameters), read_options(request, self._defaults))

        def render() -> list[dict[str, str]]:
            return [label_set(tags) for tags in _limited(parameters, sorted(map(found.tags, range(len(found)))))]

        return _json(await asyncio.to_thread(render), found.notes)


def _alternatives(parameters: Parameters) -> Alternatives:
    """The matchers of every ``match[]``."""
    selectors = [parse_selector(text) for text in parameters.all("match[]")]
    if any(selector.range_ms for selector in selectors):
        raise QueryError("match[] takes a selector without a range")
    return [selector.matchers for selector in selectors]


def _range(parameters: Parameters) -> tuple[int, int]:
    """Start and end of a request for metadata: from the beginning of time until now, where it does not say."""
    return parameters.time_ms("start", 0), parameters.time_ms("end", parameters.now_ms)


async def _parameters(request: Request) -> Parameters:
    return await read_parameters(request, wall_ns() // 1_000_000)


def _limited(parameters: Parameters, found: list[_Item]) -> list[_Item]:
    text = parameters.text("limit")
    if text and not text.isdecimal():
        raise QueryError(f"invalid parameter 'limit': {text!r} is not a number")
    return found[: int(text) or None] if text else found


def _json(data: object, notes: Notes) -> Response:
    return Response(success(data), media_type="application/json", headers=note_headers(notes))


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
