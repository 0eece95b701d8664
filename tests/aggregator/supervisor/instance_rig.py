"""A real instance on the embedded KV, with a producer in front of it and a recording consumer behind it."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from lab.cluster import member, write_cluster
from lab.instances import Aggregator
from lab.kv import kv_of
from lab.ports import free_port
from lab.processes import Process
from lab.waiting import until

from m3cluster.kv import Store
from m3cluster.placement.model import Shard, ShardState
from m3metrics.codec.aggregated import decode_aggregated
from m3metrics.codec.unaggregated import Metric, encode_metric
from m3msg.consumer import ReceivedBatch
from m3msg.frames import Message, Metadata, decode_ack, encode_message, split

ID = "m3aggregator-local"
SHARDS = 16
S = 1_000_000_000


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class Recorder:
    """The consumer of ``aggregated_metrics``: (id, timestamp) → values as they came, each message once.

    A producer sends a message again, under its name, when the machine was too busy for it to be acked in time.
    """

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], list[float]] = {}
        self.every: dict[tuple[str, int], set[float]] = {}
        """All different values, of messages that came before as well: an instance that was started again numbers them anew."""
        self._seen: set[tuple[int, int]] = set()

    async def take(self, batch: ReceivedBatch) -> None:
        for i, (shard, number) in enumerate(batch.rows[["shard", "id"]].tolist()):
            metric = decode_aggregated(batch.value(i))
            self.every.setdefault((metric.id.decode(), metric.time_ns), set()).add(metric.value)
            if (shard, number) in self._seen:
                continue
            self._seen.add((shard, number))
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

    def __init__(self, address: str) -> None:
        self._host, self._port = address.split(":")
        self.unacked: dict[int, bytes] = {}
        self._next = 1
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        while True:
            try:
                reader, self._writer = await asyncio.open_connection(self._host, self._port)
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
        self.output_port = output_port
        self.address = f"127.0.0.1:{free_port()}"
        self.client = Client(self.address)
        self.instance: Aggregator | None = None
        self.http = httpx.AsyncClient(timeout=10)

    async def write_cluster(self) -> None:
        """Placements and topics, all shards cut over."""
        own, shard = member(ID, self.address), Shard(0, ShardState.INITIALIZING, cutover_ns=1)
        await write_cluster(self.store, [own], f"127.0.0.1:{self.output_port}", SHARDS, shard)

    async def start(
        self,
        workers: int | None = 2,
        instance: dict[str, Any] | None = None,
        *,
        env: dict[str, str] | None = None,
        through: Sequence[str] = (),
        **aggregator: Any,
    ) -> None:
        """Starts it with configs/local, and ``aggregator`` and ``instance`` over these sections of it."""
        self.instance = Aggregator(
            ID,
            self.folder,
            kv_of("embedded", self.folder).section("m3aggregator"),
            address=self.address,
            workers=workers,
            env=env,
            through=through,
            overlay={
                "aggregator": {"bufferDurationForPastTimedMetric": "1s", **aggregator},
                "instance": instance or {},
            },
        )
        self.http.base_url = self.instance.http
        self.instance.start()

    @property
    def process(self) -> Process:
        """Its supervisor, which was started."""
        assert self.instance is not None
        return self.instance.process

    async def get(self, path: str) -> tuple[int, dict]:
        try:
            answer = await self.http.get(path)
        except httpx.TransportError:
            return 0, {}
        return answer.status_code, answer.json()

    async def until_ready(self, timeout_s: float = 120.0) -> None:
        last: dict = {}

        async def ready() -> bool:
            nonlocal last
            self.process.check()
            status, last = await self.get("/ready")
            return status == 200

        try:
            await until(ready, timeout_s, every_s=0.1)
        except TimeoutError:
            pytest.fail(f"not ready: {last}\n{self.log()}")

    def log(self) -> str:
        return "" if self.instance is None else self.process.tail()

    def roles(self) -> dict[str, int]:
        """Pids of its processes by role."""
        assert self.instance is not None
        return self.instance.roles()

    def worker(self, number: int) -> int:
        """Pid of a worker."""
        assert self.instance is not None
        return self.instance.roles()[f"worker {number}"]

    def children(self, module: str) -> list[int]:
        """Pids of the instance's processes that run ``module``, oldest first."""
        assert self.instance is not None
        return self.instance.children(module)

    async def stop(self) -> int:
        return await asyncio.to_thread(self.process.stop, 60)

    async def close(self) -> None:
        """Kills what still runs."""
        if self.instance is not None:
            self.process.kill()
        await self.http.aclose()
