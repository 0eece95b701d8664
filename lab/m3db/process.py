"""A played node as a process of its own: started, told what to do, asked what it holds. Blocking."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.http import get_json, request
from lab.m3db.faults import Fault
from lab.m3db.namespaces import Namespace
from lab.m3db.storage import Point, Series
from lab.ports import free_port
from lab.processes import Process, module_command

__all__ = ["NodeProcess"]


class NodeProcess:
    """Keeps its ports while it is stopped and started. ``keeps``: what it has stored, too."""

    def __init__(
        self, name: str, folder: Path, namespaces: Sequence[Namespace], *, num_shards: int = 16, keeps: bool = False
    ) -> None:
        self.name, self.port, self._control = name, free_port(), free_port()
        self.log_file = folder / f"{name}.log"
        self._namespaces, self._num_shards = list(namespaces), num_shards
        self._shards: list[int] | None = None
        self._data = ["--data", str(folder / f"{name}.jsonl")] if keeps else []
        self._process: Process | None = None

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it listens, and has been told its shards and namespaces."""
        command = module_command("lab.m3db.node", "--listen", self.address, "--id", self.name)
        control = ["--wait", "--control", f"127.0.0.1:{self._control}", "--shards", str(self._num_shards)]
        self._process = Process(self.name, [*command, *control, *self._data], self.log_file)
        self._process.wait_for_http(f"{self._url}/state")
        self.take_namespaces(self._namespaces)
        self.own(self._shards)
        self.listen(True)

    def stop(self) -> None:
        """In order."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def __enter__(self) -> "NodeProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._control}"

    def _tell(self, what: str, document: dict[str, Any]) -> None:
        status, answer = request("POST", f"{self._url}/{what}", json.dumps(document).encode())
        if status != 200:
            raise LabError(f"{self.name} does not take {what} {document}: {answer.decode(errors='replace')}")

    # --- what it is told

    def take_namespaces(self, namespaces: Sequence[Namespace]) -> None:
        """These and no others."""
        self._namespaces = list(namespaces)
        self._tell("namespaces", {"namespaces": [asdict(one) for one in namespaces]})

    def own(self, shards: Iterable[int] | None) -> None:
        """These are its shards; None: all. Before its start, too."""
        self._shards = None if shards is None else sorted(shards)
        if self._process is not None and self._process.running:
            self._tell("shards", {"shards": self._shards, "num_shards": self._num_shards})

    def fault(self, method: str, fault: Fault | None) -> None:
        """See ``Node``."""
        self._tell("fault", {"method": method, "fault": None if fault is None else fault.to_json()})

    def set_clock(self, offset_ns: int) -> None:
        """Its clock is that far from ours."""
        self._tell("clock", {"offset_ns": offset_ns})

    def be_silent(self, silent: bool) -> None:
        """See ``Node``."""
        self._tell("silent", {"silent": silent})

    def listen(self, listening: bool) -> None:
        """Whether anybody listens on its port; what it holds stays."""
        self._tell("listening", {"listening": listening})

    def break_connections(self) -> None:
        """All of now."""
        self._tell("break-connections", {})

    def clear(self) -> None:
        """It forgets what it holds."""
        self._tell("clear", {})

    def report_new_series(self, reported: bool) -> None:
        """Whether errors of series that are not known yet are reported."""
        self._tell("new-series", {"async": not reported})

    # --- what it says

    def state(self) -> dict[str, Any]:
        """Calls, connections, writes, violations so far."""
        found: dict[str, Any] = get_json(f"{self._url}/state")
        return found

    def take_violations(self) -> list[str]:
        """What it has been sent that it should not have been; it forgets them."""
        found: list[str] = get_json(f"{self._url}/state?take")["violations"]
        return found

    def series(self, namespace: str) -> list[Series]:
        """What it holds."""
        stored = get_json(f"{self._url}/series", timeout_s=60)
        return [_series(one) for one in stored.get(namespace, [])]


def _series(document: dict[str, Any]) -> Series:
    runs = [
        [Point(time_ns, int(bits, 16), unit, bytes.fromhex(annotation)) for time_ns, bits, unit, annotation in run]
        for run in document["runs"]
    ]
    return Series(bytes.fromhex(document["id"]), bytes.fromhex(document["tags"]), [], {0: runs})
