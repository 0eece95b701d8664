"""The pages of a whole coordinator in a real browser."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from lab.waiting import until
from tests.browser import browser
from tests.coordinator.test_service import IGNORE_CUTOVER, WRITE, Aggregator, _body, _client, _set_up, start

from coordinator.service import Coordinator
from m3cluster.election import Election
from m3cluster.keys import election_prefix
from m3cluster.kv import open_store
from m3msg.consumer import ConsumerServer
from m3x.pages.frame import REFRESH_S

__all__ = ["start"]

WAIT_S = 12 * REFRESH_S
DIRECT = {"M3-Metrics-Type": "aggregated", "M3-Storage-Policy": "10s:48h"}
_RULE = '{name: %s, filter: "__name__:%s*", aggregations: [%s], storagePolicies: [{resolution: 10s, retention: 48h}]}'
RULES = IGNORE_CUTOVER.replace(
    "downsample: {",
    "downsample: {rules: {mappingRules: ["
    f"{_RULE % ('keep requests', 'requests', 'Last')}, {_RULE % ('other things', 'other', 'Max')}]}}, ",
)


def _url(coordinator: Coordinator, path: str = "/") -> str:
    return f"http://127.0.0.1:{coordinator.ports['http']}{path}"


async def test_from_nothing_to_samples_that_flow(start: Callable[..., Any]) -> None:
    aggregator = Aggregator()
    server = ConsumerServer("127.0.0.1:0", aggregator.handle)
    async with server, start(IGNORE_CUTOVER) as coordinator, _client(coordinator) as client, browser() as page:
        await page.open(_url(coordinator))
        assert "topic aggregator_ingest does not exist yet: create it" in await page.text(".missing")
        assert await page.text(".badges") == "does not take samples"
        await page.shot("coordinator-nothing")
        await _set_up(client, server.port)
        await page.until("document.querySelector('.badges').innerText === 'takes samples'", WAIT_S)
        assert "a" in await page.text(".map .name")
        bar = await page.run("document.querySelector('.map .bar').getAttribute('aria-label')")
        assert bar.startswith("shards 0–63 initializing")
        flows = "[...document.querySelectorAll('.edge')].slice(0, 2).every(one => parseFloat(one.innerText) > 0)"
        async with httpx.AsyncClient() as sender:
            deadline = time.monotonic() + WAIT_S
            while not await page.run(flows):
                assert time.monotonic() < deadline
                body = _body(1.0, time.time_ns() // 1_000_000, __name__="requests", job="x")
                assert (await sender.post(_url(coordinator, WRITE), content=body)).status_code == 200
        assert "1 of 1 reached" in await page.text(".lane")
        names = "[...document.querySelectorAll('td')].map(one => one.innerText)"
        await page.until(f"{names}.includes('requests') && {names}.includes('job')", WAIT_S)
        await page.width(390)
        assert await page.run("document.documentElement.scrollWidth") <= 390
        await page.shot("coordinator-phone")
        await page.width(1200)
        await page.shot("coordinator-wide")
        assert page.complaints == []


async def test_why_a_metric_becomes_what_it_becomes(start: Callable[..., Any], tmp_path: Path) -> None:
    aggregator = Aggregator()
    server = ConsumerServer("127.0.0.1:0", aggregator.handle)
    async with server, start(RULES) as coordinator, _client(coordinator) as client, browser() as page:
        await _set_up(client, server.port)
        kv = await open_store(coordinator.config.cluster_state.store(tmp_path))
        prefix = election_prefix("namespace/m3db-cluster-name", "m3aggregator", "shardset/1/lock")
        leading = Election(kv, prefix, 60)
        await leading.campaign("a")
        stored = _body(7.25, time.time_ns() // 1_000_000 - 5000, __name__="requests", job="x")
        assert (await client.post(WRITE, headers=DIRECT, content=stored)).status_code == 200
        await page.open(_url(coordinator, "/explain"))
        await page.run("document.querySelector('input').value = 'requests{job=\"x\"}'")
        await page.run("document.querySelector('input').focus()")
        await page.press("Enter")
        await page.until("document.querySelectorAll('table').length >= 3", WAIT_S)
        text = await page.text("main")
        assert "1 of 3 match" in text
        assert "keep requests" in text
        assert "other things" in text
        assert "Last at 10s:2d" in text
        assert "held by a (leads)" in text
        assert "Last stored value: 7.25" in text
        await page.shot("explain")
        # Nonsense is answered with what is wrong, and stays in its place.
        await page.open(_url(coordinator, "/explain?metric=%7B%3Cb%3E"))
        assert "is not a metric" in await page.text(".trouble") or "cannot read" in await page.text(".trouble")
        assert await page.run("document.querySelector('input').value") == "{<b>"
        assert [one for one in page.complaints if "400" not in one] == []
        await leading.close()
        await kv.close()


async def test_changed_rules_are_tried_on_live_series(start: Callable[..., Any]) -> None:
    aggregator = Aggregator()
    server = ConsumerServer("127.0.0.1:0", aggregator.handle)
    changed = """mappingRules:
  - {name: keep requests, filter: "__name__:requests*", aggregations: [Max], storagePolicies: [{resolution: 10s, retention: 48h}]}
  - {name: nobody, filter: "__name__:nothing", aggregations: [Max], storagePolicies: [{resolution: 10s, retention: 48h}]}
