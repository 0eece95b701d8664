"""A front process whose supervisor is the test, with workers that ack at once or do what the test says."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from lab.waiting import wait_until

from aggregator import ipc
from aggregator.engine.options import EngineOptions
from aggregator.front import FrontOptions, RawOptions
from aggregator.worker import WorkerOptions

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
WAIT_S = 30.0
SHARDS = 16
DEFAULT_METADATAS = bytes.fromhex("0a0a1a080a060a001a003200")


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def chunk(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def frame(metric: bytes, number: int, *, value: bytes | None = None) -> bytes:
    """A counter of 1 named ``metric`` as an m3msg frame with message id ``number``; or any ``value``."""
    counter = chunk(1, chunk(1, metric) + b"\x10\x01") + chunk(2, DEFAULT_METADATAS)
    body = chunk(1, b"\x10" + varint(number)) + chunk(2, b"\x08\x01" + chunk(2, counter) if value is None else value)
    return len(body).to_bytes(4, "big") + body


def acked_ids(data: bytes) -> list[int]:
    """Message ids in a stream of whole ack frames whose metadatas hold nothing but an id."""
    out: list[int] = []
    at = 0
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        at += 4
        while at < end:
            size = data[at + 1]
            value, shift = 0, 0
            for byte in data[at + 3 : at + 2 + size]:
                value |= (byte & 0x7F) << shift
                shift += 7
            out.append(value)
            at += 2 + size
    return out


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    return wait_until(what, condition, WAIT_S, every_s=0.005)


class Client:
    """A producer's connection."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        host, port = address.rsplit(":", 1)
        self.sock = socket.create_connection((host, int(port)), timeout=WAIT_S)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.received = b""

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def acks(self, count: int) -> list[int]:
        """Reads until ``count`` message ids are acked; returns all of them, sorted."""
        while len(ids := acked_ids(self.received)) < count:
            data = self.sock.recv(1 << 16)
            assert data, f"connection closed after {len(ids)} of {count} acks"
            self.received += data
        return sorted(ids)

    def poll(self) -> list[int]:
        """Ids acked so far, without waiting."""
        self.sock.setblocking(False)
        try:
            while data := self.sock.recv(1 << 20):
                self.received += data
        except BlockingIOError:
            pass
        finally:
            self.sock.settimeout(WAIT_S)
        return acked_ids(self.received)

    def closed(self) -> bool:
        """Reads until the front closes the connection."""
        try:
            while data := self.sock.recv(1 << 16):
                self.received += data
        except ConnectionError:
            pass
        return True


class HandWorker:
    """The worker end of the sockets in the hands of a test: nothing is acked that the test does not ack."""

    def __init__(self, context: Any, run_dir: str, worker: int, front: int, epoch: int) -> None:
        self.worker, self.epoch = worker, epoch
        self.payloads = ipc.Payloads(run_dir, front)
        self.data, self.out = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        self.data.set_hwm(0)
        self.data.connect(ipc.data_address(run_dir, worker, front, epoch))
        self.out.connect(ipc.acks_address(run_dir, worker, front, epoch))

    def receive(self, timeout_s: float = WAIT_S) -> tuple[Any, bytes] | None:
        if not self.data.poll(timeout_s * 1000):
            return None
        head, *frames = self.data.recv_multipart()
        message = ipc.decode_to_worker(head)
        return message, self.payloads.of(message, frames).tobytes()

    def ack(self, batch: ipc.Batch, ack_frames: list[bytes] | None = None) -> None:
        parts = ack_frames or [b""] * len(batch.sizes)
        frames = memoryview(b"".join(parts))
        self.out.send(ipc.encode(ipc.Acked(batch.seq, sum(batch.sizes), [len(part) for part in parts], frames)))

    def close(self) -> None:
        self.data.close(linger=0)
        self.out.close(linger=0)


class FakeWorker:
    """A process that acks everything at once and shows its stream."""

    def __init__(self, context: Any, run_dir: str, worker: int, front: int, epoch: int) -> None:
        self.worker, self.epoch = worker, epoch
        self.sup = context.socket(zmq.PAIR)
        self.sup.set_hwm(0)
        self.sup.bind(ipc.worker_address(run_dir, worker, front, epoch))
        names = [run_dir, str(worker), str(front), str(epoch)]
        self.process = subprocess.Popen([sys.executable, str(FAKE_WORKER), *names])
        assert self.sup.poll(WAIT_S * 1000), "the fake worker does not start"
        self.sup.recv()
        self.stream: list[tuple[Any, bytes]] = []

    def seen(self) -> list[tuple[Any, bytes]]:
        """Headers and payloads of its stream so far."""
        while self.sup.poll(0):
            frames = self.sup.recv_multipart()
            self.stream.append((ipc.decode_to_worker(frames[0]), b"".join(frames[1:])))
        return self.stream

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.sup.close(linger=0)


