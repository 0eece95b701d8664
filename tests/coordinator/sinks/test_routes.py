"""``/api/v1/sinks``, and that no page, log line or answer of a whole coordinator has credentials of a store in it."""

import asyncio
import base64
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from lab.receiver import Received, Receiver, Reply
from lab.waiting import until

from coordinator.config import CoordinatorConfig, load_coordinator
from coordinator.service import Coordinator, running
from coordinator.sinks.prom_remote.credentials import basic
from m3ctl.bench.remote_write import write_request
from m3ctl.cli import main

SECRETS = ("hunter2", "s3cr3t-token", "pr0xy-pass", "key-in-query", "t3nant", basic("me", "hunter2")[6:])
SENT = ("authorization", "proxy-authorization", "x-scope-orgid")
CONFIG = """
listenAddress: 127.0.0.1:0
metrics: {{prometheus: {{listenAddress: 127.0.0.1:0}}}}
clusterManagement: {{embedded: {{path: kv.sqlite}}}}
writeTimeout: {timeout}
backend: prom-remote
prometheusRemoteBackend:
  endpoints:
"""
Said = Callable[[], str]


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Said:
    """All that was logged or printed."""

    def everything() -> str:
        read = capfd.readouterr()
        return read.out + read.err + caplog.text

    return everything


def loaded(folder: Path, *endpoints: str, timeout: str = "10s") -> CoordinatorConfig:
    path = folder / "coordinator.yml"
    path.write_text(CONFIG.format(timeout=timeout) + "".join(f"    - {one}\n" for one in endpoints))
    return load_coordinator([path]).value


async def post(client: httpx.AsyncClient, *names: str) -> httpx.Response:
    """Raw samples."""
    samples = [((("__name__", name),), 1.0, int(time.time() * 1000)) for name in names]
    return await client.post(
        "/api/v1/prom/remote/write", content=write_request(samples), headers={"M3-Metrics-Type": "unaggregated"}
    )


async def shown(coordinator: Coordinator, client: httpx.AsyncClient) -> str:
    """Every page that speaks of sinks."""
    paths = ("/ready", "/api/v1/sinks", "/routes")
    pages = [(await client.get(path)).text for path in paths]
    metrics = await client.get(f"http://127.0.0.1:{coordinator.ports['metrics']}/metrics")
    return "\n".join([*pages, metrics.text])


async def test_a_sink_and_a_queue_without_one_are_shown(tmp_path: Path) -> None:
    left = tmp_path / "queues" / "former"
    left.mkdir(parents=True)
    (left / "0.segment").write_bytes(b"x" * 100)
    (tmp_path / "queues" / "empty").mkdir()
    async with Receiver() as receiver:
        config = loaded(tmp_path, f"{{name: 'the one', address: '{receiver.url}/write'}}")
        async with (
            running(config, tmp_path) as coordinator,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{coordinator.ports['http']}") as client,
        ):
            assert (await post(client, "up", "down")).status_code == 200
            document = (await client.get("/api/v1/sinks")).json()
            assert document["queuesWithoutSink"] == [{"name": "former", "sizeBytes": 100}]
            (sink,) = document["sinks"]
            assert {"name": "the_20one", "appended": 2, "delivered": 2, "waitingValues": 0}.items() <= sink.items()
            (problem,) = (await client.get("/ready")).json()["problems"]
            assert problem.startswith("the queue former has 100 bytes, and no sink of that name is configured")
            assert "/api/v1/sinks" in (await client.get("/routes")).json()["routes"]


@pytest.mark.parametrize("status", [400, 401, 503, 307, 0])
async def test_credentials_are_nowhere(tmp_path: Path, said: Said, status: int) -> None:
    """Though the store says them in its answers, or in where it sends us; 0: it hangs up."""
    token, password = tmp_path / "token", tmp_path / "password"
    token.write_text("s3cr3t-token\n")
    password.write_text("hunter2\n")

    def answer(received: Received) -> Reply:
        where = {"Location": "http://me:hunter2@127.0.0.1:1/?k=key-in-query"} if status == 307 else {}
        words = [value.partition(" ")[2] or value for name, value in received.headers if name.lower() in SENT]
        clear = [base64.b64decode(one).decode() for one in words if one.endswith("=")]
        return Reply(status or 200, f"who is {received.path} {words} {clear}?", where, close=status == 0)

    async with Receiver(answer) as receiver:
        host = receiver.host
        config = loaded(
            tmp_path,
            f"{{name: address, address: 'http://me:hunter2@{host}/write?token=key-in-query'}}",
            f"{{name: token, address: '{receiver.url}/write', bearerTokenFile: '{token}', headers: {{X-Scope-OrgID: t3nant}}}}",
            f"{{name: basic, address: '{receiver.url}/write', basicAuth: {{username: me, passwordFile: '{password}'}}}}",
            f"{{name: proxied, address: 'http://example.invalid/', proxyURL: 'http://me:pr0xy-pass@{host}'}}",
            timeout="200ms",
        )
        async with (
            running(config, tmp_path) as coordinator,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{coordinator.ports['http']}") as client,
        ):
            answers = [(await post(client, f"m{k}")).text for k in range(3)]

            async def all_have_failed() -> bool:
                sinks = (await client.get("/api/v1/sinks")).json()["sinks"]
                return all(one["error"] or one["refused"] for one in sinks)

            await until(all_have_failed, 20)
            pages = await shown(coordinator, client)
            url = f"http://127.0.0.1:{coordinator.ports['http']}"
            await asyncio.to_thread(main, ["doctor", "--coordinator", url])
    printed = said()
    assert "sink proxied" in printed
    everything = "\n".join([*answers, pages, printed])
    # The store's words are there, but for these.
    assert ("who is" in everything) == (status not in (307, 0))
    assert [one for one in SECRETS if one in everything] == []
