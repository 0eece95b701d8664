"""The nodes that a glob names: leaves, which are series, and branches, which have something beneath them."""

import asyncio
from typing import Any

import msgspec

from coordinator.matchers import Matcher, MatchOp
from coordinator.query.graphite.paths import (
    below,
    end,
    glob_matchers,
    graphite_path,
    id_matchers,
    part_tag,
    path_predicate,
)
from coordinator.query.graphite.requests import FindRequest
from coordinator.query.source import Notes, ReadOptions, Source, beyond_docs_limit

__all__ = ["ANY_PATH", "Nodes", "find_nodes", "nodes_answer", "without_docs_limit"]

Nodes = set[tuple[str, bool]]
"""Paths, and whether they are leaves."""

ANY_PATH = Matcher(MatchOp.NOT_EQUAL, part_tag(0), b"")
"""Series that are paths."""


async def find_nodes(source: Source, request: FindRequest) -> tuple[Nodes, Notes]:
    """Raises ``GlobError`` and ``QueryError``."""
    if "**" in request.query:
        return await _deep(source, request)
    return await (_listed if source.lists_cheaply else _completed)(source, request)


def nodes_answer(nodes: Nodes) -> list[dict[str, Any]]:
    """As M3 answers: sorted, a branch before a leaf of its name."""
    return [
        {
            "id": path,
            "text": path.rpartition(".")[2],
            "leaf": int(leaf),
            "expandable": int(not leaf),
            "allowChildren": int(not leaf),
        }
        for path, leaf in sorted(nodes)
    ]


async def _listed(source: Source, request: FindRequest) -> tuple[Nodes, Notes]:
    """By going through all series of the glob and beneath it."""
    found = await source.series([glob_matchers(request.query)], *request.range_ms, request.options)
    length = request.query.count(".") + 1

    def nodes() -> Nodes:
        paths = [graphite_path(found.tags(i)) for i in range(len(found))]
        parts = [path.split(".") for path in paths if path is not None]
        return {(".".join(names[:length]), len(names) == length) for names in parts}

    return await asyncio.to_thread(nodes), found.notes


async def _completed(source: Source, request: FindRequest) -> tuple[Nodes, Notes]:
    """By the values of the last part alone, as in M3: globs before it stay what they are, and a branch hides a leaf."""
    query, options = request.query, request.options
    before, dot, _ = query.rpartition(".")
    name, matchers = part_tag(query.count(".")), glob_matchers(query)
    leaves, branches = await asyncio.gather(
        source.label_values(name, [(*matchers, end(query))], *request.range_ms, options),
        source.label_values(name, [(*matchers, below(query))], *request.range_ms, options),
    )
    above = set(branches.texts)
    nodes = {
        (f"{before}{dot}{value.decode(errors='replace')}", value not in above)
        for value in [*leaves.texts, *branches.texts]
    }
    return nodes, leaves.notes.joined(branches.notes)


async def _deep(source: Source, request: FindRequest) -> tuple[Nodes, Notes]:
    """Of a glob with ``**``: whatever matches at any depth."""
    matches, options = path_predicate(request.query), request.options
    if source.knows_ids:
        found = await source.series([id_matchers(request.query)], *request.range_ms, options)
    else:
        # Which ones match is known here alone, and so is how many.
        found = await source.series([(ANY_PATH,)], *request.range_ms, without_docs_limit(options))

    def nodes() -> tuple[Nodes, Notes]:
        paths = sorted(path for i in range(len(found)) if (path := graphite_path(found.tags(i))) is not None)
        matching = [some for path in paths if (some := {node for node in _nodes_of(path) if matches(node[0])})]
        if source.knows_ids or not beyond_docs_limit(len(matching), options):
            return set().union(*matching), found.notes
        return set().union(*matching[: options.docs_limit]), found.notes.joined(Notes(limited=True))

    return await asyncio.to_thread(nodes)


def _nodes_of(path: str) -> Nodes:
    """A series and all branches above it."""
    parts = path.split(".")
    return {(".".join(parts[:length]), length == len(parts)) for length in range(1, len(parts) + 1)}


def without_docs_limit(options: ReadOptions) -> ReadOptions:
    """For what is listed only to find something else in it."""
    return msgspec.structs.replace(options, docs_limit=0)
