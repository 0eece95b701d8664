"""Real processes on loopback: a deployment of one coordinator and aggregators on free ports, with everything in a temporary directory."""

import contextlib
import json
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.admin_calls import admin_calls, create
from lab.cluster import ROOT, coordinator_overlay, overlaid
from lab.http import get
from lab.instances import Aggregator
from lab.kv import kv_of
from lab.ports import free_port, free_ports
from lab.processes import Process, module_command
from lab.waiting import wait_until
from tests.real_servers import require_binary


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "integration" in Path(str(item.fspath)).parts:
            item.add_marker("integration")


class Deployment:
    """One coordinator and any number of aggregators that share an embedded KV."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self.kv = kv_of("embedded", folder)
        self.http, self.coordinator_metrics, self.carbon, self.ingest = free_ports(4)
        self.base = f"http://127.0.0.1:{self.http}"

    def start_coordinator(self, config: Path, **more: Any) -> Process:
        """Starts it from ``config`` with an overlay of addresses and paths; returns when it answers."""
        ports = (self.http, self.coordinator_metrics, self.carbon, self.ingest)
        overlay = {**coordinator_overlay(ports, self.kv.section("m3coordinator"), self.folder), **more}
        files = overlaid(config, overlay, self.folder / "coordinator-overlay.yml")
        command = module_command("coordinator", *files, "--data-dir", str(self.folder / "coordinator"))
        process = Process("coordinator", command, self.folder / "coordinator.log")
        self.processes["coordinator"] = process
        process.wait_for_http(f"{self.base}/health")
        return process

    def start_aggregator(
        self, name: str, config: Path, address: str, *, workers: int = 2, env: dict[str, str] | None = None, **more: Any
    ) -> Aggregator:
        """Starts an instance that listens on ``address`` for m3msg; returns when its HTTP answers."""
        section = self.kv.section("m3aggregator")
        made = Aggregator(
            name, self.folder, section, address=address, config=config, workers=workers, overlay=more, env=env
        )
        self.processes[name] = made.start()
        made.process.wait_for_http(f"{made.http}/health")
        return made

    def start_local(
        self,
        *,
        coordinator: dict[str, Any] | None = None,
        aggregator: dict[str, Any] | None = None,
        processes_s: float = 60,
    ) -> Aggregator:
        """Both services of ``configs/local``, with more sections; returns when samples are taken and aggregated.

        ``processes_s``: so long the front and the workers may take.
        """
        self.start_coordinator(ROOT / "configs/local/m3coordinator.yml", **(coordinator or {}))
        address = f"127.0.0.1:{free_port()}"
        create(self.base, admin_calls("m3aggregator-local", address, f"127.0.0.1:{self.ingest}"))
        made = self.start_aggregator(
            "aggregator", ROOT / "configs/local/m3aggregator.yml", address, **(aggregator or {})
        )
        wait_until("an instance leads", made.leads, 90)
        wait_until("its processes are up", made.ready, processes_s)
        wait_until("the coordinator takes writes", lambda: get(f"{self.base}/ready")[0] == 200, 30)
        return made

    def stop(self) -> dict[str, int]:
        """Ends everything; exit codes by name."""
        return {name: process.stop() for name, process in reversed(self.processes.items())}

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Instant query through the coordinator."""
        status, body = get(f"{self.base}/api/v1/query?query={urllib.parse.quote(expression)}")
        assert status == 200, body
        return json.loads(body)["data"]["result"]


@contextlib.contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """A deployment whose processes are ended whatever happens; the ends of their logs are printed for a failing test."""
    result = Deployment(folder)
    try:
        yield result
    finally:
        for process in result.processes.values():
            print(f"--- end of the log of {process.name}\n{process.tail()}")
        for process in result.processes.values():
            process.kill()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment of one test."""
    with deployed(tmp_path) as result:
        yield result


@pytest.fixture(scope="module")
def module_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment that all tests of a module share."""
    with deployed(tmp_path_factory.mktemp("deployment")) as result:
        yield result


@pytest.fixture(scope="session")
def wait() -> Callable[..., Any]:
    """``wait_until`` for test modules."""
    return wait_until


@pytest.fixture(scope="session")
def http_get() -> Callable[[str], tuple[int, str]]:
    """``get`` for test modules."""
    return get


@pytest.fixture
def real() -> Callable[[str], str]:
    """``require_binary`` for test modules."""
    return require_binary
