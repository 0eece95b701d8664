"""A reader of M3DB that answers from lists, and keeps what it was asked."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from coordinator.config import Namespace
from coordinator.query import ReadOptions, query_routes
from coordinator.query.m3db import M3DBSource
from coordinator.query.source import Source
from m3db.errors import ErrorFlag, ErrorType, M3DBError, NodeError
from m3db.read.aggregate import Aggregated
from m3db.read.index_query import (
    AllQuery,
    ConjunctionQuery,
    DisjunctionQuery,
    FieldQuery,
    NegationQuery,
    Query,
    RegexpQuery,
    TermQuery,
    query_text,
    unmarshal_query,
)
from m3db.read.merge import ByteColumn, Fetched
from m3db.reader import Reader, ReadError
from m3metrics.ids import encode_tags

NOW_S = 1_795_374_690
ID_FIELD = "_m3ninx_id"
"""By which a node's index knows the id of a series; here that of a Graphite path."""
H = 3600 * 10**9

Tags = dict[str, str]
Pairs = list[tuple[str, str]]
Stored = Sequence[tuple[Tags | Pairs, Sequence[tuple[float, float]]]]
"""Tags, in pairs where a name is there twice, and (second, value) pairs."""


def pairs(tags: Tags | Pairs) -> list[tuple[bytes, bytes]]:
    """Names and values, in order."""
    listed = tags.items() if isinstance(tags, dict) else tags
    return [(name.encode(), value.encode()) for name, value in listed]


def matches(query: Query, tags: dict[bytes, list[bytes]]) -> bool:
    """What a node's index would say of the values of each name."""
    match query:
        case AllQuery():
            return True
        case FieldQuery(name):
            return name in tags
        case TermQuery(name, term):
            return term in tags.get(name, ())
        case RegexpQuery(name, pattern):
            return any(re.fullmatch(pattern, value) for value in tags.get(name, ()))
        case NegationQuery(inner):
            return not matches(inner, tags)
        case ConjunctionQuery(queries, negations):
            found = all(matches(one, tags) for one in queries) and bool(queries)
            return found and not any(matches(one, tags) for one in negations)
        case DisjunctionQuery(queries):
            return any(matches(one, tags) for one in queries)


