"""A worker process whose front and supervisor are the test."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from lab.waiting import wait_until

from aggregator import ipc
from aggregator.engine.options import EngineOptions
from aggregator.lists import ListId
from aggregator.worker import WorkerOptions

WAIT_S = 60.0
FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


class Rig:
    """Both ends that a worker talks to."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="worker")
        self.run_dir = self._directory.name
        self.context = zmq.Context()
        self.sup = self._socket(zmq.PAIR, ipc.worker_address(self.run_dir, 0, 1, 1))
        self.messages: list[tuple[Any, list[bytes]]] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.front(1)
        self.log = Path(self.run_dir) / "log"

    def _socket(self, kind: int, address: str) -> Any:
        made = self.context.socket(kind)
        made.set_hwm(0)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.SNDTIMEO, int(WAIT_S * 1000))
        made.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        made.bind(address)
        return made

    def front(self, epoch: int) -> None:
        """Opens the sockets of a front incarnation."""
        self.data = self._socket(zmq.PUSH, ipc.data_address(self.run_dir, 0, epoch, 1))
        self.acks = self._socket(zmq.PULL, ipc.acks_address(self.run_dir, 0, epoch, 1))
        self.seq = 0

    def close_front(self) -> None:
        self.data.close()
        self.acks.close()

    def start(self, command: list[str] | None = None, *, engine: EngineOptions | None = None, **options: Any) -> None:
        described = WorkerOptions(
            index=0,
            epoch=1,
            front_epoch=1,
            run_dir=self.run_dir,
            parent_pid=os.getpid(),
            engine=engine or EngineOptions(num_shards=16, topic_shards=16),
            **options,
        )
        path = Path(self.run_dir) / "worker.json"
        path.write_bytes(msgspec.json.encode(described))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(command or [str(FAKE_ENGINE)]), "--options", str(path)], stderr=log
            )
        assert self.until(ipc.Ready)[0].pid == self.process.pid

    def batch(self, *parts: bytes, now_ns: int = 0) -> int:
        """Sends one batch, a connection per part; returns its number."""
        number = self.seq
        self.seq += 1
        header = ipc.Batch(number, now_ns, list(range(len(parts))), [len(part) for part in parts])
        self.data.send_multipart([ipc.encode(header), b"".join(parts)])
        return number

    def order(self, command: Any, now_ns: int = 0) -> None:
        self.data.send(ipc.encode(ipc.Order(now_ns, command)))

    def shards(self) -> None:
        self.order(ipc.Shards(16, 16, [ipc.OwnedShard(shard, 0, 2**62) for shard in range(16)]))

    def flush(self, number: int, parts: int, size: int = 4096, now_ns: int = 0, kind: int = 0) -> None:
        """A flush that the fake engine answers with so many parts."""
        self.order(ipc.Flush(number, ListId(kind, size, parts), True, []), now_ns)

    def acked(self) -> ipc.Acked:
        (message,) = self.acks.recv_multipart()
        return ipc.decode_acked(message)

    def say(self, message: Any) -> None:
        self.sup.send(ipc.encode(message))

    def heard(self, kind: type) -> list[tuple[Any, list[bytes]]]:
        while self.sup.poll(0):
            head, *frames = self.sup.recv_multipart()
            self.messages.append((ipc.decode_from_worker(head), frames))
        return [entry for entry in self.messages if isinstance(entry[0], kind)]

    def until(self, kind: type, count: int = 1) -> tuple[Any, list[bytes]]:
        """The ``count``-th message of this kind."""
        return self.wait_for(lambda: self.heard(kind)[count - 1 : count], f"{count} × {kind.__name__}")[0]

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        try:
            return wait_until(what, condition, WAIT_S, every_s=0.005)
        except TimeoutError as error:
            raise AssertionError(f"{error}; the worker says: {self.log.read_text()}") from None

    def diary(self, part: tuple[Any, list[bytes]]) -> list[Any]:
        """What the fake engine had seen when it closed the windows of a flush."""
        payload, offsets, *_ = part[1]
        return json.loads(payload[: np.frombuffer(offsets, np.int64)[1]])

    def entries(self, part: tuple[Any, list[bytes]]) -> int:
        """How many entries the diary had when the fake engine made this part."""
        return int.from_bytes(part[1][0][-8:], "little")

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.context.destroy(linger=0)
        self._directory.cleanup()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        made.close()
