"""``scripts/bench start``: how soon an instance applies a sample, after its start and after the death of each of its processes.

The instance is started as an operator does it, with ``scripts/supervisor`` and compiled kernels, on an embedded KV that is already there.
A producer sends a gauge to each worker every few milliseconds; *applied* is when the first one that was sent after the event (a start, or
the end of the processes that were killed) is acknowledged. The producer connects again at once when it loses its connection, and counts
connections that are refused. A worker replays its journal first: how long that takes depends on what is in it, so the time without it is
told as well. Times are wall clock: on a machine that does something else as well they tell more about that, so that of a start comes with
the CPU time of all processes. At last the zygote alone is killed, which ends nobody else, then the supervisor, which ends all. Memory is
proportional (PSS: a page that n processes share counts as an n-th in each of them), of an instance that was never under load.
"""

import argparse
import contextlib
import json
import select
import shutil
import signal
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from lab import instances
from lab.cluster import ROOT, member, write_cluster
from lab.kv import kv_of
from lab.processes import send_signal
from lab.waiting import wait_until

from bench.instance import wakes
from bench.sink import Sink
from m3metrics.codec import encode_metric
from m3metrics.codec.unaggregated import GaugeWithMetadatas
from m3metrics.metadata import DEFAULT_STAGED_METADATAS
from m3metrics.shard import shard_of
from m3msg.frames import Message, Metadata, decode_ack, encode_message, split
from m3x.process import cpu_seconds, proportional_bytes, resident_bytes

__all__ = ["main"]

_NAME = "m3aggregator-local"
_SHARDS = 64
_EVERY_S = 0.002
_SETTLED_S = 12.0
"""Between two events: a process that died sooner after its start is not started at once."""


