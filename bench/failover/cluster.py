"""Aggregator instances as real processes on loopback, with one placement, both topics and one consumer of the output."""

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from lab.http import get_json, request
from lab.kv import ENVIRONMENT
from lab.ports import free_port

from bench.failover.kv import FaultyKV
from bench.failover.plan import Timing
from m3cluster.keys import placement_key, topic_key
from m3cluster.kv import Store
from m3cluster.placement import encode_placement, encode_staged_placement
from m3cluster.placement.model import Instance as PlacedInstance
from m3cluster.placement.model import Placement, Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic, encode_topic

__all__ = ["NUM_SHARDS", "Aggregator", "Cluster"]

ROOT = Path(__file__).resolve().parents[2]
NUM_SHARDS = 16


class Aggregator:
    """One instance: its configuration, and its processes while they run."""

    def __init__(self, name: str, folder: Path, kv: FaultyKV, timing: Timing, shard_set: int, group: str) -> None:
        self.name, self.shard_set, self.group = name, shard_set, group
        self.port, self.http = free_port(), free_port()
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped: list[int] = []
        """Pids that a SIGSTOP holds."""
        self._config = folder / f"{name}.yml"
        self._config.write_text(yaml.safe_dump(self._settings(kv, timing)))

    def _settings(self, kv: FaultyKV, timing: Timing) -> dict[str, Any]:
        """The local configuration of the project with other addresses, its own id, and flushes at the very moment when they are due."""
        config: dict[str, Any] = yaml.safe_load((ROOT / "configs/local/m3aggregator.yml").read_text())
        config["m3msg"]["server"]["listenAddress"] = f"127.0.0.1:{self.port}"
        config["http"]["listenAddress"] = f"127.0.0.1:{self.http}"
        config["metrics"]["prometheus"]["listenAddress"] = f"127.0.0.1:{free_port()}"
        config["kvClient"] = kv.section(self.name)
        section = config["aggregator"]
        section["hostID"]["value"] = self.name
        section["bufferDurationForPastTimedMetric"] = f"{timing.past_s}s"
        section["electionManager"]["election"]["ttlSeconds"] = timing.ttl_s
        section["flushManager"]["jitterEnabled"] = True
        section["flushManager"]["maxJitters"] = [{"flushInterval": "1m", "maxJitterPercent": 0.0}]
        return config

    @property
    def address(self) -> tuple[str, int]:
        """Where it takes metrics."""
        return "127.0.0.1", self.port

    @property
    def running(self) -> bool:
        """Whether its supervisor lives."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts it, after the end of what ran before."""
        if self.process is not None:
            self.process.wait(60)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aggregator", "-f", str(self._config), "--workers", "1"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def pids(self) -> list[int]:
        """The supervisor, then its children."""
        assert self.process is not None
        return [self.process.pid, *(pid for pid, _ in self._children())]

    def _children(self) -> list[tuple[int, str]]:
        assert self.process is not None
        found = []
        for entry in Path("/proc").iterdir():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == self.process.pid:
                    found.append((int(entry.name), (entry / "cmdline").read_bytes().decode().replace("\0", " ")))
            except (OSError, ValueError, IndexError):
                continue
        return found

    def kill(self) -> None:
        """SIGKILL to all its processes, as when a machine ends."""
        for pid in self.pids():
            _signal(pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def kill_worker(self) -> None:
        """SIGKILL to its worker; the rest goes on."""
        for pid, command in self._children():
            if "aggregator.worker" in command:
                _signal(pid, signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM to the supervisor."""
        assert self.process is not None
        self.process.terminate()

    def stop(self) -> None:
        """SIGSTOP to all its processes."""
        self.stopped = self.pids()
        for pid in self.stopped:
            _signal(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        for pid in self.stopped:
            _signal(pid, signal.SIGCONT)
        self.stopped = []

    def json(self, path: str, timeout_s: float = 2.0) -> Any:
        """A page of its HTTP server, whatever its status. Raises ``OSError``."""
        return get_json(f"http://127.0.0.1:{self.http}{path}", timeout_s)

    def post(self, path: str, timeout_s: float = 30.0) -> None:
        """POST without a body. Raises ``OSError``."""
        request("POST", f"http://127.0.0.1:{self.http}{path}", timeout_s=timeout_s)

    def flush_status(self) -> dict[str, Any]:
        """``electionState`` and ``canLead``; empty while it does not answer."""
        try:
            status: dict[str, Any] = self.json("/status")["status"]["flushStatus"]
        except (OSError, http.client.HTTPException, ValueError):
            # It may be killed in the middle of an answer.
            return {}
        return status

    def leads(self) -> bool:
        """Whether it says that it leads."""
        return bool(self.flush_status().get("electionState") == "leader")


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Cluster:
    """Instances of one placement that share a KV; use as a context manager."""

    def __init__(self, backend: str, timing: Timing, consumer: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="m3drill-"))
        self.timing = timing
        self.kv = FaultyKV(backend, self.folder)
        self.instances: dict[str, Aggregator] = {}
        self._consumer = consumer

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, name: str, shard_set: int, group: str) -> Aggregator:
        """An instance that is not started yet."""
        self.instances[name] = Aggregator(name, self.folder, self.kv, self.timing, shard_set, group)
        return self.instances[name]

    def placed(self, name: str, shards: tuple[Shard, ...] = ()) -> PlacedInstance:
        """An instance as a placement names it."""
        one = self.instances[name]
        return PlacedInstance(
            id=name,
            isolation_group=one.group,
            zone="embedded",
            weight=1,
            endpoint=f"127.0.0.1:{one.port}",
            hostname=name,
            port=one.port,
            shards=shards,
            shard_set_id=one.shard_set,
        )

    def prepare(self) -> None:
        """Writes placements, already cut over, and topics: all instances added so far mirror each other."""
        shards = tuple(Shard(id=s, state=ShardState.AVAILABLE) for s in range(NUM_SHARDS))
        placement = Placement(
            tuple(self.placed(name, shards) for name in self.instances),
            num_shards=NUM_SHARDS,
            replica_factor=len(self.instances),
            is_sharded=True,
            is_mirrored=True,
            max_shard_set_id=1,
        )
        sink = PlacedInstance(id="sink", isolation_group="a", zone="embedded", weight=1, endpoint=self._consumer)

        async def write(store: Store) -> None:
            await store.set(placement_key(ENVIRONMENT, "m3aggregator"), encode_staged_placement(placement))
            await store.set(
                placement_key(ENVIRONMENT, "m3coordinator"), encode_placement(Placement((sink,), replica_factor=1))
            )
            for name, service, kind in (
                ("aggregator_ingest", "m3aggregator", ConsumptionType.REPLICATED),
                ("aggregated_metrics", "m3coordinator", ConsumptionType.SHARED),
            ):
                consumers = (ConsumerService(ServiceID(service, ENVIRONMENT, "embedded"), kind, 300 * 10**9),)
                await store.set(topic_key(ENVIRONMENT, name), encode_topic(Topic(name, NUM_SHARDS, consumers)))

        self.kv.do(write)

    def leader(self, shard_set: int = 1) -> Aggregator | None:
        """The instance that says that it leads."""
        members = [i for i in self.instances.values() if i.shard_set == shard_set and i.running]
        return next((i for i in members if i.leads()), None)

    def candidates(self) -> int:
        """Instances that lead or wait for the lead."""

        async def read(store: Store) -> int:
            return len(await store.keys("_ld/"))

        return self.kv.do(read)

    def close(self) -> None:
        """Kills everything and removes the files."""
        for instance in self.instances.values():
            if instance.running:
                instance.kill()
        self.kv.close()
        shutil.rmtree(self.folder, ignore_errors=True)
