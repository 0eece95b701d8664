"""What the coordinator learns from the aggregator's pages, and shows of them."""

from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from coordinator.child import child_routes
from coordinator.child.watching import Answer, Watching
from m3x.web import serve

NOT_READY = {"ready": False, "reasons": ["no leader yet"], "notes": ["worth knowing"]}


def pages(ready: dict[str, object]) -> Starlette:
    async def answer(request: Request) -> Response:
        match request.url.path:
            case "/ready":
                return JSONResponse(ready, 200 if ready["ready"] else 503)
            case "/metrics":
                return PlainTextResponse("up 1\n")
        return HTMLResponse("<h1>page</h1>")

    return Starlette(routes=[Route("/{path:path}", answer)])


async def test_reasons_and_notes_are_the_aggregators(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    watching = Watching(socket, lambda: "process 7, starting")
    await watching.look()
    assert watching.reasons == ["the aggregator inside this coordinator: it does not answer (process 7, starting)"]
    assert await watching.figures() == b""
    async with serve(pages(NOT_READY), f"unix:{socket}"):
        await watching.look()
        assert watching.reasons == ["the aggregator inside this coordinator: no leader yet"]
        assert watching.notes == ["the aggregator inside this coordinator: worth knowing"]
        assert await watching.figures() == b"up 1\n"
    await watching.close()


async def test_a_page_that_is_no_answer_is_no_readiness(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    watching = Watching(socket, lambda: "process 7")
    async with serve(pages({"ready": True}), f"unix:{socket}"):
        await watching.look()
    assert watching.reasons == ["the aggregator inside this coordinator: it does not answer (process 7)"]
    async with serve(pages({"ready": True, "reasons": [], "notes": []}), f"unix:{socket}"):
        await watching.look()
    assert watching.reasons == []
    await watching.close()


async def test_its_pages_are_the_coordinators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watching = Watching(tmp_path / "s", lambda: "process 7")
    asked = []

    async def get(path: str) -> Answer:
        asked.append(path)
        return Answer(503, "text/html; charset=utf-8", b"<h1>page</h1>")

    transport = httpx.ASGITransport(Starlette(routes=child_routes(watching)))
    async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
        assert (await client.get("/aggregator/shards")).status_code == 503
        monkeypatch.setattr(watching, "get", get)
        answer = await client.get("/aggregator/")
        assert (answer.status_code, answer.text) == (503, "<h1>page</h1>")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert (await client.get("/aggregator")).headers["location"] == "/aggregator/"
        await client.get("/aggregator/ready")
        assert (await client.get("/aggregator/resign")).status_code == 404
    assert asked == ["/", "/ready"]
    await watching.close()
