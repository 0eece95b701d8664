"""Real processes on loopback: a deployment of one coordinator and aggregators on free ports, with everything in a temporary directory."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab.http import get
from lab.ports import free_ports
from lab.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = "namespace/m3db-cluster-name"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "integration" in Path(str(item.fspath)).parts:
            item.add_marker("integration")


class Process:
    """A service under test; its log is kept in memory for failures."""

    def __init__(self, name: str, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.name, self.log = name, log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **env},
                start_new_session=True,
            )

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM and the exit code; killed (and failed) if it does not end."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.popen.pid, signal.SIGKILL)
                self.popen.wait()
                raise AssertionError(f"{self.name} did not end on SIGTERM; log:\n{self.tail()}") from None
        return self.popen.returncode

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Deployment:
    """One coordinator and any number of aggregators that share an embedded KV."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self.kv = folder / "kv.sqlite"
        self.http, self.ingest, self.carbon, self.coordinator_metrics = free_ports(4)
        self.base = f"http://127.0.0.1:{self.http}"

    def start_coordinator(self, config: Path, **more: Any) -> Process:
        """Starts it from ``config`` with an overlay of addresses and paths; returns when it answers."""
        overlay = {
            "listenAddress": f"127.0.0.1:{self.http}",
            "metrics": {"prometheus": {"listenAddress": f"127.0.0.1:{self.coordinator_metrics}"}},
            "carbon": {"ingester": {"listenAddress": f"127.0.0.1:{self.carbon}"}},
            "ingest": {"m3msg": {"server": {"listenAddress": f"127.0.0.1:{self.ingest}"}}},
            "clusterManagement": {"embedded": {"path": str(self.kv)}},
            "embeddedStorage": {"path": str(self.folder / "metrics.duckdb")},
            **more,
        }
        process = self._start(
            "coordinator", "coordinator", config, overlay, {}, "--data-dir", str(self.folder / "coordinator")
        )
        self._wait_http(process, f"{self.base}/health")
        return process

    def start_aggregator(
        self, name: str, config: Path, address: str, *, workers: int = 2, env: dict[str, str] | None = None, **more: Any
    ) -> "Aggregator":
        """Starts an instance that listens on ``address`` for m3msg; returns when its HTTP answers."""
        http, metrics = free_ports(2)
        overlay = {
            "m3msg": {"server": {"listenAddress": address}},
            "http": {"listenAddress": f"127.0.0.1:{http}"},
            "metrics": {"prometheus": {"listenAddress": f"127.0.0.1:{metrics}"}},
            "kvClient": {"embedded": {"path": str(self.kv)}},
            **more,
        }
        process = self._start(name, "aggregator", config, overlay, env or {}, "--workers", str(workers))
        self._wait_http(process, f"http://127.0.0.1:{http}/health")
        return Aggregator(process, f"http://127.0.0.1:{http}", f"http://127.0.0.1:{metrics}/metrics", address)

    def _start(
        self, name: str, module: str, config: Path, overlay: dict[str, Any], env: dict[str, str], *arguments: str
    ) -> Process:
        path = self.folder / f"{name}-overlay.yml"
        path.write_text(yaml.safe_dump(overlay))
        command = [sys.executable, "-m", module, "-f", str(config), "-f", str(path), *arguments]
        self.processes[name] = Process(name, command, self.folder / f"{name}.log", env)
        return self.processes[name]

    def _wait_http(self, process: Process, url: str) -> None:
        def answers() -> bool:
            if process.popen.poll() is not None:
                pytest.fail(f"{process.name} ended with {process.popen.returncode}; log:\n{process.tail()}")
            return get(url)[0] == 200

        wait_until(f"{process.name} answers on {url}", answers, 60)

    def stop(self) -> dict[str, int]:
        """Ends everything; exit codes by name."""
        return {name: process.stop() for name, process in reversed(self.processes.items())}

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Instant query through the coordinator."""
        status, body = get(f"{self.base}/api/v1/query?query={urllib.parse.quote(expression)}")
        assert status == 200, body
        return json.loads(body)["data"]["result"]


class Aggregator:
    """A running aggregator instance."""

    def __init__(self, process: Process, http: str, metrics: str, address: str) -> None:
        self.process, self.http, self.metrics_url, self.address = process, http, metrics, address

    def json(self, path: str) -> Any:
        """A JSON page of its HTTP server, whatever the status."""
        return json.loads(get(self.http + path)[1])

    def ready(self) -> bool:
        """Whether ``/ready`` answers 200."""
        return get(self.http + "/ready")[0] == 200

    def leads(self) -> bool:
        """Whether ``/status`` says leader."""
        return bool(self.json("/status")["status"]["flushStatus"]["electionState"] == "leader")


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
            if process.popen.poll() is None:
                os.killpg(process.popen.pid, signal.SIGKILL)
                process.popen.wait()


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


def require(binary: str) -> str:
    """Path of a real server's binary; skips the test if it is missing, unless REQUIRE_SERVERS says that it must be there."""
    path = shutil.which(binary)
    if path is None:
        if os.environ.get("REQUIRE_SERVERS"):
            pytest.fail(f"{binary} is not installed, and REQUIRE_SERVERS is set")
        pytest.skip(f"{binary} is not installed")
    return path


@pytest.fixture
def real() -> Callable[[str], str]:
    """``require`` for test modules."""
    return require
