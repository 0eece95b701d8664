"""A real aggregator instance to measure: its own KV, one placement that is already cut over, both topics, one consumer of the output."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from lab.ports import free_port

from m3cluster.keys import placement_key, topic_key
from m3cluster.kv import Embedded, open_store
from m3cluster.placement import encode_placement, encode_staged_placement
from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic, encode_topic
from m3x.process import cpu_seconds, resident_bytes

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = "namespace/m3db-cluster-name"
NUM_SHARDS = 64


async def prepare(kv: Path, endpoint: str, output: str) -> None:
    """Writes the placements and topics: all shards on the one instance, without a cutover to wait for."""
    store = await open_store(Embedded(kv))
    try:
        shards = tuple(Shard(id=s, state=ShardState.AVAILABLE) for s in range(NUM_SHARDS))
        instance = Instance(
            id="m3aggregator-local",
            isolation_group="a",
            zone="embedded",
            weight=1,
            endpoint=endpoint,
            shards=shards,
            shard_set_id=1,
        )
        placement = Placement(
            (instance,), num_shards=NUM_SHARDS, replica_factor=1, is_sharded=True, is_mirrored=True, max_shard_set_id=1
        )
        consumer = Placement(
            (Instance(id="sink", isolation_group="a", zone="embedded", weight=1, endpoint=output),), replica_factor=1
        )
        await store.set(placement_key(ENVIRONMENT, "m3aggregator"), encode_staged_placement(placement))
        await store.set(placement_key(ENVIRONMENT, "m3coordinator"), encode_placement(consumer))
        for name, service, consumption in (
            ("aggregator_ingest", "m3aggregator", ConsumptionType.REPLICATED),
            ("aggregated_metrics", "m3coordinator", ConsumptionType.SHARED),
        ):
            topic = Topic(
                name,
                NUM_SHARDS,
                (ConsumerService(ServiceID(service, ENVIRONMENT, "embedded"), consumption, 300 * 10**9),),
            )
            await store.set(topic_key(ENVIRONMENT, name), encode_topic(topic))
    finally:
        await store.close()


class Aggregator:
    """A running instance with ``workers`` workers; use as a context manager."""

    def __init__(self, workers: int, output: str, overlay: dict[str, Any] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="m3bench-"))
        self.port, self.http, metrics = free_port(), free_port(), free_port()
        self.target = f"127.0.0.1:{self.port}"
        self.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
        kv = self.folder / "kv.sqlite"
        asyncio.run(prepare(kv, self.target, output))
        settings: dict[str, Any] = {
            "m3msg": {"server": {"listenAddress": self.target}},
            "http": {"listenAddress": f"127.0.0.1:{self.http}"},
            "metrics": {"prometheus": {"listenAddress": f"127.0.0.1:{metrics}"}},
            "kvClient": {"embedded": {"path": str(kv)}},
            **(overlay or {}),
        }
        overlay_file = self.folder / "overlay.yml"
        overlay_file.write_text(yaml.safe_dump(settings))
        self.log = self.folder / "aggregator.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aggregator", "-f", str(ROOT / "configs/local/m3aggregator.yml"), "-f", str(overlay_file),
                 "--workers", str(workers)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Aggregator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes and removes their directory."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait_until_ready(self, timeout_s: float = 120.0) -> None:
        deadline, last = time.monotonic() + timeout_s, ""
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise SystemExit(
                    f"the aggregator ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}"
                )
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/ready", timeout=2) as answer:
                    last = answer.read().decode()
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/status", timeout=2) as answer:
                    if '"leader"' in answer.read().decode():
                        return
            except urllib.error.HTTPError as error:
                last = error.read().decode()
            except OSError as error:
                last = str(error)
            time.sleep(0.1)
        raise SystemExit(f"the aggregator was not ready within {timeout_s:g} s: {last}\n{self.log.read_text()[-3000:]}")

    def get_json(self, path: str) -> Any:
        """A JSON page of the instance's HTTP server."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=10) as answer:
            return json.load(answer)

    def processes(self) -> dict[str, int]:
        """Pids by role: ``supervisor``, ``front``, ``worker 0``, ``worker 1`` …"""
        found = {"supervisor": self.process.pid}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if parent == self.process.pid and "--options" in command:
                # The options file is named after the process and its incarnation: front-1.json, w0-1.json.
                name = Path(command[command.index("--options") + 1]).name.split("-")[0]
                found[f"worker {name[1:]}" if name.startswith("w") else name] = int(entry.name)
        return found

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by process."""
        return {name: cpu_seconds(pid) for name, pid in self.processes().items()}

    def memory_mib(self) -> dict[str, float]:
        """Resident MiB by process."""
        return {name: resident_bytes(pid) / (1 << 20) for name, pid in self.processes().items()}
