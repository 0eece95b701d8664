"""Who repeats what is refused for good is named, once and then ever more seldom."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from tests.coordinator.write.test_remote_write import PATH, body, series

from coordinator.write import RemoteWriter, poisoned, remote_write_routes
from m3x.instrument import Registry
from m3x.log import configure

GOOD = body(series({"__name__": "up"}, 1.0))
BAD = body(series({"__name__": "up", "empty": ""}, 1.0))


@pytest.fixture
async def client(
    make_writer: Callable[..., RemoteWriter], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setattr(poisoned, "_LINES_PER_SECOND", 1e9)
    configure("info")
    app = Starlette(routes=list(remote_write_routes(make_writer())))
    headers = {"User-Agent": "Prometheus/2.42.0"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=("10.1.2.3", 9)), base_url="http://test", headers=headers
    ) as client:
        yield client


def named(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [line for line in lines if line["msg"].startswith("a sender repeats")]


async def test_the_sender_is_named_with_what_it_repeats(
    client: httpx.AsyncClient, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(4):
        assert (await client.post(PATH, content=BAD)).status_code == 400
        assert (await client.post(PATH, content=GOOD)).status_code == 200
    assert named(capsys) == []
    await client.post(PATH, content=BAD)
    (line,) = named(capsys)
    assert (line["sender"], line["userAgent"], line["path"]) == ("10.1.2.3", "Prometheus/2.42.0", PATH)
    assert (line["times"], line["status"], line["bytes"]) == (5, 400, str(len(BAD)))
    assert "tag value empty" in line["error"]
    for _ in range(95):
        await client.post(PATH, content=BAD)
    assert [line["times"] for line in named(capsys)] == [50]
    assert registry.counter("test_poisoned_requests") == 1


async def test_what_m3_answers_with_500_for_ever_is_named_as_well(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(5):
        assert (await client.post(PATH, content=body(series({"__name__": "up"}, 1.0, m3_type=9)))).status_code == 500
    assert [line["status"] for line in named(capsys)] == [500]


async def test_other_bad_requests_and_what_may_be_cured_are_not(
    client: httpx.AsyncClient, sink: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(6):
        await client.post(PATH, content=body(series({"__name__": "up", "empty": ""}, float(n))))
    sink.refusal = "no topic"
    for _ in range(6):
        assert (await client.post(PATH, content=GOOD)).status_code == 503
    assert named(capsys) == []


async def test_no_more_are_known_than_may_be(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poisoned, "_MOST", 2)
    for _ in range(6):
        for n in range(3):
            await client.post(PATH, content=body(series({"__name__": "up", "empty": ""}, float(n))))
    assert named(capsys) == []


@pytest.fixture(autouse=True)
def _log_as_before() -> Any:
    yield
    configure("info")
