"""Aggregator instances as real processes: started, asked over HTTP, and hurt."""

import http.client
import json
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.cluster import LOCAL, aggregator_overlay, overlaid
from lab.errors import LabError
from lab.http import get, get_json, request, try_get
from lab.ports import free_port
from lab.processes import Process, children, module_command, send_signal

__all__ = ["Aggregator"]

_OPTIONS = "--options"
_ZYGOTE = "m3x.processes"
"""The module that it runs."""


class Aggregator:
    """One instance on loopback: its configuration, and its processes while they run.

    ``kv``: its section ``kvClient``. ``address``: where it takes metrics (default: a free port). ``overlay``: sections of its configuration
    instead of those of ``config`` and of the addresses. ``workers`` None: as many as the configuration says.
    ``through``: a command that runs the one that follows it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        kv: Mapping[str, Any],
        *,
        address: str = "",
        config: Path = LOCAL / "m3aggregator.yml",
        workers: int | None = 1,
        overlay: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.address = address or f"127.0.0.1:{free_port()}"
        listen, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.http, self.metrics_url = f"http://{listen}", f"http://{metrics}/metrics"
        self.log_file = folder / f"{name}.log"
        self.stopped: list[int] = []
        """Pids that a SIGSTOP holds."""
        self._process: Process | None = None
        self._env = dict(env or {})
        sections = {**aggregator_overlay(self.address, listen, metrics, kv), **(overlay or {})}
        sections["instance"] = {"dataDirectory": str(folder), **sections.get("instance", {})}
        self.overlay = folder / f"{name}-overlay.yml"
        """The file that ``overlay`` is in."""
        files = overlaid(config, sections, self.overlay)
        number = [] if workers is None else ["--workers", str(workers)]
        self._command = [*through, *module_command("aggregator", *files, *number)]

    @property
    def socket_address(self) -> tuple[str, int]:
        """``address`` as sockets take it."""
        host, port = self.address.rsplit(":", 1)
        return host, int(port)

    # --- its processes

    @property
    def process(self) -> Process:
        """Its supervisor, which was started."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    @property
    def running(self) -> bool:
        """Whether its supervisor lives."""
        return self._process is not None and self._process.running

    def start(self) -> Process:
        """Starts it, after the end of what ran before."""
        if self._process is not None:
            self._process.wait(60)
        self._process = Process(self.name, self._command, self.log_file, env=self._env)
        return self._process

    def pids(self) -> list[int]:
        """The supervisor, then its children."""
        return [self.process.pid, *children(self.process.pid)]

    def children(self, module: str) -> list[int]:
        """Pids of its processes that run ``module``, oldest first."""
        return [pid for pid, command in children(self.process.pid).items() if module in command]

    def roles(self) -> dict[str, int]:
        """Pids by role: ``supervisor``, ``zygote``, ``spare zygote`` (half a second later), ``front``, ``worker 0``, ``worker 1`` …"""
        found = {"supervisor": self.process.pid}
        for pid, command in children(self.process.pid).items():
            if _ZYGOTE in command:
                # The older one takes the orders.
                found["spare zygote" if "zygote" in found else "zygote"] = pid
            elif _OPTIONS in command:
                # The options file is named after the process and its incarnation: front-1.json, w0-1.json.
                name = Path(command[command.index(_OPTIONS) + 1]).name.split("-")[0]
                found[f"worker {name[1:]}" if name.startswith("w") else name] = pid
        return found

    def kill(self) -> None:
        """SIGKILL to all its processes, as when a machine ends."""
        send_signal(self.pids(), signal.SIGKILL)
        self.process.wait()

    def kill_worker(self) -> None:
        """SIGKILL to its workers; the rest goes on."""
        send_signal(self.children("aggregator.worker"), signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM to the supervisor."""
        self.process.terminate()

    def stop(self) -> None:
        """SIGSTOP to all its processes."""
        self.stopped = self.pids()
        send_signal(self.stopped, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        send_signal(self.stopped, signal.SIGCONT)
        self.stopped = []

    # --- its HTTP server

    def json(self, path: str, timeout_s: float = 10.0) -> Any:
        """A JSON page, whatever its status. Raises ``OSError``."""
        return get_json(self.http + path, timeout_s)

    def post(self, path: str, timeout_s: float = 30.0) -> None:
        """POST without a body. Raises ``OSError``."""
        request("POST", self.http + path, timeout_s=timeout_s)

    def ready(self) -> bool:
        """Whether ``/ready`` answers 200. Raises ``OSError``."""
        return get(self.http + "/ready")[0] == 200

    def flush_status(self) -> dict[str, Any]:
        """``electionState`` and ``canLead``; empty while it does not answer."""
        try:
            status: dict[str, Any] = self.json("/status", 2.0)["status"]["flushStatus"]
        except (OSError, http.client.HTTPException, ValueError):
            # It may be killed in the middle of an answer.
            return {}
        return status

    def leads(self) -> bool:
        """Whether it says that it leads."""
        return bool(self.flush_status().get("electionState") == "leader")

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Returns when it is ready. Raises ``LabError`` with its log if it ends, and with what it waits for if the time is up."""
        deadline, last = time.monotonic() + timeout_s, ""
        while time.monotonic() < deadline:
            self.process.check()
            status, last = try_get(self.http + "/ready")
            if status == 200:
                return
            time.sleep(0.1)
        raise LabError(f"{self.name} was not ready within {timeout_s:g} s: {_reasons(last)}\n{self.process.tail()}")


def _reasons(body: str) -> str:
    try:
        return "; ".join(json.loads(body)["reasons"])
    except (ValueError, KeyError, TypeError):
        return body
