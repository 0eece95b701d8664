"""Two remote write endpoints behind one coordinator, of which one refuses everything for an hour of values; and kill -9 meanwhile.

    scripts/bench outage [--windows 360] [--series 50000] [--rate 100000] [--kills 20] [--seed N]

The coordinator is a process with its default queues; it gets m3msg messages with ids of 100 to 180 bytes, a window of ten seconds after
the other, faster than time would give them: 50,000 series in 360 windows are an hour of 5,000 values a second, 18 M values. A message
that is not acknowledged is sent again. What is found:

* values that an endpoint lacks in the end, has twice, or got behind a later one of their series: the first must be none, the third too
  unless there are kills (what was under way comes again);
* how late the endpoint that works has them, from the message to the end of its second of values (but for those sent while
  the coordinator was dead, and in the two seconds before and after);
* what waits for the other one, by ``/api/v1/sinks``, and the memory of the coordinator on the way.

Exit code 1 if a value is missing.
"""

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lab.cluster import coordinator_overlay, overlaid
from lab.http import get_json, request
from lab.kv import kv_of
from lab.ports import free_ports
from lab.processes import Process, module_command
from lab.waiting import wait_until
from numpy.typing import NDArray

from bench.out_new_series import series_id
from bench.outage_store import CHUNK, WINDOWS
from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.policy import StoragePolicy
from m3msg.frames import Message, Metadata, encode_message
from m3msg.kernels import scan_acks
from m3msg.rows import ACK_ROW, MAX_FRAME
from m3x.process import cpu_seconds, resident_bytes
from m3x.protobuf import varint

__all__ = ["main"]

_POLICY = StoragePolicy.parse("10s:2d")
_WINDOW_NS = 10_000_000_000
_START_NS = 1_767_355_200_000_000_000
_FIRST_ID = 1 << 21
"""Ids from here to 1 << 28 have four bytes."""
_MIB = 1 << 20
_AROUND_S = 2.0
"""So long before and after a death of the coordinator nobody asks how late values are."""


class Messages:
    """All messages of a window, made once; ``window`` puts other ids, times and values into them."""

    def __init__(self, series: int) -> None:
        rng, marker = random.Random(7), 1.2345678901234567e300
        mark, at_ns = np.float64(marker).tobytes(), varint(_START_NS)
        made = []
        self.starts = np.zeros(series + 1, np.int64)
        places = []
        for k in range(series):
            metric = AggregatedMetric(id=series_id(k, rng), time_ns=_START_NS, value=marker, storage_policy=_POLICY)
            data = encode_message(Message(Metadata(1, _FIRST_ID + k, 1), encode_aggregated(metric)))
            places.append((data.index(varint(_FIRST_ID + k)), data.index(at_ns), data.index(mark)))
            made.append(data)
            self.starts[k + 1] = self.starts[k] + len(data)
        self.buf = np.frombuffer(bytearray(b"".join(made)), np.uint8)
        at = np.array(places) + self.starts[:-1, None]
        self._ids = at[:, 0, None] + np.arange(4)
        self._times = at[:, 1, None] + np.arange(len(at_ns))
        self._values = at[:, 2, None] + np.arange(8)

    def window(self, number: int) -> None:
        """Makes ``buf`` the messages of that window."""
        series = len(self.starts) - 1
        ids = _FIRST_ID + number * series + np.arange(series)
        self.buf[self._ids] = ids[:, None] >> np.array([0, 7, 14, 21]) & 0x7F | np.array([0x80, 0x80, 0x80, 0])
        self.buf[self._times] = np.frombuffer(varint(_START_NS + number * _WINDOW_NS), np.uint8)
        values = (np.arange(series) * WINDOWS + number).astype(np.float64)
        self.buf[self._values] = values.view(np.uint8).reshape(series, 8)


