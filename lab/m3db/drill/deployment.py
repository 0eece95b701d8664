"""A KV, four played nodes of which three are in the placement, and a real coordinator; all processes on loopback."""

import contextlib
import http.client
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from lab.cluster import coordinator_overlay
from lab.http import get_json
from lab.kv import ENVIRONMENT, KV, ZONE, kv_of
from lab.m3db.drill.plan import NAMESPACES, NODES, SPARE
from lab.m3db.placements import Nodes, write_registry
from lab.m3db.process import NodeProcess
from lab.ports import free_ports
from lab.processes import Process, module_command
from lab.waiting import wait_until

__all__ = ["Coordinator", "Deployment", "deployed"]

NUM_SHARDS = 12
_POLL_S = 0.1


class Coordinator:
    """The process and its figures over all of its lives. ``binary``: M3's coordinator instead of ours."""

    def __init__(self, folder: Path, kv: KV, kind: str, binary: str = "") -> None:
        ports = free_ports(4)
        self.http, self.ingest = f"http://127.0.0.1:{ports[0]}", ports[3]
        self._folder, self._is_m3 = folder, bool(binary)
        config = folder / "coordinator.yml"
        config.write_text(yaml.safe_dump(_config(tuple(ports), kv, kind, folder, is_m3=self._is_m3)))
        ours = module_command("coordinator", "-f", str(config), "--data-dir", str(folder / "data"))
        self._command: Sequence[str] = [binary, "-f", str(config)] if binary else ours
        self._process: Process | None = None
        self._lives: list[dict[str, Any]] = []
        """Of each life what the sink last said of itself."""
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, name="figures", daemon=True)

    @property
    def process(self) -> Process:
        """Of its present life."""
        assert self._process is not None, "it was not started"
        return self._process

    def start(self) -> None:
        """Launches it, after the first time with what it left on disk."""
        self._lives.append({})
        self._process = Process("coordinator", self._command, self._folder / "coordinator.log")
        if not self._watch.is_alive():
            self._watch.start()

    def wait(self) -> None:
        """Returns when it serves."""
        self.process.wait_for_http(f"{self.http}/health")

    def kill(self) -> None:
        """SIGKILL, and its next life begins."""
        self.process.kill()
        self.start()

    def end(self) -> None:
        """For good."""
        self._ended.set()
        self.process.stop()

    def waiting(self) -> int:
        """Values that are acknowledged and not delivered yet. Raises ``OSError`` while it does not answer."""
        return 0 if self._is_m3 else int(self._sink()["waitingValues"])

    def refused(self) -> Counter[str]:
        """Values by reason, over all lives."""
        total: Counter[str] = Counter()
        for life in self._lives:
            total.update({reason: n for reason, n in life.get("refused", {}).items() if reason != "already-there"})
            total.update({name: life[name] for name in ("dropped", "unreadable") if life.get(name)})
        return total

    def look(self) -> None:
        """Remembers what the sink says of itself now. Raises ``OSError``."""
        if not self._is_m3:
            self._lives[-1] = self._sink()

    def _sink(self) -> dict[str, Any]:
        (sink,) = get_json(f"{self.http}/api/v1/sinks", 5.0)["sinks"]
        return dict(sink)

    def _look(self) -> None:
        while not self._ended.wait(_POLL_S):
            life = len(self._lives)
            with contextlib.suppress(OSError, ValueError, KeyError, http.client.HTTPException):
                found = {} if self._is_m3 else self._sink()
                # It may have died meanwhile.
                self._lives[life - 1] = found


def _config(ports: tuple[int, ...], kv: KV, kind: str, folder: Path, *, is_m3: bool) -> dict[str, Any]:
    management = {key: value for key, value in kv.section("m3coordinator").items() if value is not None}
    sections = coordinator_overlay((ports[0], ports[1], ports[2], ports[3]), management, folder)
    del sections["carbon"], sections["embeddedStorage"]
    client: dict[str, Any] = {"writeTimeout": "4s"}
    if kind == "etcd":
        client["config"] = {"service": kv.section("m3db")["etcd"]}
    else:
        # One file for all: its keys are the same.
        client["config"] = {"service": {"env": ENVIRONMENT, "zone": ZONE, "service": "m3db"}}
    ingest = sections["ingest"]
    ingest["ingester"] = {"workerPoolSize": 100}
    if is_m3:
        sections["metrics"] |= {"samplingRate": 1.0, "sanitization": "prometheus", "extended": "none"}
        ingest["ingester"] |= {"opPool": {"size": 1000}, "retry": {"maxRetries": 1}, "logSampleRate": 0.01}
    else:
        # What comes from aggregators is all that it takes.
        sections["embeddedAggregator"] = {"enabled": False}
    return {"backend": "m3db", **sections, "clusters": [{"client": client}]}


class Deployment:
    """All of it, while it runs."""

    def __init__(self, folder: Path, kv: KV, kind: str, binary: str) -> None:
        self.folder, self.kv = folder, kv
        self.nodes = {name: NodeProcess(name, folder, NAMESPACES, num_shards=NUM_SHARDS) for name in (*NODES, SPARE)}
        self.placement = Nodes([self.nodes[name] for name in NODES], num_shards=NUM_SHARDS)
        self.inherited: dict[str, str] = {}
        """A node that has replaced another one → that one, whose data it has streamed."""
        self.coordinator = Coordinator(folder, kv, kind, binary)

    def write_all(self) -> None:
        """Placement and registry, for the first time."""

        async def work(store: Any) -> None:
            self.placement.store = store
            await self.placement.write()
            await write_registry(store, NAMESPACES)

        self.kv.do(work)

    def change(self, action: str, nodes: Sequence[str]) -> None:
        """``replace``, ``add``, ``remove`` or ``settle``."""

        async def work(store: Any) -> None:
            self.placement.store = store
            if action == "replace":
                await self.placement.replace(nodes[0], self.nodes[nodes[1]])
            elif action == "add":
                await self.placement.add(self.nodes[nodes[0]])
            elif action == "remove":
                await self.placement.remove(nodes[0])
            else:
                await self.placement.settle()

        self.kv.do(work)

    def heal(self, names: Sequence[str]) -> None:
        """Nothing is wrong with these nodes any more."""
        for name in names:
            node = self.nodes[name]
            for method in ("health", "writeTaggedBatchRaw"):
                node.fault(method, None)
            node.be_silent(False)
            node.set_clock(0)


@contextmanager
def deployed(folder: Path, kind: str, binary: str = "") -> Iterator[Deployment]:
    """Starts everything; ``kind``: of the KV."""
    with ExitStack() as stack:
        kv = kv_of(kind, folder)
        if kv.server is not None:
            stack.callback(kv.server.kill)
            kv.server.start()
        deployment = Deployment(folder, kv, kind, binary)
        for node in deployment.nodes.values():
            stack.enter_context(node)
        deployment.write_all()
        stack.callback(deployment.coordinator.end)
        deployment.coordinator.start()
        deployment.coordinator.wait()
        yield deployment


def settled(deployment: Deployment, unacked: Any, timeout_s: float) -> None:
    """Returns when all is acknowledged and delivered."""
    wait_until("all values are acknowledged", lambda: unacked() == 0, timeout_s)
    wait_until("all values are delivered", lambda: deployment.coordinator.waiting() == 0, timeout_s)
    deployment.coordinator.look()
