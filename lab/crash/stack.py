"""The processes of a drill: a KV, aggregators, perhaps a coordinator that writes to them and stores what comes out; and how they die."""

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.cluster import LOCAL, coordinator_overlay, member, overlaid, write_cluster
from lab.crash.powercut import Lost, Notes, cut, environment
from lab.crash.samples import WINDOW_S
from lab.crash.writing import RULES
from lab.instances import Aggregator
from lab.kv import kv_of
from lab.ports import free_ports
from lab.processes import Process, family, module_command, send_signal
from lab.relay import RelayThread
from lab.waiting import wait_until

__all__ = ["NUM_SHARDS", "Settings", "Stack"]

NUM_SHARDS = 16
_AGAIN_S = 0.2
"""So long after its death a process is started anew, as by systemd."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a stack is made of."""

    backend: str = "etcd"
    instances: int = 1
    workers: int = 2
    coordinator: bool = False
    past_s: int = 30
    """How late samples with a time may come."""
    rollup_s: int = 60
    """How long a rollup may take."""
    ttl_s: int = 5
    instance: Mapping[str, Any] = field(default_factory=dict)
    """More keys of the section ``instance``."""
    ack: str = "aggregated"
    """``writes.ack`` of the coordinator; empty: its default."""
    noting: bool = False
    """Whether aggregators note what they have synced, as power cuts need it."""

    @property
    def settle_s(self) -> float:
        """Everything is out so long after the end of its window."""
        return 2 * WINDOW_S + self.rollup_s + self.ttl_s


