"""``/api/v1/graphite/render`` and ``/metrics/find`` for path globs; functions are not evaluated.

A path is the values of the tags ``__g0__``, ``__g1__`` … joined with dots. Globs: ``*`` and ``?`` inside one part, ``[…]``, ``{a,b}``.
"""

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from coordinator.matchers import Matcher, MatcherError, MatchOp
from coordinator.query import kernels
from coordinator.query.errors import QueryError
from coordinator.query.parameters import Parameters, read_options, read_parameters
from coordinator.query.rendering import encode, note_headers
from coordinator.query.source import NO_NOTES, Notes, ReadOptions, Selection, Source
from m3metrics.ids import Tags
from m3x.clock import wall_ns

__all__ = ["Graphite", "glob_matchers", "graphite_path"]

_PART = re.compile(rb"__g(\d+)__")
_FUNCTION = re.compile(r"\w+\(")
_RELATIVE = re.compile(r"(?:now)?-(\d+)([a-z]+)")
_UNITS_MS = (
    ("mon", 30 * 86_400_000), ("min", 60_000), ("ms", 1), ("s", 1000), ("h", 3_600_000),
    ("d", 86_400_000), ("w", 7 * 86_400_000), ("y", 365 * 86_400_000), ("m", 60_000),
)  # fmt: skip
_MAX_POINTS = 50_000
_MAX_PARTS = 256


def graphite_path(tags: Tags) -> str | None:
    """The path of a series, None if it is not of graphite's kind."""
    parts = [(int(found[1]), value) for name, value in tags if (found := _PART.fullmatch(name))]
    if not parts or len(parts) != len(tags):
        return None
    return ".".join(value.decode(errors="replace") for _, value in sorted(parts))


def glob_matchers(glob: str, *, below: bool = False) -> tuple[Matcher, ...]:
    """Matchers for all paths of that glob; ``below`` takes the paths beneath it as well. Raises ``QueryError``."""
    parts = _split(glob)
    if len(parts) > _MAX_PARTS:
        raise QueryError(f"the path has more than {_MAX_PARTS} parts")
    found = []
    for i, part in enumerate(parts):
        name = b"__g%d__" % i
        if part == "*":
            found.append(Matcher(MatchOp.NOT_EQUAL, name, b""))
        elif re.search(r"[*?\[{]", part):
            found.append(Matcher(MatchOp.REGEX, name, _pattern(part).encode()))
        else:
            found.append(Matcher(MatchOp.EQUAL, name, part.encode()))
    if not below:
        found.append(Matcher(MatchOp.EQUAL, b"__g%d__" % len(parts), b""))
    return tuple(found)


def _split(glob: str) -> list[str]:
    """At the dots outside braces and brackets."""
    parts, depth, part = [], 0, ""
    for character in glob:
        depth += (character in "{[") - (character in "}]")
        if character == "." and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    return [*parts, part]


def _pattern(part: str) -> str:
    out, i, depth = "", 0, 0
    while i < len(part):
        character = part[i]
        i += 1
        if character == "*":
            out += "[^.]*"
        elif character == "?":
            out += "[^.]"
        elif character == "[" and "]" in part[i:]:
            end = part.index("]", i)
            content = part[i:end].replace("\\", r"\\")
            out += f"[^{content[1:]}]" if content.startswith("!") else f"[{content}]"
            i = end + 1
        elif character == "{":
            out, depth = out + "(?:", depth + 1
        elif character == "}" and depth:
            out, depth = out + ")", depth - 1
        elif character == "," and depth:
            out += "|"
        else:
            out += re.escape(character)
    return out


def parse_time_ms(name: str, text: str, now_ms: int) -> int:
    """Unix seconds, ``now``, ``-1h``, ``now-1h``, ``YYYYMMDD`` or ``HH:MM_YYYYMMDD`` (UTC). Raises ``QueryError``."""
    text = text.strip()
    if text in ("", "now"):
        return now_ms
    if found := _RELATIVE.fullmatch(text):
        number, unit = found.groups()
        size = next((size for prefix, size in _UNITS_MS if unit.startswith(prefix)), 0)
        if size and len(number) < 12:
            return now_ms - int(number) * size
    for layout in ("%Y%m%d", "%H:%M_%Y%m%d"):
        try:
            return int(datetime.strptime(text, layout).replace(tzinfo=UTC).timestamp()) * 1000
        except ValueError:
            continue
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not abs(seconds) < 1 << 43:
        raise QueryError(f"invalid parameter {name!r}: {text!r}; expected Unix seconds, now or a time such as -1h")
    return round(seconds * 1000)


