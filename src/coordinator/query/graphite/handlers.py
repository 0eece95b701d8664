"""``/api/v1/graphite/render`` and ``/api/v1/graphite/metrics/find``."""

import asyncio
from collections.abc import Callable
from functools import reduce
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from coordinator.query.errors import QueryError
from coordinator.query.graphite.compiler import Call, Fetch, TargetError, compile_target, functions_of
from coordinator.query.graphite.find import ANY_PATH, find_nodes, nodes_answer, without_docs_limit
from coordinator.query.graphite.grid import grid_of
from coordinator.query.graphite.paths import (
    GlobError,
    NoGlobError,
    expansions,
    graphite_path,
    id_matchers,
    path_matchers,
    path_predicate,
)
from coordinator.query.graphite.requests import RenderRequest, read_find, read_render
from coordinator.query.rendering import encode, note_headers
from coordinator.query.source import NO_NOTES, Notes, ReadOptions, Selection, Source
from m3x.clock import wall_ns

__all__ = ["Graphite"]

_Series = dict[str, dict[str, Any]]
"""Series as they are answered, by path."""


class Graphite:
    """The handlers; they raise ``QueryError``."""

    def __init__(self, source: Source, defaults: ReadOptions, *, clock: Callable[[], int] = wall_ns) -> None:
        """``clock``: what now is, in ns since the epoch."""
        self._source = source
        self._defaults = msgspec.structs.replace(defaults, paths=True)
        self._clock = clock

    async def render(self, request: Request) -> Response:
        """The series of all targets, each target's by path; JSON, whatever ``format`` says, as in M3."""
        asked = await read_render(request, self._defaults, self._clock())
        answer: list[dict[str, Any]] = []
        notes = NO_NOTES
        for path in _paths(asked.targets):
            found = await self._selected(path, asked)
            notes = reduce(Notes.joined, (one.notes for one in found), notes)
            series = await asyncio.to_thread(self._answered, path, found, asked)
            answer += [series[name] for name in sorted(series)]
        return Response(encode(answer), media_type="application/json", headers=note_headers(notes))

    async def find(self, request: Request) -> Response:
        """The nodes that a glob names, leaves and branches."""
        asked = await read_find(request, self._defaults, self._clock())
        try:
            nodes, notes = await find_nodes(self._source, asked)
        except GlobError as error:
            raise QueryError(f"invalid 'query': {asked.query}: {error}") from None
        return Response(encode(nodes_answer(nodes)), media_type="application/json", headers=note_headers(notes))

    async def _selected(self, path: str, asked: RenderRequest) -> list[Selection]:
        """What storage has of a path; nothing of one that cannot be, as in M3."""
        source, options = self._source, asked.options
        try:
            if "**" not in path:
                wanted = [path_matchers(path)]
            elif source.knows_ids:
                wanted = [id_matchers(path)]
            else:
                listed = await source.label_names([(ANY_PATH,)], *asked.range_ms, without_docs_limit(options))
                globs = [glob for depth in range(1, len(listed.texts) + 1) for glob in expansions(path, depth)]
                wanted = [path_matchers(glob) for glob in globs]
        except NoGlobError:
            return []
        except GlobError as error:
            raise QueryError(f"path {path!r}: {error}") from None
        return [await source.select(matchers, *asked.range_ms, options) for matchers in wanted]

    def _answered(self, glob: str, found: list[Selection], asked: RenderRequest) -> _Series:
        """The series of what was found that are paths of ``glob``."""
        matches = path_predicate(glob) if "**" in glob else None
        start_ms, end_ms = asked.range_ms
        answer: _Series = {}
        for one, i in ((selection, i) for selection in found for i in range(len(selection))):
            path = graphite_path(one.tags(i))
            if path is None or (matches is not None and not matches(path)):
                continue
            points, resolution_ms = slice(one.offsets[i], one.offsets[i + 1]), int(one.windows_ms[i])
            grid = grid_of(
                path,
                one.time_ms[points],
                one.values[points],
                resolution_ms,
                max(start_ms, self._source.oldest_ms(resolution_ms)),
                end_ms,
                asked.max_data_points,
            )
            answer[path] = grid.answer(path)
        return answer


def _paths(targets: list[str]) -> list[str]:
    """The paths that targets ask for. Raises ``QueryError`` for what is no target, and for functions."""
    paths = []
    calls = []
    for target in targets:
        try:
            tree = compile_target(target)
        except TargetError as error:
            kind = "bad_data" if error.status == 400 else "execution"
            raise QueryError(f"invalid 'target': {target} => {error}", kind=kind, status=error.status) from None
        if isinstance(tree, Call):
            calls.append((target, tree))
        elif isinstance(tree, Fetch):
            paths.append(tree.path)
    for target, call in calls:
        names = ", ".join(functions_of(call))
        raise QueryError(
            f"target '{target}': functions are not evaluated here, and it calls {names}; ask for the path alone, such as a.*.{{b,c}}",
            kind="execution",
        )
    return paths
