"""``GET /api/v1/rules/series``: the series and paths that the write path remembers, and what is sent for each. Not a call of M3.

For dry runs of changed rules (``m3coordinator --explain-rules``). It comes in pages, each of which keeps the loop for some milliseconds.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coordinator.downsample import Downsampler
from coordinator.downsample.dry_run import SeenSeries, sent_lines
from coordinator.write.carbon import CONTEXT, CarbonIngester
from coordinator.write.remote_write import RemoteWriter
from coordinator.write.series_cache import SeriesCache
from m3metrics.errors import IdError
from m3metrics.ids import Tags
from m3metrics.metric import parse_metric_type

__all__ = ["PATH", "Page", "Remembered", "remembered_route", "series_of"]

PATH = "/api/v1/rules/series"
PAGE = 200


class Page(msgspec.Struct):
    """A page."""

    series: list[dict[str, Any]] = []
    paths: list[dict[str, Any]] = []
    next: int | None = None
    """Behind which place the next page begins; None: this is the last one."""


class Remembered:
    """What one process remembers. ``carbon``: who knows what becomes of paths."""

    def __init__(
        self,
        writer: RemoteWriter,
        cache: SeriesCache,
        downsampler: Downsampler,
        carbon: Callable[[], CarbonIngester | None] = lambda: None,
    ) -> None:
        self._writer = writer
        self._cache = cache
        self._downsampler = downsampler
        self._carbon = carbon

    def page(self, after: int) -> Page:
        """Some of it, behind the ``after`` first places of the cache."""
        self._downsampler.advance(time.time_ns())
        entries, following = self._cache.remembered(after, PAGE)
        page = Page(next=following)
        for key, context in entries:
            if context >> 16 == CONTEXT:
                ingester = self._carbon()
                kept = [] if ingester is None else ingester.kept_lines(key)
                page.paths.append({"path": key.decode(errors="backslashreplace"), "kept": kept})
                continue
            try:
                series = self._writer.series_of(key, context)
                if series is not None:
                    page.series.append(_document(series, sent_lines(self._downsampler, series)))
            except IdError:
                continue
        return page


def remembered_route(page: Callable[[int], Awaitable[Page]]) -> Route:
    """The route. Query: ``after``, what ``next`` of the page before has said. ``page``: of all processes."""

    async def answer(request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdigit()):
            return JSONResponse({"status": "error", "error": f"after={after!r} is not what a page gave as next"}, 400)
        return JSONResponse(msgspec.to_builtins(await page(int(after))))

    return Route(PATH, answer, methods=["GET"])


def _document(series: SeenSeries, sent: list[str]) -> dict[str, Any]:
    tags = [[name.decode(errors="replace"), value.decode(errors="replace")] for name, value in series.tags]
    return {"tags": tags, "type": series.metric_type.name.lower(), "promType": series.prom_type, "sent": sent}


def series_of(document: dict[str, Any]) -> tuple[SeenSeries, list[str]]:
    """A series of an answer, and what is sent for it. Raises ``KeyError``, ``ValueError`` and ``MetricsError`` for anything else."""
    tags: Tags = [(name.encode(), value.encode()) for name, value in document["tags"]]
    return SeenSeries(tags, parse_metric_type(document["type"]), document["promType"]), list(document["sent"])
