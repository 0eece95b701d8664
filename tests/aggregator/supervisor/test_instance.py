"""A real instance on the embedded KV: metrics in over m3msg, aggregated values out to a recording consumer."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import httpx
import pytest
import yaml
from bench.ports import free_port
from tests.processes import stop

from m3cluster.flush_times import decode_flush_times
from m3cluster.keys import flush_times_key, placement_key, topic_key
from m3cluster.kv import Embedded, Store, open_store
from m3cluster.placement.codec import encode_placement, encode_staged_placement
from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic, encode_topic
from m3metrics.codec.aggregated import decode_aggregated
from m3metrics.codec.unaggregated import (
    CounterWithMetadatas,
    Metric,
    TimedMetricWithMetadatas,
    encode_metric,
)
from m3metrics.metadata import PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy
from m3msg.consumer import ConsumerServer, ReceivedBatch
from m3msg.frames import Message, Metadata, decode_ack, encode_message, split

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = "namespace/m3db-cluster-name"
ID = "m3aggregator-local"
SHARDS = 16
S = 1_000_000_000
POLICY: StagedMetadatas = (
    StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(StoragePolicy.parse("1s:1h"),)),)),
)


async def until(what: str, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - conditions of other processes
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"{what}: not within {timeout_s:g} s")


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

    async def start(self, workers: int = 2) -> None:
        overlay = {
            "m3msg": {"server": {"listenAddress": f"127.0.0.1:{self.ports[0]}"}},
            "http": {"listenAddress": f"127.0.0.1:{self.ports[1]}"},
            "metrics": {"prometheus": {"listenAddress": f"127.0.0.1:{self.ports[2]}"}},
            "kvClient": {"embedded": {"path": str(self.folder / "kv.sqlite")}},
            "aggregator": {"bufferDurationForPastTimedMetric": "1s"},
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


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    store = await open_store(Embedded(tmp_path / "kv.sqlite"))
    recorder = Recorder()
    async with ConsumerServer("127.0.0.1", 0, recorder.take) as server:
        made = Rig(tmp_path, store, recorder, server.port)
        await made.write_cluster()
        client = asyncio.create_task(made.client.run())
        try:
            yield made
        finally:
            client.cancel()
            await asyncio.wait([client])
            if made.process is not None and made.process.returncode is None:
                os.killpg(made.process.pid, signal.SIGKILL)
                await made.process.wait()
            await made.http.aclose()
            await store.close()
            print(made.log() if (tmp_path / "log").exists() else "")


def gauges(at_ns: int, value: float, prefix: str = "gauge") -> list[Metric]:
    return [
        TimedMetricWithMetadatas(
            metric_type=MetricType.GAUGE, id=f"{prefix}.{i}".encode(), time_ns=at_ns, value=value + i, metadatas=POLICY
        )
        for i in range(40)
    ]


async def test_values_come_out_right_and_the_end_leaves_nothing_behind(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    status, body = await rig.get("/status")
    assert (status, body) == (200, {"status": {"flushStatus": {"electionState": "leader", "canLead": True}}})
    at = time.time_ns()
    end = at // S * S + S
    rig.client.send(gauges(at // S * S, 100.0))
    rig.client.send(gauges(at // S * S + 1, 200.0))
    for _ in range(5):
        rig.client.send([CounterWithMetadatas(id=b"counter.%d" % i, value=i, metadatas=POLICY) for i in range(20)])
        await asyncio.sleep(0.3)
    await until("acks", lambda: not rig.client.unacked)
    await until("gauges", lambda: all(rig.recorder.of(f"gauge.{i}") for i in range(40)))
    assert {f"gauge.{i}": rig.recorder.of(f"gauge.{i}") for i in range(40)} == {
        f"gauge.{i}": {end: [200.0 + i]} for i in range(40)
    }
    await until("counters", lambda: all(rig.recorder.total(f"counter.{i}") == 5 * i for i in range(20)))

    status, body = await rig.get("/shards")
    shards = body["shards"]
    assert [row["shard"] for row in shards] == list(range(SHARDS))
    assert sum(row["entries"] for row in shards) == 60
    assert {row["worker"] for row in shards} == {0, 1}
    assert {row["state"] for row in shards} == {"INITIALIZING"}
    assert all(row["lastFlushNs"] > 0 for row in shards if row["entries"])
    assert {row["name"] for row in body["lists"]} == {"timed 1s", "standard 1s"}
    page = (await rig.http.get("/")).text
    assert ID in page
    async with httpx.AsyncClient() as metrics:
        text = (await metrics.get(f"http://127.0.0.1:{rig.ports[2]}/metrics")).text
    assert "m3aggregator_aggregator_election_manager_election_state 3.0" in text
    assert "m3msg_server_message_received" in text

    pids = [*rig.children("aggregator.worker"), *rig.children("aggregator.front")]
    assert len(pids) == 3
    times = decode_flush_times((await rig.store.get(flush_times_key(ENVIRONMENT, 1))).data)
    assert any(t.timed.get(S, 0) >= end for t in times.by_shard.values())
    assert await rig.stop() == 0, rig.log()
    assert not any(map(alive, pids))
    assert await rig.store.keys("_ld/") == []


async def test_killed_processes_come_back_and_take_their_shards_again(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    rig.client.send(gauges(time.time_ns(), 1.0, "before"))
    await until("output", lambda: all(rig.recorder.of(f"before.{i}") for i in range(40)))
    for module in ("aggregator.worker", "aggregator.front"):
        before = rig.children(module)
        os.kill(before[0], signal.SIGKILL)

        def replaced(module: str = module, before: list[int] = before) -> bool:
            now = rig.children(module)
            return before[0] not in now and len(now) == len(before)

        await until("a new process", replaced)
        await rig.until_ready()
        _, body = await rig.get("/shards")
        assert all(row["workerUp"] for row in body["shards"])
        name = module.rsplit(".", 1)[-1]
        rig.client.send(gauges(time.time_ns(), 7.0, name))
        await until("acks", lambda: rig.client.again() or not rig.client.unacked)
        await until("output", lambda n=name: all(rig.recorder.of(f"{n}.{i}") for i in range(40)))
        assert [list(rig.recorder.of(f"{name}.{i}").values())[-1][-1] for i in range(40)] == [
            7.0 + i for i in range(40)
        ]
    assert await rig.stop() == 0, rig.log()


async def test_a_wrong_set_up_is_said_aloud(rig: Rig) -> None:
    await rig.store.delete(topic_key(ENVIRONMENT, "aggregated_metrics"))
    data = (await rig.store.get(placement_key(ENVIRONMENT, "m3aggregator"))).data
    await rig.store.set(
        placement_key(ENVIRONMENT, "m3aggregator"),
        encode_staged_placement(Placement((Instance(id="m3aggregator-locl"),), num_shards=SHARDS)),
    )
    await rig.start()

    async def reasons() -> str:
        return " ".join((await rig.get("/ready"))[1].get("reasons", []))

    found = ""
    async with asyncio.timeout(60):
        while "is not in the placement" not in found or "topic aggregated_metrics does not exist" not in found:
            await asyncio.sleep(0.1)
            found = await reasons()
    assert "m3aggregator-locl" in found
    problems = "\n".join((await rig.get("/status"))[1]["problems"])
    assert "set hostID/instanceID to one of these" in problems
    assert "topic aggregated_metrics does not exist: create it" in problems
    assert (await rig.get("/health")) == (200, {"state": "OK"})
    # Everything is repaired while the instance runs.
    await rig.store.set(placement_key(ENVIRONMENT, "m3aggregator"), data)
    await rig.write_cluster()
    await rig.until_ready()
    assert await rig.stop() == 0, rig.log()


async def test_a_second_signal_ends_at_once(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    pids = rig.children("aggregator.worker")
    assert rig.process is not None
    # Something that cannot be delivered keeps the orderly end waiting.
    stop(rig.children("aggregator.front")[0])
    rig.process.terminate()
    await until("the first signal", lambda: "shutting down" in rig.log())
    rig.process.terminate()
    await asyncio.wait_for(rig.process.wait(), 20)
    assert rig.process.returncode == 1
    await until("no process is left", lambda: not any(map(alive, pids)))