rollupRules:
  - name: by job <b>
    filter: "__name__:requests"
    transforms: [{rollup: {metricName: requests_by_job, groupBy: [job], aggregations: [Sum]}}]
    storagePolicies: [{resolution: 10s, retention: 48h}]
"""
    async with server, start(RULES) as coordinator, _client(coordinator) as client, browser() as page:
        await _set_up(client, server.port)
        await page.open(_url(coordinator, "/rules"))

        async def met() -> int:
            body = _body(1.0, time.time_ns() // 1_000_000, __name__="requests", job="x", host="h")
            await client.post(WRITE, content=body)
            return len((await client.get("/api/v1/rules/series")).json()["series"])

        await until(met, WAIT_S)

        async def tried(rules: str) -> str:
            await page.open(_url(coordinator, "/rules"))
            script = f"document.querySelector('textarea').value = {json.dumps(rules)}; document.querySelector('form').submit()"
            await page.run(f"setTimeout(() => {{ {script} }}, 0); 1")
            await page.until("document.querySelector('main h2, main .trouble')", WAIT_S)
            assert await page.run("document.querySelector('textarea').value") == rules
            return await page.text("main")

        text = await tried(changed)
        assert "Of 1 series" in text
        rows = "[...document.querySelectorAll('tbody tr')].map(row => [...row.cells].map(cell => cell.innerText).join('|'))"
        assert (await page.run(rows))[:3] == [
            "keep requests|mapping|1|",
            "nobody|mapping|none|",
            "by job <b>|rollup|1|1",
        ]
        assert "Added: 2" in text
        assert "Removed: 1" in text
        assert "requests_by_job" in text
        for width in (390, 1200):
            await page.width(width)
            assert await page.run("document.documentElement.scrollWidth") <= width
            await page.shot(f"rules-{width}")
        # It stays as it is: nothing looks again, and nothing has changed.
        assert await page.run("document.body.dataset.refresh") == "0"
        match = await client.get("/api/v1/rules/match", params={"metric": "requests", "format": "text"})
        assert "by job" not in match.text
        assert "line 1: mappingRulez" in await tried("mappingRulez: []")
        assert "no rule set" in await tried('{"namespace": 7}')
        # Without rules the last value is kept, as the one rule that matches does.
        assert "Removed: nothing" in await tried("rollupRules: []")
        assert [one for one in page.complaints if "400" not in one] == []


async def test_what_is_stored_is_a_link_to_its_lines(start: Callable[..., Any]) -> None:
    async with start() as coordinator, _client(coordinator) as client, browser() as page:
        await page.open(_url(coordinator, "/graph"))
        assert "Nothing is stored of the last 1h" in await page.text("main")
        now_ms = time.time_ns() // 1_000_000
        for labels in (
            {"__name__": "lines"},
            {"__g0__": "shop", "__g1__": "web", "__g2__": "orders"},
            {"__name__": 'q"\\'},
        ):
            assert (
                await client.post(WRITE, headers=DIRECT, content=_body(3.5, now_ms - 9000, **labels))
            ).status_code == 200
        names = "[...document.querySelectorAll('main a')].map(one => one.innerText).join()"
        for name, legend in (("lines", "lines"), ("shop", "shop.web.orders"), ('q"\\', 'q"\\')):
            await page.open(_url(coordinator, "/graph?over=15m"))
            assert await page.run(names) == 'lines,q"\\,shop'
            link = f"[...document.querySelectorAll('main a')].find(one => one.innerText === {name!r}).href"
            await page.open(await page.run(link))
            assert f"{legend} now 3.5" in await page.text(".legend")
        await page.open(_url(coordinator, "/graph?query=shop.*.orders"))
        assert "shop.web.orders now 3.5" in await page.text(".legend")
        await page.open(_url(coordinator, "/graph?query=shop.orders"))
        assert "No series that matches" in await page.text("main")
        assert page.complaints == []


async def test_stored_series_as_lines(start: Callable[..., Any]) -> None:
    async with start() as coordinator, _client(coordinator) as client, browser() as page:
        for job, first in (("x", 1.0), ("y", 5.0)):
            for step in range(6):
                at_ms = time.time_ns() // 1_000_000 - 60_000 + step * 10_000
                body = _body(first + step, at_ms, __name__="lines", job=job)
                assert (await client.post(WRITE, headers=DIRECT, content=body)).status_code == 200
        await page.open(_url(coordinator, "/graph?query=lines&over=15m"))
        legend = await page.text(".legend")
        assert 'lines{job="x"} now' in legend
        assert "at most 10" in legend
        assert await page.run("document.querySelectorAll('.plot path').length") == 3
        await page.shot("graph")
        for query, said in (("sum(lines)", "only plain selectors"), ("nothing_of_the_kind", "No series that matches")):
            await page.open(_url(coordinator, f"/graph?query={query}"))
            assert said in await page.text("main")


@pytest.mark.parametrize("path", ["/", "/explain", "/graph", "/rules"])
async def test_a_coordinator_that_administrates_only_has_pages(start: Callable[..., Any], path: str) -> None:
    async with start("backend: noop-etcd\n") as coordinator, _client(coordinator) as client:
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