class Stack:
    """Everything but what the drill itself plays: ``sink`` (``host:port``) takes the output. A context manager."""

    def __init__(self, settings: Settings, sink: str) -> None:
        self.settings = settings
        self.folder = Path(tempfile.mkdtemp(prefix="m3crash-"))
        self.kv = kv_of(settings.backend, self.folder)
        self._sink = sink
        self.noted = self.folder / "synced.jsonl"
        self.notes = Notes()
        """As the last power cut found them."""
        self.aggregators = [self._aggregator(name) for name in "ab"[: settings.instances]]
        self.relays: list[RelayThread] = []
        self.coordinator_url = ""
        self._coordinator: list[str] = []
        self.coordinator: Process | None = None

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_: object) -> None:
        for aggregator in self.aggregators:
            if aggregator.running:
                aggregator.kill()
        if self.coordinator is not None:
            send_signal(reversed(family(self.coordinator.pid)), signal.SIGKILL)
            self.coordinator.wait()
        for relay in self.relays:
            relay.close()
        if self.kv.server is not None:
            self.kv.server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Starts everything, and returns when every aggregator is ready to take samples. Raises ``LabError``."""
        if self.kv.server is not None:
            self.kv.server.start()
        self._prepare()
        for aggregator in self.aggregators:
            aggregator.start()
        if self.settings.coordinator:
            self.start_coordinator()
            assert self.coordinator is not None
            self.coordinator.wait_for_http(f"{self.coordinator_url}/health", 120)
        for aggregator in self.aggregators:
            aggregator.wait_until_ready(180)

    # --- configuration

    def _aggregator(self, name: str) -> Aggregator:
        settings = self.settings
        aggregator = {
            "hostID": {"value": name},
            "bufferDurationForPastTimedMetric": f"{settings.past_s}s",
            "electionManager": {"election": {"ttlSeconds": settings.ttl_s}},
            "forwarding": {"maxConstDelay": f"{settings.rollup_s}s"},
            "flushManager": {"jitterEnabled": True, "maxJitters": [{"flushInterval": "1m", "maxJitterPercent": 0.0}]},
        }
        data = self.folder / f"data-{name}"
        data.mkdir(exist_ok=True)
        overlay = {"aggregator": aggregator, "instance": {"dataDirectory": str(data), **settings.instance}}
        env = environment(self.noted) if settings.noting else {}
        return Aggregator(name, self.folder, self.kv.section(name), workers=settings.workers, overlay=overlay, env=env)

    def _prepare(self) -> None:
        """Placements and topics; the coordinator and rollups reach aggregators through relays."""
        placed = []
        for aggregator in self.aggregators:
            self.relays.append(RelayThread(aggregator.address))
            placed.append(member(aggregator.name, self.relays[-1].address, aggregator.name))
        taker, others = self._sink, {}
        if self.settings.coordinator:
            ports = free_ports(4)
            taker, others = f"127.0.0.1:{ports[3]}", {"crash-sink": self._sink}
            self.coordinator_url = f"http://127.0.0.1:{ports[0]}"
            overlay = coordinator_overlay(
                (ports[0], ports[1], ports[2], ports[3]), self.kv.section("m3coordinator"), self.folder
            )
            overlay["clusters"] = [{"namespaces": [
                {"namespace": f"metrics_{s}s", "type": "aggregated", "resolution": f"{s}s", "retention": "48h"}
                for s in (WINDOW_S, 2 * WINDOW_S)
            ]}]  # fmt: skip
            overlay["downsample"] = {"rules": RULES}
            if self.settings.ack:
                overlay["writes"] = {"ack": self.settings.ack}
            files = overlaid(LOCAL / "m3coordinator.yml", overlay, self.folder / "coordinator-overlay.yml")
            self._coordinator = module_command("coordinator", *files, "--data-dir", str(self.folder / "coordinator"))
        self.kv.do(lambda store: write_cluster(store, placed, taker, NUM_SHARDS, others=others))

    def missing(self) -> list[str]:
        """What should run and does not."""
        found = [one.name for one in self.aggregators if not one.running]
        if self.coordinator is not None and not self.coordinator.running:
            found.append("coordinator")
        if self.kv.server is not None and not (self.kv.server.process and self.kv.server.process.running):
            found.append(self.settings.backend)
        return found

    # --- deaths

    def start_coordinator(self) -> None:
        """Starts it, after the end of what ran before."""
        if self.coordinator is not None:
            self.coordinator.wait(60)
        self.coordinator = Process("coordinator", self._coordinator, self.folder / "coordinator.log")

    def roles(self) -> list[str]:
        """What can be killed now: names for ``kill``."""
        found = ["coordinator"] if self.coordinator is not None else []
        if self.kv.server is not None:
            found.append(self.settings.backend)
        for aggregator in self.aggregators:
            if aggregator.running:
                found += [f"{role} of {aggregator.name}" for role in aggregator.roles()]
        return found

    def kill(self, role: str) -> bool:
        """SIGKILL, and whoever has nobody that starts it anew is; False: it is not there."""
        if role == "coordinator":
            self.kill_coordinator()
            self._later(self.start_coordinator)
            return True
        if role == self.settings.backend:
            self.kill_kv()
            self._later(self.start_kv, 1.0)
            return True
        name, _, whose = role.rpartition(" of ")
        aggregator = next(one for one in self.aggregators if one.name == whose)
        pid = aggregator.roles().get(name) if aggregator.running else None
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if name == "supervisor":
            aggregator.process.wait()
            self._later(aggregator.start)
        return True

    def kill_coordinator(self) -> None:
        """SIGKILL to it and its children."""
        assert self.coordinator is not None
        send_signal(family(self.coordinator.pid), signal.SIGKILL)
        self.coordinator.wait()

    def kill_kv(self) -> None:
        """SIGKILL to the KV's server."""
        assert self.kv.server is not None
        self.kv.server.kill()

    def start_kv(self) -> None:
        """The same server again, with the same data."""
        assert self.kv.server is not None
        self.kv.server.launch()

    def kill_everything(self) -> None:
        """SIGKILL to all processes at once, as when a machine ends."""
        pids = [pid for one in self.aggregators if one.running for pid in one.pids()]
        if self.coordinator is not None and self.coordinator.running:
            pids += family(self.coordinator.pid)
        send_signal(pids, signal.SIGKILL)
        if self.kv.server is not None:
            self.kv.server.kill()
        for one in self.aggregators:
            one.process.wait()
        if self.coordinator is not None:
            self.coordinator.wait()

    def cut_power(self, aggregator: Aggregator) -> Lost:
        """SIGKILL to all its processes, and what they had not synced is gone. They have to note it (``powercut.environment``)."""
        pids = family(aggregator.process.pid)
        send_signal(pids, signal.SIGKILL)
        aggregator.process.wait()
        wait_until("all its processes are gone", lambda: not any(_lives(pid) for pid in pids), 20, every_s=0.01)
        self.notes = Notes.read(self.noted)
        return cut(self.folder / f"data-{aggregator.name}", self.notes)

    def start_everything(self) -> None:
        """All again, the KV first."""
        if self.kv.server is not None:
            self.start_kv()
        if self.coordinator is not None:
            self.start_coordinator()
        for one in self.aggregators:
            one.start()

    def _later(self, start: Callable[[], object], after_s: float = _AGAIN_S) -> None:
        timer = threading.Timer(after_s, start)
        timer.daemon = True
        timer.start()


def _lives(pid: int) -> bool:
    """Whether it can still write; one that nobody has waited for cannot."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