class Probe:
    """Sends a sample to each of ``workers`` all the time, over one connection that is made anew when it breaks."""

    def __init__(self, address: tuple[str, int], workers: int) -> None:
        self._address = address
        self._values = [
            encode_metric(GaugeWithMetadatas(id=_id_of(worker, workers), value=1.0, metadatas=DEFAULT_STAGED_METADATAS))
            for worker in range(workers)
        ]
        self._done = threading.Event()
        self.acked: list[list[tuple[float, float]]] = [[] for _ in range(workers)]
        """By worker, of each sample: when it was sent, and when acknowledged (monotonic)."""
        self.refused = 0
        """Connections that were refused."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._done.set()
        self._thread.join(5)

    def first_after(self, moment: float, worker: int) -> float:
        """Seconds from ``moment`` until a sample of ``worker`` that was sent since is acknowledged."""

        def found() -> float | None:
            return next((at - moment for sent, at in self.acked[worker] if sent > moment), None)

        seconds: float = wait_until(f"a sample of worker {worker} is applied", found, every_s=0.002)
        return seconds

    def _run(self) -> None:
        number = 0
        while not self._done.is_set():
            try:
                connection = socket.create_connection(self._address, 5)
            except ConnectionRefusedError:
                self.refused += 1
                time.sleep(_EVERY_S)
                continue
            except OSError:
                continue
            with connection:
                number = self._use(connection, number)

    def _use(self, connection: socket.socket, number: int) -> int:
        """Until it breaks; ``number`` is that of the last sample."""
        sent: dict[int, tuple[int, float]] = {}
        rest = b""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not self._done.is_set():
            try:
                for worker, value in enumerate(self._values):
                    number += 1
                    sent[number] = worker, time.monotonic()
                    connection.sendall(encode_message(Message(Metadata(0, number, time.time_ns()), value)))
                if not select.select([connection], [], [], _EVERY_S)[0]:
                    continue
                data = connection.recv(65536)
            except OSError:
                break
            if not data:
                break
            frames, rest = split(rest + data)
            for metadata in (one for frame in frames for one in decode_ack(frame)):
                worker, at = sent.pop(metadata.id)
                self.acked[worker].append((at, time.monotonic()))
        return number


def _id_of(worker: int, workers: int) -> bytes:
    """An id of a shard that this worker has (``aggregator.supervisor.placement.assign``)."""
    ids = (b"probe.%d" % number for number in range(10_000))
    return next(ident for ident in ids if shard_of(ident, _SHARDS) * workers // _SHARDS == worker)


class Instance(instances.Aggregator):
    """An instance that ``scripts/supervisor`` starts."""

    def __init__(self, folder: Path, workers: int, output: str) -> None:
        kv = kv_of("embedded", folder)
        super().__init__(_NAME, folder, kv.section("m3aggregator"), workers=workers)
        kv.do(lambda store: write_cluster(store, [member(_NAME, self.address)], output, _SHARDS))
        self._command = [str(ROOT / "scripts/supervisor"), *self._command[self._command.index("-f") :]]


def main(values: list[str]) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="scripts/bench start", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="how often each event is measured")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds for which the idle instance is watched")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    options = parser.parse_args(values)
    folder, sink = Path(tempfile.mkdtemp(prefix="m3bench-")), Sink()
    try:
        figures = _measured(Instance(folder, options.workers, sink.address), options)
    finally:
        sink.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures) if options.json else _table(figures))
    return 0


def _measured(instance: Instance, options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    try:
        instance.start()
        instance.wait_until_ready()
        wait_until("the instance leads", instance.leads)
        figures["idle"] = _idle(instance, options.idle)
        instance.process.stop(40)
        starts = [_start(instance, options.workers) for _ in range(options.repeat)]
        figures["start"], figures["start_cpu_s"], figures["start_replay_s"] = map(list, zip(*starts, strict=True))
        figures |= _deaths(instance, options)
    finally:
        if instance.running:
            instance.process.stop(40)
    return figures


def _idle(instance: Instance, seconds: float) -> dict[str, Any]:
    time.sleep(3)
    processes = instance.roles()
    memory = {name: proportional_bytes(pid) / (1 << 20) for name, pid in processes.items()}
    before, woken = ({name: of(pid) for name, pid in processes.items()} for of in (cpu_seconds, wakes))
    time.sleep(seconds)
    cpu = {name: 100 * (cpu_seconds(pid) - before[name]) / seconds for name, pid in processes.items()}
    sleeps = {name: (wakes(pid) - woken[name]) / seconds for name, pid in processes.items()}
    return {"mib": memory, "cpu_percent": cpu, "wakes_per_second": sleeps}


def _replays(instance: Instance, since: int) -> float:
    """The longest replay, in seconds, of those that are in the log behind this size."""
    found = 0.0
    for line in instance.log_file.read_bytes()[since:].splitlines():
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if said.get("msg") == "replayed the journal":
                found = max(found, said["seconds"])
    return found


def _start(instance: Instance, workers: int) -> tuple[float, float, float]:
    """Seconds until all workers have applied a sample, CPU seconds of all processes, seconds of replay among the first."""
    logged = instance.log_file.stat().st_size
    probe = Probe(instance.socket_address, workers)
    try:
        began = time.monotonic()
        instance.start()
        took = max(probe.first_after(began, worker) for worker in range(workers))
        cpu_s = sum(map(cpu_seconds, instance.pids()))
    finally:
        probe.close()
    instance.process.stop(40)
    return took, cpu_s, _replays(instance, logged)


def _deaths(instance: Instance, options: argparse.Namespace) -> dict[str, Any]:
    """What a kill -9 costs: of a worker, of the front, of the zygote with a worker right behind it."""
    instance.start()
    instance.wait_until_ready()
    probe = Probe(instance.socket_address, options.workers)
    events: dict[str, list[float]] = {"worker": [], "front": [], "zygote and worker": []}
    replays: dict[str, list[float]] = {event: [] for event in events}
    try:
        for event, times in events.items():
            for _ in range(options.repeat):
                time.sleep(_SETTLED_S)
                processes = instance.roles()
                logged = instance.log_file.stat().st_size
                pids = [processes["worker 0" if name == "worker" else name] for name in event.split(" and ")]
                began = time.monotonic()
                send_signal(pids, signal.SIGKILL)
                while any(map(resident_bytes, pids)):
                    time.sleep(0.0005)
                dead = time.monotonic()
                times.append(dead - began + max(probe.first_after(dead, worker) for worker in range(options.workers)))
                replays[event].append(_replays(instance, logged))
        refused = probe.refused
    finally:
        probe.close()
    time.sleep(_SETTLED_S)
    ended, left = _zygote_dies(instance), _supervisor_dies(instance)
    return {
        **events, "refused": refused, "replays": replays, "ended_with_zygote": ended, "left_by_supervisor": left
    }  # fmt: skip


def _zygote_dies(instance: Instance) -> list[str]:
    """Which other processes ended with it."""
    before = instance.roles()
    send_signal([before.pop("zygote")], signal.SIGKILL)
    wait_until(
        "there are a zygote and a spare one again",
        lambda: instance.roles().get("spare zygote", before["spare zygote"]) != before["spare zygote"],
    )
    del before["spare zygote"]
    after = instance.roles()
    return [name for name, pid in before.items() if after.get(name) != pid]


def _supervisor_dies(instance: Instance) -> list[str]:
    """Which processes were left two seconds after the death of the supervisor."""
    processes = instance.roles()
    send_signal([processes["supervisor"]], signal.SIGKILL)
    instance.process.wait()
    deadline = time.monotonic() + 2
    while any(map(resident_bytes, processes.values())) and time.monotonic() < deadline:
        time.sleep(0.005)
    return [name for name, pid in processes.items() if resident_bytes(pid)]


def _table(figures: dict[str, Any]) -> str:
    idle, lines = figures.pop("idle"), []
    refused, cpu_s = figures.pop("refused"), statistics.median(figures.pop("start_cpu_s"))
    ended, left = figures.pop("ended_with_zygote"), figures.pop("left_by_supervisor")
    replays = figures.pop("replays") | {"start": figures.pop("start_replay_s")}
    for event, times in figures.items():
        what = "a start" if event == "start" else f"kill -9 of the {event}"
        best, middle, worst = (1000 * of(times) for of in (min, statistics.median, max))
        rest = 1000 * statistics.median(time - replay for time, replay in zip(times, replays[event], strict=True))
        lines.append(
            f"applied again after {what}: {middle:.0f} ms, {rest:.0f} ms without replay (medians of {len(times)}; "
            f"{best:.0f} to {worst:.0f} ms)"
        )
    lines += [
        f"CPU time of a start: {cpu_s:.2f} s",
        f"connections refused meanwhile: {refused}",
        f"ended with the zygote: {', '.join(ended) or 'nobody'}; left by the supervisor: {', '.join(left) or 'nobody'}",
        "",
        f"{'idle':<12}{'MiB':>8}{'CPU %':>8}{'wakes/s':>9}",
    ]
    for name in idle["mib"]:
        row = (idle[column][name] for column in ("mib", "cpu_percent", "wakes_per_second"))
        lines.append("{:<12}{:>8.1f}{:>8.2f}{:>9.1f}".format(name, *row))
    total = (sum(column.values()) for column in idle.values())
    return "\n".join([*lines, "{:<12}{:>8.1f}{:>8.2f}{:>9.1f}".format("all", *total)])
