"""What the way out costs a whole coordinator: m3msg bytes in at port 7507, remote write bytes out. CPU seconds of its process, all threads.

    scripts/bench storage [--series 100000] [--windows 5] [--samples 5000] [--sink prom-remote|embedded] [--endpoints 1]

Every window gives each series (ids of 100 to 180 bytes, ``bench.out_new_series``) one value; the first one has new series, the others are
measured together. It is over when all is acknowledged and no sink has anything left. The endpoints read and answer 204
(``bench.http_drain``), in processes of their own.
"""

import argparse
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from lab.http import get
from lab.ports import free_ports
from lab.processes import Process, module_command
from lab.waiting import wait_until

from bench.out_new_series import series_id
from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.policy import StoragePolicy
from m3msg.frames import Message, Metadata, decode_ack, encode_message, split
from m3x.process import cpu_seconds, resident_bytes

__all__ = ["main"]

_POLICY = StoragePolicy.parse("10s:2d")
_WINDOW_NS = 10_000_000_000


def _config(ports: tuple[int, int, int], sink: str, drains: list[int], samples: int) -> dict[str, Any]:
    http, metrics, ingest = ports
    config: dict[str, Any] = {
        "listenAddress": f"127.0.0.1:{http}",
        "metrics": {"prometheus": {"listenAddress": f"127.0.0.1:{metrics}"}},
        "ingest": {
            "ingester": {"workerPoolSize": 100},
            "m3msg": {"server": {"listenAddress": f"127.0.0.1:{ingest}"}},
        },
        "embeddedAggregator": {"enabled": False},
    }
    if sink == "embedded":
        namespace = {"namespace": "a", "type": "aggregated", "resolution": "10s", "retention": "48h"}
        return {**config, "clusters": [{"namespaces": [namespace]}]}
    endpoints = [
        {
            "name": f"drain-{k}",
            "address": f"http://127.0.0.1:{port}/api/v1/write",
            "maxSamplesPerSend": samples,
            "storagePolicy": {"resolution": "10s", "retention": "48h"},
        }
        for k, port in enumerate(drains)
    ]
    return {**config, "backend": "prom-remote", "prometheusRemoteBackend": {"endpoints": endpoints}}


def _window(ids: list[bytes], at_ns: int, first: int) -> bytes:
    """The frames of one window."""
    return b"".join(
        encode_message(
            Message(
                Metadata(1, first + k, at_ns),
                encode_aggregated(AggregatedMetric(id=one, time_ns=at_ns, value=k * 0.37, storage_policy=_POLICY)),
            )
        )
        for k, one in enumerate(ids)
    )


class _Sender:
    """One connection; counts acknowledgements in a thread."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self.acked = 0
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, parts: list[bytes], messages: int) -> None:
        """As fast as they are taken; returns when all are acknowledged."""
        least = self.acked + messages
        for data in parts:
            self._socket.sendall(data)
        wait_until("acknowledgements", lambda: self.acked >= least, 120, 0.005)

    def _read(self) -> None:
        rest = b""
        while data := self._socket.recv(1 << 18):
            payloads, rest = split(rest + data)
            self.acked += sum(len(decode_ack(payload)) for payload in payloads)


def _waiting(metrics: int) -> float:
    """Values that sinks do not have yet."""
    _, text = get(f"http://127.0.0.1:{metrics}/metrics")
    return sum(float(one) for one in re.findall(r"^coordinator_sink_depth_values\{.*\} (\S+)$", text, re.MULTILINE))


def main(arguments: list[str]) -> int:
    """Prints a line for new series, and one for known ones."""
    parser = argparse.ArgumentParser(prog="scripts/bench storage", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=10, help="windows after the first one")
    parser.add_argument("--samples", type=int, default=5000, help="maxSamplesPerSend")
    parser.add_argument("--sink", choices=("prom-remote", "embedded"), default="prom-remote")
    parser.add_argument("--endpoints", type=int, default=1)
    options = parser.parse_args(arguments)
    rng = random.Random(7)
    ids = [series_id(i, rng) for i in range(options.series)]
    start_ns = (time.time_ns() // _WINDOW_NS - options.windows) * _WINDOW_NS
    windows = [_window(ids, start_ns + k * _WINDOW_NS, 1 + k * len(ids)) for k in range(options.windows + 1)]
    folder = Path(tempfile.mkdtemp(prefix="bench-storage-"))
    endpoints = options.endpoints if options.sink == "prom-remote" else 0
    drains = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.http_drain"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(endpoints)
    ]
    ports = free_ports(3)
    file = folder / "m3coordinator.yml"
    listening = [int(drain.stdout.readline()) for drain in drains if drain.stdout is not None]
    file.write_text(json.dumps(_config((ports[0], ports[1], ports[2]), options.sink, listening, options.samples)))
    command = module_command("coordinator", "-f", str(file), "--workers", "1", "--data-dir", str(folder / "data"))
    process = Process("coordinator", command, folder / "coordinator.log")
    try:
        process.wait_for_http(f"http://127.0.0.1:{ports[0]}/health", 120)
        sender = _Sender(ports[2])
        print(
            f"{len(ids)} series, ids of {sum(map(len, ids)) / len(ids):.0f} bytes, sink: {options.sink} x {max(endpoints, 1)}"
        )
        for title, parts in (("new", windows[:1]), ("known", windows[1:])):
            before, began = cpu_seconds(process.pid), time.monotonic()
            sender.send(parts, len(ids) * len(parts))
            # Its page costs the coordinator some milliseconds each time.
            wait_until("nothing waits", lambda: _waiting(ports[1]) == 0, 120, 1.0)
            spent, values = cpu_seconds(process.pid) - before, len(ids) * len(parts)
            figures = f"{spent / values * 1e6:6.2f} us a value {values / spent / 1e6:6.2f} M values a CPU second"
            took_s, mib = time.monotonic() - began, resident_bytes(process.pid) >> 20
            print(f"{title:<6}{figures} {took_s:6.1f} s {mib:5d} MiB", flush=True)
    finally:
        process.stop()
        for drain in drains:
            drain.terminate()
        shutil.rmtree(folder, ignore_errors=True)
    return 0
