"""The methods of a node that read."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.m3db import structs
from lab.m3db.index import Matcher, QueryError, parse_query, readable_query
from lab.m3db.judge import Judge
from lab.m3db.m3tsz import encode
from lab.m3db.namespaces import Namespace
from lab.m3db.storage import Series, Storage
from lab.m3db.thrift import write
from lab.m3db.writes import ElementError, Reply, Told, exception

__all__ = ["Reads"]

_BAD, _EXHAUSTED = 1, 1
_TAIL = 2
"""Bytes of a stream that come as its tail; readers put head and tail together."""


@dataclass(frozen=True, slots=True)
class _Limits:
    series: int
    docs: int
    require_exhaustive: bool

    def exceeded(self, matched: int) -> bool:
        return bool((self.series and matched >= self.series) or (self.docs and matched >= self.docs))

    def error(self, matched: int) -> ElementError:
        text = (
            f"query exceeded limit: require_exhaustive={str(self.require_exhaustive).lower()}, series_limit={self.series}, "
            f"series_matched={min(matched, self.series or matched)}, docs_limit={self.docs}, docs_matched={matched}"
        )
        return ElementError(_BAD, text, _EXHAUSTED)


class Reads:
    """Reads ``storage``. What was stored stays: no clock is looked at."""

    def __init__(self, storage: Storage, namespaces: dict[str, Namespace], judge: Judge) -> None:
        self._storage, self._namespaces, self._judge = storage, namespaces, judge

    def fetch_tagged(self, request: dict[str, Any], told: Told) -> Reply:
        """``fetchTagged``: whole blocks that overlap the range, each of one stream or several."""
        if request["rangeTimeType"] != structs.SECONDS:
            self._judge.note(f"fetchTagged with rangeTimeType {request['rangeTimeType']}, which nobody looks at")
        limits = _Limits(request["seriesLimit"] or 0, request["docsLimit"] or 0, request["requireExhaustive"])

        def answer(space: Namespace, found: list[Series], *, exhaustive: bool) -> Reply:
            begin, end, data = request["rangeStart"], request["rangeEnd"], request["fetchData"]
            elements = [
                {
                    "iD": series.id,
                    "nameSpace": space.name.encode(),
                    "encodedTags": series.block_bytes,
                    "segments": _segments(space, series, begin, end) if data else [],
                }
                for series in found
            ]
            result = {"elements": elements, "exhaustive": exhaustive}
            return Reply(0, write(structs.FETCH_TAGGED_RESULT, {"success": result}))

        return self._matching(request, limits, answer)

    def aggregate(self, request: dict[str, Any], told: Told) -> Reply:
        """``aggregateRaw``: names of tags, and their values."""
        limits = _Limits(
            request["seriesLimit"] or 0, request["docsLimit"] or 0, bool(request["requireExhaustive"])
        )  # fmt: skip
        wanted = request["tagNameFilter"]
        with_values = request["aggregateQueryType"] != 0

        def answer(space: Namespace, found: list[Series], *, exhaustive: bool) -> Reply:
            names: dict[bytes, dict[bytes, None]] = {}
            for series in found:
                for name, value in series.tags:
                    if not wanted or name in wanted:
                        names.setdefault(name, {})[value] = None
            results = [
                {"tagName": name, "tagValues": [{"tagValue": value} for value in values] if with_values else []}
                for name, values in names.items()
            ]
            return Reply(
                0, write(structs.AGGREGATE_RESULT, {"success": {"results": results, "exhaustive": exhaustive}})
            )

        return self._matching(request, limits, answer)

    def _matching(self, request: dict[str, Any], limits: _Limits, answer: Callable[..., Reply]) -> Reply:
        try:
            matches = parse_query(request["query"])
        except QueryError as error:
            self._judge.note(f"query {request['query'].hex()!r}: {error}")
            return exception(ElementError(_BAD, str(error)))
        name = request["nameSpace"].decode("utf-8", "replace")
        return self._answered(name, (request["rangeStart"], request["rangeEnd"]), matches, limits, answer)

    def _answered(
        self, name: str, between: tuple[int, int], matches: Matcher, limits: _Limits, answer: Callable[..., Reply]
    ) -> Reply:
        begin, end = between
        space = self._namespaces.get(name)
        if space is None:
            self._judge.note(f"namespace {name!r}, which there is not")
            return exception(ElementError(_BAD, f"unknown namespace: {name}"))
        if begin > end:
            self._judge.note(f"a range from {begin} to {end}")
            return exception(ElementError(_BAD, "series invalid time range read argument specified"))
        found = [
            series
            for series in self._storage.series(name)
            if _is_listed(space, series, begin, end) and matches(dict(series.tags))
        ]
        exceeded = limits.exceeded(len(found))
        if exceeded and limits.require_exhaustive:
            return exception(limits.error(len(found)))
        if exceeded:
            found = found[: min(limits.series or len(found), limits.docs or len(found))]
        return answer(space, found, exhaustive=not exceeded)

    # --- what people read

    def fetch(self, request: dict[str, Any], told: Told) -> Reply:
        """``fetch``: the points of one series, of whole blocks."""
        space = self._namespaces.get(request["nameSpace"])
        if space is None:
            return exception(ElementError(_BAD, f"unknown namespace: {request['nameSpace']}"))
        if (units := _units(request)) is None:
            return exception(ElementError(_BAD, "unknown time type"))
        series = self._storage.find(space.name, request["iD"].encode("utf-8", "surrogateescape"))
        listed = _readable(space, series, request, units) if series is not None else []
        return Reply(0, write(structs.FETCH_RESULT, {"success": {"datapoints": listed}}))

    def query(self, request: dict[str, Any], told: Told) -> Reply:
        """``query``: series with their points."""
        if (units := _units(request)) is None:
            return exception(ElementError(_BAD, "unknown time type"))
        try:
            matches = readable_query(request["query"])
        except QueryError as error:
            return exception(ElementError(_BAD, str(error)))

        def answer(space: Namespace, found: list[Series], *, exhaustive: bool) -> Reply:
            results = [
                {
                    "iD": series.id.decode("utf-8", "surrogateescape"),
                    "tags": [
                        {
                            "name": name.decode("utf-8", "surrogateescape"),
                            "value": value.decode("utf-8", "surrogateescape"),
                        }
                        for name, value in series.tags
                    ],
                    "datapoints": [] if request["noData"] else _readable(space, series, request, units),
                }
                for series in found
            ]
            return Reply(0, write(structs.QUERY_RESULT, {"success": {"results": results, "exhaustive": exhaustive}}))

        between = request["rangeStart"] * units[0], request["rangeEnd"] * units[0]
        limits = _Limits(request["limit"] or 0, 0, require_exhaustive=False)
        return self._answered(request["nameSpace"], between, matches, limits, answer)


def _units(request: dict[str, Any]) -> tuple[int, int] | None:
    """Nanoseconds of the units of the range and of the result; None: there is no such unit."""
    unit = structs.TIME_UNITS.get(request["rangeType"])
    result_unit = structs.TIME_UNITS.get(request["resultTimeType"])
    return None if unit is None or result_unit is None else (unit, result_unit)


def _readable(
    space: Namespace, series: Series, request: dict[str, Any], units: tuple[int, int]
) -> list[dict[str, Any]]:
    """The points of the blocks that overlap the range."""
    begin, end = request["rangeStart"] * units[0], request["rangeEnd"] * units[0]
    return [
        {
            "timestamp": point.time_ns // units[1],
            "value": point.bits,
            "annotation": point.annotation or None,
            "timestampTimeType": request["resultTimeType"],
        }
        for point in series.points()
        if _overlaps(point.time_ns // space.block_ns * space.block_ns, space.block_ns, begin, end)
    ]


def _is_listed(space: Namespace, series: Series, begin: int, end: int) -> bool:
    """Whether the index has it in the range: it works by blocks."""
    size = space.index_block_ns or space.block_ns
    return any(_overlaps(block // size * size, size, begin, end) for block in series.blocks)


def _overlaps(block: int, size: int, begin: int, end: int) -> bool:
    return block < end and begin < block + size


def _segments(space: Namespace, series: Series, begin: int, end: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for block, runs in sorted(series.blocks.items()):
        if not _overlaps(block, space.block_ns, begin, end):
            continue
        streams = []
        for run in runs:
            stream = encode(block, run)
            streams.append(
                {
                    "head": stream[:-_TAIL],
                    "tail": stream[-_TAIL:],
                    "startTime": block,
                    "blockSize": space.block_ns,
                    "checksum": zlib.adler32(stream),
                }
            )
        found.append({"merged": streams[0]} if len(streams) == 1 else {"unmerged": streams})
    return found