class Graphite:
    """The handlers; they raise ``QueryError``."""

    def __init__(self, source: Source, defaults: ReadOptions) -> None:
        self._source = source
        self._defaults = msgspec.structs.replace(defaults, paths=True)

    async def render(self, request: Request) -> Response:
        """``/api/v1/graphite/render``: ``target`` (several), ``from``, ``until``, ``maxDataPoints``; JSON only."""
        parameters = await read_parameters(request, wall_ns() // 1_000_000)
        targets = parameters.all("target")
        if not targets:
            raise QueryError("no 'target' specified")
        if parameters.text("format", "json") != "json":
            raise QueryError(f"format {parameters.text('format')!r} is not supported; ask for format=json")
        start_ms = parse_time_ms("from", parameters.text("from", "-24h"), parameters.now_ms)
        end_ms = parse_time_ms("until", parameters.text("until", "now"), parameters.now_ms)
        if end_ms < start_ms:
            raise QueryError("'from' must be before 'until'")
        limit = parameters.text("maxDataPoints")
        if limit and not limit.isdecimal():
            raise QueryError(f"invalid parameter 'maxDataPoints': {limit!r} is not a number")
        options, notes = read_options(request, self._defaults), NO_NOTES
        answer: list[dict[str, Any]] = []
        for target in targets:
            if _FUNCTION.search(target):
                raise QueryError(
                    f"target {target!r}: functions are not supported here; ask for a path, for example a.*.{{b,c}}"
                )
            found = await self._source.select(_checked(target), start_ms, end_ms, options)
            notes = notes.joined(found.notes)
            answer += await asyncio.to_thread(_render, found, start_ms, end_ms, int(limit or 0))
        return Response(encode(answer), media_type="application/json", headers=note_headers(notes))

    async def find(self, request: Request) -> Response:
        """``/api/v1/graphite/metrics/find``: the nodes that a glob names, leaves and branches."""
        parameters: Parameters = await read_parameters(request, wall_ns() // 1_000_000)
        query = parameters.text("query")
        if not query:
            raise QueryError("no 'query' specified")
        start_ms = parse_time_ms("from", parameters.text("from", "0"), parameters.now_ms)
        end_ms = parse_time_ms("until", parameters.text("until", "now"), parameters.now_ms)
        options = read_options(request, self._defaults)
        listed = self._listed if self._source.lists_cheaply else self._completed
        kinds, notes = await listed(query, start_ms, end_ms, options)
        nodes = [
            {
                "id": path,
                "text": path.rpartition(".")[2],
                "leaf": int(leaf),
                "expandable": int(not leaf),
                "allowChildren": int(not leaf),
            }
            for path, leaf in sorted(kinds)
        ]
        return Response(encode(nodes), media_type="application/json", headers=note_headers(notes))

    async def _listed(
        self, query: str, start_ms: int, end_ms: int, options: ReadOptions
    ) -> tuple[set[tuple[str, bool]], Notes]:
        """The nodes of a glob, and whether they are leaves, by going through all series beneath it."""
        found = await self._source.series([_checked(query, below=True)], start_ms, end_ms, options)
        length = len(_split(query))

        def nodes() -> set[tuple[str, bool]]:
            paths = [graphite_path(found.tags(i)) for i in range(len(found))]
            parts = [path.split(".") for path in paths if path is not None]
            return {(".".join(names[:length]), len(names) == length) for names in parts}

        return await asyncio.to_thread(nodes), found.notes

    async def _completed(
        self, query: str, start_ms: int, end_ms: int, options: ReadOptions
    ) -> tuple[set[tuple[str, bool]], Notes]:
        """The same by the values of the last part alone, as in M3: globs before it stay what they are, and a branch hides a leaf."""
        *before, _ = parts = _split(query)
        name, beneath = b"__g%d__" % (len(parts) - 1), Matcher(MatchOp.NOT_EQUAL, b"__g%d__" % len(parts), b"")
        leaves, branches = await asyncio.gather(
            self._source.label_values(name, [_checked(query)], start_ms, end_ms, options),
            self._source.label_values(name, [(*_checked(query, below=True), beneath)], start_ms, end_ms, options),
        )
        above = set(branches.texts)
        kinds = {
            (".".join([*before, value.decode(errors="replace")]), value not in above)
            for value in [*leaves.texts, *branches.texts]
        }
        return kinds, leaves.notes.joined(branches.notes)


def _checked(glob: str, *, below: bool = False) -> Sequence[Matcher]:
    try:
        return glob_matchers(glob, below=below)
    except MatcherError as error:
        raise QueryError(f"path {glob!r}: {error}") from None
    except UnicodeEncodeError:
        raise QueryError("the path is not valid UTF-8") from None


def _render(found: Selection, start_ms: int, end_ms: int, limit: int) -> list[dict[str, Any]]:
    """A grid of the resolution: a point belongs to the first grid time at or after it."""
    answer = []
    values = found.values
    for i in found.order_by_labels():
        path = graphite_path(found.tags(i))
        if path is None:
            continue
        step_ms = int(found.windows_ms[i]) or 1000
        first_ms = -(-start_ms // step_ms) * step_ms
        steps = (end_ms - first_ms) // step_ms + 1
        if steps > _MAX_POINTS:
            raise QueryError(
                f"{path}: {steps} points of {step_ms // 1000} s; at most {_MAX_POINTS}: ask for a shorter range"
            )
        first, last = int(found.offsets[i]), int(found.offsets[i + 1])
        at = np.empty(steps, np.int64)
        kernels.latest(found.time_ms[first:last], found.bits[first:last], first_ms, step_ms, step_ms, at)
        grid = np.where(at >= 0, values[first:last][at.clip(min=0)], np.nan)
        if 0 < limit < steps:
            grid, step_ms = _consolidate(grid, -(-steps // limit)), step_ms * -(-steps // limit)
        points = [
            [value if np.isfinite(value) else None, (first_ms + k * step_ms) // 1000]
            for k, value in enumerate(grid.tolist())
        ]
        answer.append({"target": path, "datapoints": points})
    return answer


def _consolidate(grid: np.ndarray[Any, np.dtype[np.float64]], stride: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The mean of each ``stride`` values, as Graphite does for ``maxDataPoints``; NaN where there is none."""
    padded = np.full(-(-len(grid) // stride) * stride, np.nan)
    padded[: len(grid)] = grid
    rows = padded.reshape(-1, stride)
    present = np.isfinite(rows)
    counts = present.sum(axis=1)
    sums = np.where(present, rows, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
