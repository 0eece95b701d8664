"""The nodes that a glob names: leaves, which are series, and branches, which have something beneath them."""

import asyncio
from typing import Any

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
from coordinator.query.source import Notes, Source

__all__ = ["Nodes", "find_nodes", "nodes_answer"]

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
    matches = path_predicate(request.query)
    matchers = id_matchers(request.query) if source.knows_ids else (ANY_PATH,)
    found = await source.series([matchers], *request.range_ms, request.options)

    def nodes() -> Nodes:
        result: Nodes = set()
        for path in {graphite_path(found.tags(i)) for i in range(len(found))} - {None}:
            parts = str(path).split(".")
            for length in range(1, len(parts) + 1):
                node = ".".join(parts[:length])
                if matches(node):
                    result.add((node, length == len(parts)))
        return result

    return await asyncio.to_thread(nodes), found.notes
