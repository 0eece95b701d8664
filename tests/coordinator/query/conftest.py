"""A store behind its HTTP routes, filled as the databases of the recorded requests were."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from tests.golden.vectors import REQUIRED, ROOT

from coordinator.query import EmbeddedSource, query_routes
from coordinator.store import Store, StoreOptions, WriteBatch, open_store
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy

BASE_S = 1_795_374_690
"""Time of the recorded requests."""
PREFIX = "gc1795374690"

Points = Sequence[tuple[int, float]]
Fill = Callable[..., Awaitable[None]]


async def fill_store(store: Store, series: Sequence[tuple[dict[str, str], Points]], policy: int = 0) -> None:
    """Writes series of (tags, (second, value) …)."""
    ids, times, values = [], [], []
    for tags, points in series:
        for second, value in points:
            ids.append(encode_tags(sorted((k.encode(), v.encode()) for k, v in tags.items())))
            times.append(round(second * 1000))
            values.append(value)
    sizes = np.array([len(one) for one in ids], np.int64)
    written = await store.write(
        WriteBatch(
            buf=np.frombuffer(bytearray(b"".join(ids)), np.uint8),
            id_at=np.cumsum(sizes) - sizes,
            id_size=sizes,
            time_ms=np.array(times, np.int64),
            values=np.array(values, np.float64),
            policies=np.full(len(ids), policy, np.int64),
        )
    )
    assert not written.refusals.any()


def graphite(path: str) -> dict[str, str]:
    """Tags of a graphite series."""
    parts = {f"__g{i}__": part for i, part in enumerate(path.split("."))}
    return {**parts, "__option_id_scheme__": "graphite"}


def recorded_series() -> list[tuple[dict[str, str], Points]]:
    """What was stored for the recorded requests (golden/coordinator/README.md)."""
    steps = [(BASE_S - 50 + 10 * k, k) for k in range(6)]
    return [
        ({"__name__": f"{PREFIX}_req", "code": "200", "job": "api"}, [(t, 10 * k) for t, k in steps]),
        ({"__name__": f"{PREFIX}_req", "code": "500", "job": "api"}, [(t, k) for t, k in steps]),
        ({"__name__": f"{PREFIX}_temp", "room": 'a"b'}, [(t, 20 + k / 2) for t, k in steps]),
        ({"__name__": f"{PREFIX}_nan", "job": "n"}, [(BASE_S - 20, np.nan), (BASE_S - 10, np.inf), (BASE_S, -np.inf)]),
        ({"__name__": f"{PREFIX}_agg", "job": "api"}, [(t, 1.5 * k) for t, k in steps]),
        (graphite(f"{PREFIX}.cpu"), [(t, k) for t, k in steps]),
        (graphite(f"{PREFIX}.p1.p2"), [(t, k) for t, k in steps]),
    ]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """Policies 10s:6h and 1m:40d; the clock stands at BASE_S."""
    policies = [StoragePolicy.parse("10s:6h"), StoragePolicy.parse("1m:40d")]
    options = StoreOptions(max_query_points=2_000_000)
    async with open_store(tmp_path / "m.duckdb", policies, options, clock=lambda: BASE_S * 10**9) as opened:
        yield opened


@pytest.fixture
async def client(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP over ``store``."""
    transport = httpx.ASGITransport(app=Starlette(routes=query_routes(EmbeddedSource(store), watched=store)))
    async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as opened:
        yield opened


@pytest.fixture
def fill(store: Store) -> Fill:
    """``fill_store`` for ``store``."""

    async def filled(series: Sequence[tuple[dict[str, str], Points]], policy: int = 0) -> None:
        await fill_store(store, series, policy)

    return filled


@pytest.fixture
async def recorded(store: Store) -> Store:
    """The store with ``recorded_series``."""
    await fill_store(store, recorded_series())
    return store


@pytest.fixture
def graphite_tags() -> Callable[[str], dict[str, str]]:
    """``graphite``."""
    return graphite


@pytest.fixture
def base_s() -> int:
    """``BASE_S``."""
    return BASE_S


@pytest.fixture
def golden() -> list[dict[str, Any]]:
    """The recorded requests."""
    path = ROOT / "coordinator" / "promql_smoke.jsonl"
    if not path.exists() and not REQUIRED:
        pytest.skip(f"no golden vectors in {ROOT} (set GOLDEN_DIR)")
    return [json.loads(line) for line in path.read_text().splitlines()]
