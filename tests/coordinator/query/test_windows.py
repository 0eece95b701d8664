"""Our own feed of windows."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from coordinator.query.windows import series_text

Fill = Callable[..., Awaitable[None]]


async def test_the_feed(
    client: httpx.AsyncClient, fill: Fill, graphite_tags: Callable[[str], Any], base_s: int
) -> None:
    assert (await client.get("/api/v1/windows")).json() == {"windows": [], "next": 0}
    await fill(
        [
            ({"__name__": "a", "x": 'q"'}, [(base_s - 10, 1.0), (base_s, float("inf"))]),
            (graphite_tags("a.b"), [(base_s, 2.0)]),
        ]
    )
    await fill([({"__name__": "a"}, [(base_s, 4.0)])], policy=1)
    windows: list[Any] = []
    following = 0
    async with asyncio.timeout(20):
        while len(windows) < 3:
            answer = (await client.get("/api/v1/windows", params={"since": following})).json()
            windows += answer["windows"]
            following = answer["next"]
            await asyncio.sleep(0.05)
    assert [(w["policy"], w["time_ms"], w["count"]) for w in windows] == [
        ("10s:6h", (base_s - 10) * 1000, 1), ("10s:6h", base_s * 1000, 2), ("1m:40d", base_s * 1000, 1),
    ]  # fmt: skip
    assert windows[1]["samples"] == [{"series": 'a{x="q\\""}', "value": "+Inf"}, {"series": "a.b", "value": 2.0}]
    assert (await client.get("/api/v1/windows", params={"since": following})).json() == {
        "windows": [],
        "next": following,
    }


def test_series_as_text() -> None:
    assert series_text([(b"__name__", b"up")]) == "up"
    assert series_text([(b"a", b"1"), (b"b", b"\xff")]) == '{a="1",b="�"}'
    assert (
        series_text([(b"__g0__", b"a"), (b"__g1__", b"b"), (b"__g10__", b"d"), (b"__g2__", b"c")]) == "a.b.c........d"
    )
