"""A real Chromium without a window, driven over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

import asyncio
import base64
import contextlib
import itertools
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from lab.waiting import until
from tests.real_servers import require_binary

__all__ = ["Page", "browser"]

_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--remote-debugging-port=0", "about:blank",
)  # fmt: skip
_ANSWERED_S = 5.0
"""So long a question is waited for before it is asked once more."""
_SHOTS = os.environ.get("SCREENSHOTS")
"""A directory where screenshots are kept; without one, none are taken."""


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []
        """What the browser has written into its console: errors of scripts, and what the page is not allowed."""

    async def read(self) -> None:
        """Until the browser ends."""
        async for message in self._socket:
            told = message.json()
            if (waiting := self._answers.pop(told.get("id", 0), None)) is not None:
                waiting.set_result(told)
            elif told.get("method") == "Log.entryAdded":
                self.complaints.append(told["params"]["entry"]["text"])
            elif told.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(told["params"]["exceptionDetails"]))

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A call of the protocol. Raises ``AssertionError`` with what the browser says."""
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await asyncio.wait_for(self._answers[number], 60)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> None:
        """Goes there and waits until it is loaded."""
        await self.run("window.isLeft = true")
        await self.call("Page.navigate", url=url)
        there = f"location.href.startsWith({url[:20]!r})"
        await self.until(f"!window.isLeft && document.readyState === 'complete' && {there}")

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str, timeout_s: float = 60.0) -> None:
        """Waits for an expression to become true."""
        async with asyncio.timeout(timeout_s):
            while not await self._now(f"!!({script})"):  # noqa: ASYNC110 - the browser has no event for it
                await asyncio.sleep(0.05)

    async def _now(self, script: str) -> Any:
        """Its value; None: the page has just gone, and the question with it, answered or not."""
        try:
            async with asyncio.timeout(_ANSWERED_S):
                return await self.run(script)
        except TimeoutError:
            return None
        except AssertionError as error:
            if "navigated" in str(error) or "context" in str(error):
                return None
            raise

    async def text(self, selector: str) -> str:
        """What is written in an element, as it is seen."""
        return str(await self.run(f"document.querySelector({selector!r}).innerText"))

    async def width(self, pixels: int, height: int = 900) -> None:
        """The size of the screen; a phone has 390."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1, mobile=pixels < 600
        )

    async def dark(self, is_dark: bool) -> None:
        """What the reader's system prefers."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def press(self, key: str) -> None:
        """A key of the keyboard, such as Tab."""
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        text = {"Enter": "\r", " ": " "}.get(key)
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text is not None and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    async def shot(self, name: str) -> None:
        """Keeps a picture of the whole page, where it is asked for."""
        if _SHOTS:
            answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
            _keep(f"{name}.png", base64.b64decode(answer["data"]))


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _keep(name: str, data: bytes) -> None:
    assert _SHOTS
    folder = Path(_SHOTS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A browser with one page, until the context ends."""
    binary = require_binary("chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = await asyncio.create_subprocess_exec(
            binary, f"--user-data-dir={home}", *_OPTIONS,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            told = Path(home) / "DevToolsActivePort"
            await until(lambda: _lines(told), 60)
            port = int(_lines(told)[0])
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tab = next(one for one in await answer.json() if one["type"] == "page")
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    reading = asyncio.create_task(page.read())
                    for domain in ("Page", "Runtime", "Log"):
                        await page.call(f"{domain}.enable")
                    try:
                        yield page
                    finally:
                        reading.cancel()
        finally:
            process.terminate()
            await process.wait()
