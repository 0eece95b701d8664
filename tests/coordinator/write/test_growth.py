"""``/api/v1/status/tsdb``: which names the series have that the cache had not known."""

import httpx
import numpy as np
from starlette.applications import Starlette

from coordinator import prompb
from coordinator.write import Grown, SeriesCache, growth_routes
from coordinator.write.growth import NewSeries
from m3x.protobuf import marshal


def key(name: bytes, pod: int) -> bytes:
    """The labels of a series as the cache has them."""
    series = {"labels": [{"name": b"__name__", "value": name}, {"name": b"pod", "value": b"p%d" % pod}]}
    return marshal(prompb.TIME_SERIES, series)


def columns(keys: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = np.array([len(one) for one in keys], np.uint32)
    at = (np.cumsum(sizes) - sizes).astype(np.uint32)
    return np.frombuffer(bytearray(b"".join(keys)), np.uint8), at, sizes


def see(new: NewSeries, keys: list[bytes]) -> None:
    new.see(*columns(keys))


def test_series_are_counted_by_their_names_and_labels() -> None:
    new = NewSeries()
    see(new, [*(key(b"up", k) for k in range(5)), b"servers.host.cpu", key(b"down", 1)])
    report = new.report()
    assert report.new_series == 7
    assert {one.name: one.series for one in report.metric_names} == {"up": 5, "servers.host.cpu": 1, "down": 1}
    assert [(one.name, one.series, one.values) for one in report.label_names] == [("pod", 6, 5)]


def test_after_a_change_of_rules_the_series_that_come_again_are_not_new() -> None:
    new = NewSeries()
    see(new, [key(b"up", k) for k in range(5)])
    new.expect_again(5)
    see(new, [key(b"up", k) for k in range(3)])
    see(new, [key(b"up", k) for k in range(3, 7)])
    assert new.report().new_series == 7


def test_the_cache_tells_of_series_that_it_did_not_know() -> None:
    cache = SeriesCache(4096, 8 << 20)
    keys = [key(b"up", k) for k in range(40)]
    for _ in range(3):
        cache.resolve(*columns(keys), np.zeros(len(keys), np.uint64), lambda _row: [])
    assert cache.new.report().new_series == 40
    cache.expect(7)
    cache.resolve(*columns(keys), np.zeros(len(keys), np.uint64), lambda _row: [])
    assert cache.new.report().new_series == 40


async def test_the_call_has_the_form_of_prometheus_and_is_of_all_processes() -> None:
    one, other = NewSeries(), NewSeries()
    see(one, [key(b"up", k) for k in range(5)])
    see(other, [*(key(b"up", k) for k in range(2)), *(key(b"go_info", k) for k in range(20))])

    async def ask() -> list[Grown]:
        return [Grown(5, one.report()), Grown(22, other.report())]

    app = Starlette(routes=growth_routes(ask))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
        answer = await client.get("/api/v1/status/tsdb")
        short = await client.get("/prometheus/api/v1/status/tsdb?limit=1")
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "success")
    data = body["data"]
    assert data["headStats"] == {"numSeries": 27, "numLabelPairs": 25, "chunkCount": 0, "minTime": 0, "maxTime": 0}
    assert data["seriesCountByMetricName"] == [{"name": "go_info", "value": 20}, {"name": "up", "value": 7}]
    assert data["labelValueCountByLabelName"] == [{"name": "pod", "value": 25}]
    assert data["growth"]["newSeries"] == 27
    assert [one["name"] for one in data["growth"]["metricNames"]] == ["go_info", "up"]
    assert short.json()["data"]["seriesCountByMetricName"] == [{"name": "go_info", "value": 20}]


async def test_a_limit_that_is_none_is_refused() -> None:
    async def ask() -> list[Grown]:
        return []

    app = Starlette(routes=growth_routes(ask))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
        for limit in ("0", "-1", "x", "101", "²", 100 * "9"):
            answer = await client.get(f"/api/v1/status/tsdb?limit={limit}")
            assert answer.status_code == 400
            assert answer.json()["error"].startswith("limit must be a number from 1 to 100")
