"""The page of an instance in a real browser: it looks again without flicker, and everybody can read it."""

import itertools
from collections.abc import AsyncIterator

import pytest
from tests.aggregator.http.test_aggregator_http import Source
from tests.browser import Page, browser

from aggregator.http import Readiness, create_app
from m3x.instrument import Registry
from m3x.pages.frame import REFRESH_S
from m3x.web import serve

WAIT_S = 12 * REFRESH_S


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browser() as opened:
        yield opened


async def test_it_looks_again_without_loading_anew(page: Page, source: Source) -> None:
    async with serve(create_app(source, Registry()), "127.0.0.1:0") as port:
        await page.width(1200)
        await page.open(f"http://127.0.0.1:{port}/")
        assert "12 messages/s" in await page.text(".edge")
        assert not await page.run("document.querySelector('.missing').checkVisibility()")
        # What a reader has done stays, and so do the elements that have not changed.
        await page.run(
            "document.querySelector('details').open = true; scrollTo(0, 120); window.mine = document.querySelector('.stage')"
        )
        place = "Math.round(document.querySelector('.charts').getBoundingClientRect().top)"
        before = await page.run(place)
        source.rate, source.state = 34.0, "follower"
        source.ready = Readiness(False, ["no placement <yet>"], ["and a note"])
        await page.until("document.querySelector('.edge').innerText.includes('34 messages/s')", WAIT_S)
        assert await page.run(
            "window.mine === document.querySelector('.stage') && document.querySelector('details').open"
        )
        assert await page.run(place) == before
        assert "not ready" in await page.run("document.title")
        assert (await page.text(".badges")).split("\n") == ["not ready", "follower"]
        assert "no placement <yet>" in await page.text(".missing")
        await page.shot("aggregator-not-ready")
        # Nothing changes while it is paused.
        await page.run("document.getElementById('pause').focus()")
        await page.press("Enter")
        assert await page.text("#pause") == "go on"
        source.rate = 56.0
        await page.run(f"new Promise(resolve => setTimeout(resolve, {REFRESH_S * 1000 + 1000}))")
        assert "34 messages/s" in await page.text(".edge")
        await page.press("Enter")
        await page.until("document.querySelector('.edge').innerText.includes('56 messages/s')", WAIT_S)
        assert page.complaints == []
    await page.until("document.body.classList.contains('stale')", WAIT_S)


async def test_everybody_can_read_it(page: Page, source: Source) -> None:
    async with serve(create_app(source, Registry()), "127.0.0.1:0") as port:
        for width, name in ((1200, "wide"), (390, "phone")):
            await page.width(width)
            await page.open(f"http://127.0.0.1:{port}/")
            # Nothing is wider than the screen but tables, which scroll for themselves.
            assert await page.run("document.documentElement.scrollWidth") <= width
            flows = await page.run("getComputedStyle(document.querySelector('.lane')).flexDirection")
            assert flows == ("row" if width > 600 else "column")
            await page.shot(f"aggregator-{name}")
        colours = []
        for is_dark in (False, True):
            await page.dark(is_dark)
            colours.append(await page.run("getComputedStyle(document.querySelector('.down')).color"))
        assert colours[0] != colours[1]
        await page.shot("aggregator-dark")
        # Pictures say in words what they show; headings come in order; the keyboard reaches everything that can be used.
        assert await page.run(
            "[...document.querySelectorAll('[role=img]')].every(one => one.getAttribute('aria-label'))"
        )
        levels = await page.run("[...document.querySelectorAll('h1,h2,h3')].map(one => +one.nodeName[1])")
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert await page.run("document.documentElement.lang") == "en"
        reached = []
        for _ in range(16):
            await page.press("Tab")
            reached.append(await page.run("document.activeElement.innerText"))
        assert {"Shards, one by one", "/ready", "/shards", "/status", "pause"} <= set(reached)
        assert page.complaints == []
