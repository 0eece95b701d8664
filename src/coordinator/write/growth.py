"""``GET /api/v1/status/tsdb``: which metric names and label names the series have that came of late; the call and its form are Prometheus'.

A coordinator keeps no list of all series, so that counts are those of series that were new to a write process since a name was noticed
(``m3metrics.growth``), and not of all that there are. ``growth`` beside them is ours: how fast names grow now.
"""

from collections.abc import Awaitable, Callable, Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coordinator import prompb
from coordinator.api.answers import APIError, Methods
from coordinator.write import kernels
from m3metrics.growth import Growth, GrowthReport, merged
from m3metrics.ids import NAME_TAG, Tags
from m3x.protobuf import DecodeError

__all__ = ["Grown", "NewSeries", "growth_routes"]

_LABEL_FIELD = b"\x0a"
"""With what the labels of a series begin, and no path of carbon."""
_DEFAULT_LIMIT, _MOST = 10, 100
_MOST_LABELS = 256
"""Of a series that is read by compiled code."""


class Grown(msgspec.Struct, frozen=True):
    """What one process has to say."""

    series: int = 0
    """That it remembers."""
    report: GrowthReport = GrowthReport()


class NewSeries:
    """Looks at the series that a cache did not know. ``again``: how many come once more, as what they map to has changed."""

    def __init__(self, growth: Growth | None = None) -> None:
        self._growth = growth or Growth()
        self._again = 0
        self._spans = np.zeros((_MOST_LABELS, 4), np.int64)
        self.count = 0
        """Since the start."""

    def expect_again(self, series: int) -> None:
        """All that were known are forgotten: as many that come next are not new."""
        self._again = series

    def see(self, buf: NDArray[np.uint8], key_at: NDArray[np.uint32], key_size: NDArray[np.uint32]) -> None:
        """Keys of series: labels as protobuf, or paths of carbon."""
        first = min(self._again, len(key_at))
        self._again -= first
        self.count += len(key_at) - first
        chosen = self._growth.sample(len(key_at) - first)
        for k in chosen:
            at = int(key_at[first + k])
            self._growth.add(self._tags(buf[at : at + int(key_size[first + k])]), chosen.step)

    def report(self) -> GrowthReport:
        """What has grown most of late."""
        return self._growth.report(_MOST)

    def _tags(self, key: NDArray[np.uint8]) -> Tags:
        """Of a key that may be anything."""
        text = key.tobytes()
        if text[:1] != _LABEL_FIELD:
            return [(NAME_TAG, text)]
        found = kernels.label_spans(key, 0, len(key), self._spans)
        if found >= 0:
            return [(text[a : a + n], text[b : b + m]) for a, n, b, m in self._spans[:found].tolist()]
        try:
            return prompb.labels_of(text)
        except DecodeError:
            return []


def growth_routes(ask: Callable[[], Awaitable[Iterable[Grown]]]) -> list[Route]:
    """The routes; ``ask``: what every process has to say."""

    async def status(request: Request) -> Response:
        text = request.query_params.get("limit", str(_DEFAULT_LIMIT))
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _MOST:
            raise APIError(400, f"limit must be a number from 1 to {_MOST}, found {text!r}")
        found = list(await ask())
        return JSONResponse(document(sum(one.series for one in found), [one.report for one in found], int(text)))

    return [
        Route(f"{prefix}/api/v1/status/tsdb", Methods({"GET": status})) for prefix in ("", "/prometheus", "/m3query")
    ]


def document(series: int, reports: Iterable[GrowthReport], limit: int) -> dict[str, object]:
    """The body, with at most ``limit`` names in each list."""
    found = merged(reports, _MOST)
    names = sorted(found.metric_names, key=lambda one: -one.series)[:limit]
    labels = sorted(found.label_names, key=lambda one: -one.values)[:limit]
    return {
        "status": "success",
        "data": {
            "headStats": {
                "numSeries": series,
                "numLabelPairs": sum(one.values for one in found.label_names),
                "chunkCount": 0,
                "minTime": 0,
                "maxTime": 0,
            },
            "seriesCountByMetricName": [{"name": one.name, "value": one.series} for one in names],
            "labelValueCountByLabelName": [{"name": one.name, "value": one.values} for one in labels],
            "memoryInBytesByLabelName": [],
            "seriesCountByLabelValuePair": [],
            "growth": msgspec.to_builtins(
                GrowthReport(found.new_series, found.metric_names[:limit], found.label_names[:limit])
            ),
        },
    }