class Producer:
    """One connection at a time; what is not acknowledged is sent again on the next one."""

    def __init__(self, port: int, series: int, windows: int) -> None:
        self._port = port
        self._messages = Messages(series)
        self.acked = np.zeros((windows, series), np.bool_)
        self.sent_at = np.zeros((windows, -(-series // CHUNK)))
        """When a chunk was sent first."""
        self.again = np.zeros(self.sent_at.shape, np.bool_)
        """Chunks of which something was sent again."""
        self.connected_at: list[float] = []
        self._first = 0
        self._next = 0
        self._socket: socket.socket | None = None
        self._reader: threading.Thread | None = None
        self._broken = threading.Event()

    @property
    def unacked(self) -> int:
        """Messages sent and not acknowledged."""
        while self._first < self._next and self.acked[self._first].all():
            self._first += 1
        return int(np.count_nonzero(~self.acked[self._first : self._next]))

    def window(self, number: int, until: float) -> None:
        """Sends a window, its last chunk not before ``until`` (monotonic)."""
        begin, chunks = time.monotonic(), self.sent_at.shape[1]
        self._next = number + 1
        self._messages.window(number)
        for chunk in range(chunks):
            time.sleep(max(begin + (until - begin) * chunk / chunks - time.monotonic(), 0))
            self.sent_at[number, chunk] = time.time()
            self._send(number, np.arange(chunk * CHUNK, min((chunk + 1) * CHUNK, self.acked.shape[1])))

    def keep_going(self) -> None:
        """Connects again where that is needed, and sends what is not acknowledged."""
        if self._socket is not None and not self._broken.is_set():
            return
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._reader is not None:
            self._reader.join()
        wait_until("the coordinator listens", self._connect, 60)
        self.connected_at.append(time.time())
        for number in range(self._first, self._next):
            rows = np.flatnonzero(~self.acked[number])
            if len(rows):
                self.again[number, np.unique(rows // CHUNK)] = True
                self._messages.window(number)
                self._send(number, rows)

    def close(self) -> None:
        """Hangs up."""
        if self._socket is not None:
            self._socket.close()

    def _connect(self) -> bool:
        self._socket = socket.create_connection(("127.0.0.1", self._port), 5)
        self._socket.settimeout(None)
        self._broken.clear()
        self._reader = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._reader.start()
        return True

    def _send(self, number: int, rows: NDArray[np.int64]) -> None:
        if self._socket is None or self._broken.is_set():
            self.again[number, np.unique(rows // CHUNK)] = True
            return
        starts, buf = self._messages.starts, self._messages.buf
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        try:
            for run in np.split(rows, breaks):
                self._socket.sendall(buf[starts[run[0]] : starts[run[-1] + 1]])
        except OSError:
            self._broken.set()

    def _read(self, connection: socket.socket) -> None:
        rest, rows, acked = b"", np.zeros(1 << 20, ACK_ROW), self.acked.reshape(-1)
        try:
            while data := connection.recv(1 << 20):
                data = rest + data
                count, at, _ = scan_acks(np.frombuffer(data, np.uint8), 0, len(data), MAX_FRAME, rows)
                acked[rows["id"][:count].astype(np.int64) - _FIRST_ID] = True
                rest = data[at:]
        except OSError:
            pass
        self._broken.set()


@contextmanager
def _store(series: int, windows: int) -> Iterator[str]:
    """A ``CountingStore``; its address."""
    command = module_command("bench.outage_store", str(series), str(windows))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class Coordinator:
    """The process, with what is known of it over all of its lives."""

    def __init__(self, folder: Path, stores: dict[str, str]) -> None:
        self._folder = folder
        self._ports = free_ports(4)
        endpoints = [
            {"name": name, "address": f"{url}/write", "storagePolicy": {"resolution": "10s", "retention": "48h"}}
            for name, url in stores.items()
        ]
        sections = {
            **coordinator_overlay(tuple(self._ports), kv_of("embedded", folder).section("m3coordinator"), folder),
            "carbon": {},
        }  # fmt: skip
        config = folder / "coordinator.json"
        config.write_text(
            json.dumps(
                {
                    "backend": "prom-remote",
                    "prometheusRemoteBackend": {"endpoints": endpoints},
                    "ingest": {"ingester": {"workerPoolSize": 100}},
                    "embeddedAggregator": {"enabled": False},
                }
            )
        )
        files = overlaid(config, sections, folder / "overlay.yml")
        self._command = module_command("coordinator", *files, "--workers", "1", "--data-dir", str(folder / "data"))
        self.ingest = self._ports[3]
        self.process = self._start()
        self.killed_at: list[float] = []

    def kill(self) -> None:
        """With SIGKILL, and starts it again."""
        self.killed_at.append(time.time())
        self.process.kill()
        self.process = self._start()

    def end(self) -> None:
        """For good."""
        self.process.kill()

    def sinks(self) -> dict[str, dict[str, Any]]:
        """``/api/v1/sinks`` by name."""
        return {one["name"]: one for one in get_json(f"http://127.0.0.1:{self._ports[0]}/api/v1/sinks")["sinks"]}

    def wait(self) -> None:
        """Returns when it serves."""
        self.process.wait_for_http(f"http://127.0.0.1:{self._ports[0]}/health")

    def line(self, title: str) -> str:
        """Its memory, and what waits."""
        sinks = self.sinks()
        waits = ", ".join(
            f"{name} {one['waitingValues']:,} values {one['waitingBytes'] / _MIB:.0f} MiB {one['ageS']:.1f} s"
            for name, one in sinks.items()
        )
        return f"{title}  {resident_bytes(self.process.pid) / _MIB:5.0f} MiB  {waits}"

    def _start(self) -> Process:
        return Process("coordinator", self._command, self._folder / "coordinator.log")


def _feed(coordinator: Coordinator, producer: Producer, options: argparse.Namespace) -> None:
    """Sends everything, and kills meanwhile; returns when all is acknowledged."""
    rng = random.Random(options.seed)
    deadly = sorted(rng.uniform(0, options.windows) for _ in range(options.kills))
    per_window_s = options.series / options.rate
    began = time.monotonic()
    for number in range(options.windows):
        killer = None
        if deadly and deadly[0] < number + 1:
            killer = threading.Timer((deadly.pop(0) - number) * per_window_s, coordinator.kill)
            killer.start()
        producer.keep_going()
        producer.window(number, time.monotonic() + per_window_s)
        if killer is not None:
            killer.join()
        while producer.unacked > options.series:
            producer.keep_going()
            time.sleep(0.005)
        if (number + 1) % max(options.windows // 12, 1) == 0:
            coordinator.wait()
            print(coordinator.line(f"window {number + 1:4} {time.monotonic() - began:6.0f} s"), flush=True)
    while producer.unacked:
        producer.keep_going()
        time.sleep(0.01)


def _lateness(url: str, producer: Producer, killed_at: Sequence[float]) -> str:
    arrived = np.frombuffer(request("GET", f"{url}/arrivals", timeout_s=60)[1]).reshape(producer.sent_at.shape)
    normal = ~producer.again & (arrived > 0)
    for died in killed_at:
        back = next(at for at in producer.connected_at if at > died)
        normal &= (producer.sent_at < died - _AROUND_S) | (producer.sent_at > back + _AROUND_S)
    late = (arrived - producer.sent_at)[normal]
    if not len(late):
        return "every chunk was sent near a death"
    quantiles = ", ".join(
        f"{name} {np.quantile(late, q):.3f} s" for name, q in (("median", 0.5), ("99 %", 0.99), ("most", 1.0))
    )
    return f"late: {quantiles}, of {len(late)} chunks"


def _run(options: argparse.Namespace, folder: Path) -> int:
    with ExitStack() as stack:
        stores = {
            name: stack.enter_context(_store(options.series, options.windows)) for name in ("working", "refusing")
        }
        request("POST", f"{stores['refusing']}/refuse")
        coordinator = Coordinator(folder, stores)
        stack.callback(coordinator.end)
        coordinator.wait()
        producer = Producer(coordinator.ingest, options.series, options.windows)
        stack.callback(producer.close)
        _feed(coordinator, producer, options)
        coordinator.wait()
        print(coordinator.line(f"all acknowledged, {len(coordinator.killed_at)} kills"))
        wait_until("the working one has everything", lambda: not coordinator.sinks()["working"]["waitingValues"], 600)
        print(f"working: {_lateness(stores['working'], producer, coordinator.killed_at)}")

        request("POST", f"{stores['refusing']}/take")
        began, cpu_s = time.monotonic(), cpu_seconds(coordinator.process.pid)
        waits = coordinator.sinks()["refusing"]["waitingValues"]
        while coordinator.sinks()["refusing"]["waitingValues"]:
            time.sleep(0.5)
        took, cpu_s = time.monotonic() - began, cpu_seconds(coordinator.process.pid) - cpu_s
        print(coordinator.line(f"delivered {waits / took:,.0f} values/s, {waits / cpu_s / 1e6:.2f} M/CPU-s"))
        missing = 0
        for name, url in stores.items():
            report = get_json(f"{url}/report", timeout_s=60)
            missing += report["missing"]
            print(f"{name}: {report}")
            print(f"{name}: {coordinator.sinks()[name]['refused'] or 'nothing refused'}")
        return 1 if missing else 0


def main(arguments: list[str]) -> int:
    """Prints what is found."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench outage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=360)
    parser.add_argument("--series", type=int, default=50_000)
    parser.add_argument("--rate", type=float, default=100_000, help="values a second")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    options = parser.parse_args(arguments)
    if options.series % CHUNK or not 0 < options.windows <= WINDOWS:
        parser.error(f"--series must be a multiple of {CHUNK}, --windows at most {WINDOWS}")
    print(f"{options.series * options.windows / 1e6:.1f} M values, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-outage-") as folder:
        return _run(options, Path(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
