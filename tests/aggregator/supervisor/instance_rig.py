"""A real instance on the embedded KV, with a producer in front of it and a recording consumer behind it."""

import asyncio
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from lab.ports import free_port

from m3cluster.keys import placement_key, topic_key
from m3cluster.kv import Store
from m3cluster.placement.codec import encode_placement, encode_staged_placement
from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic, encode_topic
from m3metrics.codec.aggregated import decode_aggregated
from m3metrics.codec.unaggregated import Metric, encode_metric
from m3msg.consumer import ReceivedBatch
from m3msg.frames import Message, Metadata, decode_ack, encode_message, split

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = "namespace/m3db-cluster-name"
ID = "m3aggregator-local"
SHARDS = 16
S = 1_000_000_000


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class Recorder:
    """The consumer of ``aggregated_metrics``: (id, timestamp) → values as they came."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], list[float]] = {}

    async def take(self, batch: ReceivedBatch) -> None:
        for i in range(len(batch)):
            metric = decode_aggregated(batch.value(i))
            self.values.setdefault((metric.id.decode(), metric.time_ns), []).append(metric.value)
        batch.ack()

    def total(self, name: str) -> float:
        return sum(values[-1] for (found, _), values in self.values.items() if found == name)

    def names(self) -> set[str]:
        return {name for name, _ in self.values}

    def of(self, name: str) -> dict[int, list[float]]:
        return {at: values for (found, at), values in self.values.items() if found == name}


class Client:
    """A producer that counts its acks and, like a real one, sends again what was not acked when its connection broke."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.unacked: dict[int, bytes] = {}
        self._next = 1
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        while True:
            try:
                reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
                for frame in list(self.unacked.values()):
                    self._writer.write(frame)
                rest = b""
                while data := await reader.read(65536):
                    frames, rest = split(rest + data)
                    for frame in frames:
                        for metadata in decode_ack(frame):
                            self.unacked.pop(metadata.id, None)
            except OSError:
                pass
            finally:
                if self._writer is not None:
                    self._writer.close()
            self._writer = None
            await asyncio.sleep(0.1)

    def send(self, metrics: Iterable[Metric]) -> None:
        for metric in metrics:
            self._put(encode_metric(metric))

    def _put(self, value: bytes) -> None:
        number, self._next = self._next, self._next + 1
        frame = encode_message(Message(Metadata(0, number, time.time_ns()), value))
        self.unacked[number] = frame
        if self._writer is not None:
            self._writer.write(frame)

    def again(self) -> None:
        """What a producer does with messages unacked for long."""
        for frame in self.unacked.values():
            if self._writer is not None:
                self._writer.write(frame)


class Rig:
    """One instance, its consumer and a producer."""

    def __init__(self, folder: Path, store: Store, recorder: Recorder, output_port: int) -> None:
        self.folder, self.store, self.recorder = folder, store, recorder
        self.ports = (free_port(), free_port(), free_port())
        self.output_port = output_port
        self.client = Client(self.ports[0])
        self.process: asyncio.subprocess.Process | None = None
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.ports[1]}", timeout=10)

    async def write_cluster(self) -> None:
        """Placements and topics, all shards cut over."""
        shards = tuple(Shard(s, ShardState.INITIALIZING, cutover_ns=1) for s in range(SHARDS))
        own = Instance(id=ID, endpoint=f"127.0.0.1:{self.ports[0]}", shards=shards, shard_set_id=1, weight=1)
        placement = Placement((own,), num_shards=SHARDS, replica_factor=1, is_sharded=True, is_mirrored=True)
        sink = Instance(id="sink", endpoint=f"127.0.0.1:{self.output_port}")
        await self.store.set(placement_key(ENVIRONMENT, "m3aggregator"), encode_staged_placement(placement))
        await self.store.set(
            placement_key(ENVIRONMENT, "m3coordinator"), encode_placement(Placement((sink,), replica_factor=1))
        )
        services = (
            ("aggregator_ingest", "m3aggregator", ConsumptionType.REPLICATED),
            ("aggregated_metrics", "m3coordinator", ConsumptionType.SHARED),
        )
        for name, service, kind in services:
            consumer = ConsumerService(ServiceID(service, ENVIRONMENT, "embedded"), kind, 300 * S)
            await self.store.set(topic_key(ENVIRONMENT, name), encode_topic(Topic(name, SHARDS, (consumer,))))

    async def start(self, workers: int = 2, **aggregator: Any) -> None:
        """Starts it with configs/local, and ``aggregator`` over that section of it."""
        overlay = {
            "m3msg": {"server": {"listenAddress": f"127.0.0.1:{self.ports[0]}"}},
            "http": {"listenAddress": f"127.0.0.1:{self.ports[1]}"},
            "metrics": {"prometheus": {"listenAddress": f"127.0.0.1:{self.ports[2]}"}},
            "kvClient": {"embedded": {"path": str(self.folder / "kv.sqlite")}},
            "aggregator": {"bufferDurationForPastTimedMetric": "1s", **aggregator},
        }
        (self.folder / "overlay.yml").write_text(yaml.safe_dump(overlay))
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "aggregator", "-f", str(ROOT / "configs/local/m3aggregator.yml"),
                "-f", str(self.folder / "overlay.yml"), "--workers", str(workers),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def get(self, path: str) -> tuple[int, dict]:
        try:
            answer = await self.http.get(path)
        except httpx.TransportError:
            return 0, {}
        return answer.status_code, answer.json()

    async def until_ready(self, timeout_s: float = 120.0) -> None:
        deadline, last = time.monotonic() + timeout_s, {}
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.returncode is None, self.log()
            status, last = await self.get("/ready")
            if status == 200:
                return
            await asyncio.sleep(0.1)
        pytest.fail(f"not ready: {last}\n{self.log()}")

    def log(self) -> str:
        return "\n".join((self.folder / "log").read_text().splitlines()[-40:])

    def worker(self, number: int) -> int:
        """Pid of a worker."""
        for pid in self.children("aggregator.worker"):
            if f"/w{number}-" in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        pytest.fail(f"worker {number} does not run")

    def children(self, module: str) -> list[int]:
        """Pids of the instance's processes that run ``module``, oldest first."""
        assert self.process is not None
        found = []
        for entry in Path("/proc").iterdir():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except (OSError, ValueError, IndexError):
                continue
            if parent == self.process.pid and module.encode() in command:
                found.append(int(entry.name))
        return sorted(found)

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), 60)
        assert self.process.returncode is not None
        return self.process.returncode
