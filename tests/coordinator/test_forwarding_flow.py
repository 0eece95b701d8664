"""Two coordinators: what is written to one can be read from the other, as with M3's own pair of files."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import cramjam
import httpx
import pytest
from lab.ports import free_port
from lab.waiting import until

from coordinator.config import load_coordinator
from coordinator.prompb import WRITE_REQUEST
from coordinator.service import Coordinator, running
from m3x.protobuf import marshal

WRITE = "/api/v1/prom/remote/write"
STORING = """
listenAddress: 127.0.0.1:{port}
metrics: {{prometheus: {{listenAddress: "127.0.0.1:0"}}}}
embeddedAggregator: {{enabled: false}}
clusters: [{{namespaces: [{{namespace: raw, type: unaggregated, retention: 1h}}]}}]
"""
FORWARDING = """
writeForwarding:
  promRemoteWrite:
    targets:
    - url: http://127.0.0.1:{port}/api/v1/prom/remote/write
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], AbstractAsyncContextManager[Coordinator]]:
    def make(text: str) -> AbstractAsyncContextManager[Coordinator]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "a.yml").write_text(text)
        loaded = load_coordinator([folder / "a.yml"])
        return running(loaded.value, folder, loaded.places)

    return make


def _client(coordinator: Coordinator) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{coordinator.ports['http']}", timeout=20)


def _body(value: float, name: str) -> bytes:
    series = {
        "labels": [{"name": b"__name__", "value": name.encode()}],
        "samples": [{"value": value, "timestamp": time.time_ns() // 1_000_000}],
    }
    return bytes(cramjam.snappy.compress_raw(marshal(WRITE_REQUEST, {"timeseries": [series]})))


async def _values(client: httpx.AsyncClient, name: str) -> list[str]:
    answer = await client.get("/api/v1/query", params={"query": name})
    return [series["value"][1] for series in answer.json()["data"]["result"]]


async def test_what_is_written_to_one_is_in_both(
    start: Callable[[str], AbstractAsyncContextManager[Coordinator]],
) -> None:
    async with start(STORING.format(port=0)) as second, _client(second) as there:
        first_file = STORING.format(port=0) + FORWARDING.format(port=second.ports["http"])
        async with start(first_file) as first, _client(first) as here:
            assert await _values(here, "any") == await _values(there, "any") == []
            answer = await here.post(WRITE, content=_body(42.42, "foo_replicate"))
            assert answer.status_code == 200
            await until(lambda: _values(there, "foo_replicate"), 20.0)
            assert await _values(here, "foo_replicate") == await _values(there, "foo_replicate") == ["42.42"]
            assert first.registry.counter("coordinator_forward_success", handler="remote-write") == 1
            assert second.registry.counter("coordinator_forward_success", handler="remote-write") == 0


async def test_the_end_waits_for_what_is_on_its_way(
    start: Callable[[str], AbstractAsyncContextManager[Coordinator]],
) -> None:
    async with start(STORING.format(port=0)) as second, _client(second) as there:
        first_file = STORING.format(port=0) + FORWARDING.format(port=second.ports["http"])
        async with start(first_file) as first, _client(first) as here:
            for number in range(20):
                assert (await here.post(WRITE, content=_body(1.0, f"m{number}"))).status_code == 200
        assert first.registry.counter("coordinator_forward_success", handler="remote-write") == 20
        assert await _values(there, '{__name__=~"m.*"}') == ["1"] * 20


async def test_two_that_forward_to_each_other_end_it(
    start: Callable[[str], AbstractAsyncContextManager[Coordinator]],
) -> None:
    ports = [free_port(), free_port()]
    files = [STORING.format(port=own) + FORWARDING.format(port=other) for own, other in (ports, ports[::-1])]
    async with start(files[0]) as first, start(files[1]) as second, _client(first) as here:
        assert (await here.post(WRITE, content=_body(1.0, "round"))).status_code == 200

        def dropped() -> float:
            return first.registry.counter("coordinator_forward_dropped", handler="remote-write")

        await until(dropped, 20.0)
        for coordinator in (first, second):
            await until(
                lambda one=coordinator: one.registry.counter("coordinator_forward_success", handler="remote-write"),
                20.0,
            )
            assert coordinator.registry.counter("coordinator_forward_success", handler="remote-write") == 1


async def test_a_target_that_is_away_is_named_in_ready(
    start: Callable[[str], AbstractAsyncContextManager[Coordinator]],
) -> None:
    text = STORING.format(port=0) + FORWARDING.format(port=1).replace(
        "targets:", "retry: {initialBackoff: 1ms}\n    targets:"
    )
    async with start(text) as coordinator, _client(coordinator) as client:
        assert (await client.post(WRITE, content=_body(1.0, "up"))).status_code == 200

        async def problems() -> list[str]:
            return (await client.get("/ready")).json().get("problems", [])

        (problem,) = await until(problems, 20.0)
        assert problem.startswith("remote writes are not forwarded to http://127.0.0.1:1/")
        assert (await client.get("/ready")).status_code == 200