def fields_of(tags: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """The values of each name as an index has them, that of the id among them."""
    fields = {ID_FIELD.encode(): [b".".join(value for _, value in tags)]}
    for name, value in tags:
        fields.setdefault(name, []).append(value)
    return fields


def within(points: Sequence[tuple[float, float]], start_ns: int, end_ns: int) -> bool:
    """Whether an index would list a series for a range: by its points, if it has any."""
    return not points or any(start_ns <= round(second * 10**9) < end_ns for second, _ in points)


@dataclass
class PlayedReader:
    """``Reader`` over what was put into ``stored``, by namespace. ``failure``: what every call raises."""

    stored: dict[str, Stored] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    failure: M3DBError | None = None

    def texts(self) -> list[tuple[str, str]]:
        """Namespace and query of each call."""
        return [(one["namespace"], one["query"]) for one in self.asked]

    def _matching(
        self, namespace: bytes, query: bytes, start_ns: int, end_ns: int, more: dict[str, Any]
    ) -> tuple[list[tuple[Tags | Pairs, Sequence[tuple[float, float]]]], bool]:
        tree = unmarshal_query(query)
        text = query_text(tree).decode()
        self.asked.append({"namespace": namespace.decode(), "query": text, "start": start_ns, "end": end_ns, **more})
        if self.failure is not None:
            raise self.failure
        found = [
            (tags, points)
            for tags, points in self.stored.get(namespace.decode(), [])
            if matches(tree, fields_of(pairs(tags))) and (more.get("data") or within(points, start_ns, end_ns))
        ]
        limit = more["series_limit"]
        if 0 < limit <= len(found):
            if more["require_exhaustive"]:
                error = NodeError(ErrorType.BAD_REQUEST, "query exceeded limit: too many", ErrorFlag.RESOURCE_EXHAUSTED)
                raise ReadError("unable to satisfy", [("node1", error)])
            return found[:limit], False
        return found, True

    async def fetch_tagged(
        self, namespace: bytes, query: bytes, start_ns: int, end_ns: int, *, fetch_data: bool = True, **more: Any
    ) -> Fetched:
        found, exhaustive = self._matching(namespace, query, start_ns, end_ns, {"data": fetch_data, **more})
        encoded = [encode_tags(pairs(tags)) for tags, _ in found]
        rows = [
            [(round(s * 10**9), v) for s, v in points if fetch_data and start_ns <= round(s * 10**9) < end_ns]
            for _, points in found
        ]
        flat = [row for some in rows for row in some]
        return Fetched(
            ids=column([repr(sorted(pairs(tags))).encode() for tags, _ in found]),
            tags=column(encoded),
            offsets=np.cumsum([0, *map(len, rows)]),
            time_ns=np.array([time for time, _ in flat], np.int64),
            bits=np.array([value for _, value in flat], np.float64).view(np.uint64),
            exhaustive=exhaustive,
        )

    async def aggregate(
        self,
        namespace: bytes,
        query: bytes,
        start_ns: int,
        end_ns: int,
        *,
        names: Sequence[bytes] = (),
        names_only: bool = False,
        **more: Any,
    ) -> Aggregated:
        asked = {"names": list(names), "names_only": names_only, **more}
        found, exhaustive = self._matching(namespace, query, start_ns, end_ns, asked)
        fields: dict[bytes, list[bytes]] = {}
        for tags, _ in found:
            for name, value in pairs(tags):
                if not names or name in names:
                    fields.setdefault(name, []).extend([] if names_only else [value])
        return Aggregated({name: sorted(set(values)) for name, values in fields.items()}, exhaustive)


def column(texts: Sequence[bytes]) -> ByteColumn:
    """Byte strings one behind the other."""
    size = np.array([len(text) for text in texts], np.int64)
    arena = np.frombuffer(bytearray(b"".join(texts)) or bytearray(1), np.uint8)
    return ByteColumn(arena, np.cumsum(size) - size, size)


@pytest.fixture
def reader() -> PlayedReader:
    """Nothing is stored yet."""
    return PlayedReader()


@pytest.fixture
def namespaces() -> list[Namespace]:
    """May be changed by the test."""
    return [
        Namespace("raw", 0, 6 * H),
        Namespace("agg10s", 10 * 10**9, 48 * H),
        Namespace("agg10m", 600 * 10**9, 960 * H),
    ]


@pytest.fixture
def source(reader: PlayedReader, namespaces: list[Namespace]) -> M3DBSource:
    """Over ``reader`` and ``namespaces``; the clock stands at ``NOW_S``."""
    return M3DBSource(cast(Reader, reader), lambda: namespaces, clock=lambda: NOW_S * 10**9)


@pytest.fixture
def odd_source(reader: PlayedReader, namespaces: list[Namespace]) -> M3DBSource:
    """The same, where options let tags without value and names twice in."""
    return M3DBSource(cast(Reader, reader), lambda: namespaces, odd_tags=True, clock=lambda: NOW_S * 10**9)


def client_of(source: Source) -> httpx.AsyncClient:
    """HTTP over a source."""
    routes = query_routes(source, defaults=ReadOptions(series_limit=1000))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=Starlette(routes=routes)), base_url="http://coordinator")


@pytest.fixture
async def client(source: M3DBSource) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP over ``source``."""
    async with client_of(source) as opened:
        yield opened


@pytest.fixture
def now_s() -> int:
    """``NOW_S``."""
    return NOW_S


@pytest.fixture
def path_tags() -> Callable[[str], Tags]:
    """Tags of a Graphite path, in M3's order: by length of the name first."""
    return lambda path: {f"__g{i}__": part for i, part in enumerate(path.split("."))}