class RealWorker:
    """A worker process with the real engine."""

    def __init__(self, context: Any, run_dir: str, worker: int, front: int, epoch: int) -> None:
        self.worker, self.epoch = worker, epoch
        self.sup = context.socket(zmq.PAIR)
        self.sup.set_hwm(0)
        self.sup.bind(ipc.worker_address(run_dir, worker, front, epoch))
        engine = EngineOptions(
            num_shards=SHARDS,
            topic_shards=SHARDS,
            default_storage_policies=("10s:2d",),
            counter_transform="empty",
        )
        options = WorkerOptions(
            index=worker,
            epoch=epoch,
            front_epoch=front,
            run_dir=run_dir,
            parent_pid=os.getpid(),
            engine=engine,
            max_series=1 << 16,
        )
        path = Path(run_dir) / f"worker-{worker}-{epoch}.json"
        path.write_bytes(msgspec.json.encode(options))
        self.process = subprocess.Popen([sys.executable, "-m", "aggregator.worker", "--options", str(path)])
        self.messages: list[tuple[Any, list[bytes]]] = []

    def heard(self, kind: type) -> list[tuple[Any, list[bytes]]]:
        while self.sup.poll(0):
            head, *frames = self.sup.recv_multipart()
            self.messages.append((ipc.decode_from_worker(head), frames))
        return [entry for entry in self.messages if isinstance(entry[0], kind)]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.sup.close(linger=0)


class Rig:
    """Front, supervisor's end, workers, clients."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="front")
        self.run_dir = self._directory.name
        self.context = zmq.Context()
        self.sup = self.context.socket(zmq.PAIR)
        self.sup.set_hwm(0)
        self.sup.setsockopt(zmq.SNDTIMEO, int(WAIT_S * 1000))
        self.sup.bind(ipc.front_address(self.run_dir, 1))
        self.log: Any = None
        """Where the front's log goes; None: to the test's."""
        self.messages: list[Any] = []
        self.ends: list[Any] = []
        self.front: subprocess.Popen[bytes] | None = None
        self.address = ""
        """Where it listens, or will."""
        self.raw_address = ""
        """The same for raw TCP, if it was started with ``raw``."""
        self.workers = 1
        self.frame = frame
        self.chunk = chunk
        self.wait_for = wait_for

    def start(self, workers: int = 1, *, raw: dict[str, Any] | None = None, **options: Any) -> None:
        """Starts the front for this many workers; they are not up yet. ``raw``: its options of raw TCP."""
        self.workers = workers
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listeners = [listener]
        if raw is not None:
            listeners.append(socket.create_server(("127.0.0.1", 0), backlog=1024))
            self.raw_address = "{}:{}".format(*listeners[1].getsockname())
            options["raw"] = RawOptions(listener=listeners[1].fileno(), **raw)
        options |= {"run_dir": self.run_dir, "epoch": 1, "parent_pid": os.getpid(), "workers": workers}
        described = FrontOptions(listener=listener.fileno(), **options)
        path = Path(self.run_dir) / "front.json"
        path.write_bytes(msgspec.json.encode(described))
        command = [sys.executable, "-m", "aggregator.front", "--options", str(path)]
        host, port = listener.getsockname()
        self.address = f"{host}:{port}"
        self.front = subprocess.Popen(command, pass_fds=[one.fileno() for one in listeners], stderr=self.log)
        for one in listeners:
            one.close()
        self.say(ipc.Route(SHARDS, [shard % workers for shard in range(SHARDS)]))

    def shards(self, worker: int) -> ipc.Shards:
        """What a worker is told first."""
        mine = [shard for shard in range(SHARDS) if shard % self.workers == worker]
        return ipc.Shards(SHARDS, SHARDS, [ipc.OwnedShard(shard, 0, 2**62) for shard in mine])

    def say(self, message: Any) -> None:
        self.sup.send(ipc.encode(message))

    def heard(self, kind: type) -> list[Any]:
        """Messages of this kind from the front so far."""
        while self.sup.poll(0):
            self.messages.append(ipc.decode_from_front(self.sup.recv()))
        return [message for message in self.messages if isinstance(message, kind)]

    def stats(self) -> ipc.FrontStats:
        """Figures not older than this call."""
        before = len(self.heard(ipc.FrontStats))
        return wait_for(lambda: self.heard(ipc.FrontStats)[before:], "figures")[0]

    def up(self, worker: int, epoch: int, *, by_hand: bool = False, real: bool = False) -> Any:
        """A new incarnation of a worker, with its shards."""
        kind = HandWorker if by_hand else RealWorker if real else FakeWorker
        end = kind(self.context, self.run_dir, worker, 1, epoch)
        self.ends.append(end)
        self.say(ipc.WorkerUp(worker, epoch, []))
        self.say(ipc.Relay(worker, epoch, self.shards(worker)))
        return end

    def connect(self, tls: ssl.SSLContext | None = None) -> Client:
        listening = wait_for(lambda: self.heard(ipc.Listening), "the front to listen")
        assert listening[0].address == self.address
        return self.dial(tls)

    def dial(self, tls: ssl.SSLContext | None = None, *, raw: bool = False) -> Client:
        """A connection, even if the front does not take it yet."""
        client = Client(self.raw_address if raw else self.address, tls)
        self.ends.append(client.sock)
        return client

    def owner(self, metric: bytes) -> int:
        import mmh3  # noqa: PLC0415

        return mmh3.hash(metric, 0, signed=False) % SHARDS % self.workers

    def names(self, worker: int, count: int) -> list[bytes]:
        """``count`` metric names whose shards this worker owns."""
        found = (name for i in range(10**9) if self.owner(name := b"metric-%d" % i) == worker)
        return [next(found) for _ in range(count)]

    def close(self) -> None:
        for end in self.ends:
            end.close()
        if self.front is not None and self.front.poll() is None:
            self.front.send_signal(signal.SIGCONT)
            self.front.kill()
            self.front.wait()
        self.sup.close(linger=0)
        self.context.term()
        self._directory.cleanup()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        made.close()
