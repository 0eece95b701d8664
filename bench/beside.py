"""``scripts/bench beside``: an instance of ours and rivals that speak m3msg under the same load, in turn in one run.

    scripts/bench beside --against 'go=PATH/m3aggregator -f {config}' [--kind timed] [--series 10000] [--turns 2]

All get the file of M3's how-to (``configs/m3aggregator.yml``) with other addresses, an etcd with one placement that is cut over and both
topics, and one consumer of their output that acknowledges at once. Every turn is a process of its own: some seconds of load first, in
which series are made, then ``--seconds`` of the same load measured, as fast as it is acknowledged, over the same connections, as producers
keep theirs. With ``--reconnect`` all connections end between the two, and ours has to expect that what they sent last comes again.
Figures are CPU of all processes of the instance. ``{config}`` in the command of a rival is the one file that it is to load,
``{directory}`` one for its own; ours has its journal on, unless ``--journal off``.
"""

import argparse
import shlex
import shutil
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lab import instances
from lab.cluster import ROOT, aggregator_overlay, member, write_cluster
from lab.http import get_json
from lab.kv import KV, kv_of
from lab.ports import free_ports
from lab.processes import Process, family
from lab.waiting import wait_until

from bench.ingest import SinkProcess
from bench.loading import Loaded, load, machine_ms
from bench.messages import KINDS, TIMER_VALUES
from m3x.process import cpu_seconds, proportional_bytes

__all__ = ["main"]

_HOW_TO = ROOT / "configs/m3aggregator.yml"
_SHARDS = 64
_START_S = 60.0
_OURS = "ours"


class _Instance:
    """An aggregator under test."""

    address: str

    def pids(self) -> Mapping[str, int]:
        """Its processes by name."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ends it."""
        raise NotImplementedError

    def cpu(self) -> dict[str, float]:
        """CPU seconds by process."""
        return {name: cpu_seconds(pid, children=name.startswith("worker")) for name, pid in self.pids().items()}

    def mib(self) -> float:
        """Memory of all processes (PSS)."""
        return sum(proportional_bytes(pid) for pid in self.pids().values()) / (1 << 20)


class _Ours(_Instance):
    def __init__(self, folder: Path, kv: KV, output: str, options: argparse.Namespace) -> None:
        overlay = {
            "aggregator": {"hostID": {"resolver": "config", "value": _OURS}},
            "instance": {"journal": options.journal == "on"},
        }
        self._aggregator = instances.Aggregator(
            _OURS, folder, kv.section("m3aggregator"), config=_HOW_TO, workers=options.workers, overlay=overlay
        )
        self.address = self._aggregator.address
        _place(kv, _OURS, self.address, output)
        self._aggregator.start()
        wait_until("ours leads", self._aggregator.leads, _START_S)

    def pids(self) -> Mapping[str, int]:
        return self._aggregator.roles()

    def stop(self) -> None:
        self._aggregator.process.stop()


class _Rival(_Instance):
    def __init__(self, name: str, command: str, folder: Path, kv: KV, output: str) -> None:
        msg, http, metrics = (f"127.0.0.1:{port}" for port in free_ports(3))
        self.address, self._http = msg, f"http://{http}"
        section = {key: value for key, value in kv.section("m3aggregator").items() if value is not None}
        whole = _merged(yaml.safe_load(_HOW_TO.read_text()), aggregator_overlay(msg, http, metrics, section))
        config = folder / f"{name}.yml"
        config.write_text(yaml.safe_dump(whole, sort_keys=False))
        _place(kv, name, msg, output)
        words = [word.format(config=config, directory=folder) for word in shlex.split(command)]
        self._name = name
        self._process = Process(name, words, folder / f"{name}.log", env={"M3AGGREGATOR_HOST_ID": name})
        try:
            wait_until(f"{name} leads", self._leads, _START_S)
        except BaseException:
            self.stop()
            raise

    def _leads(self) -> bool:
        self._process.check()
        return bool(get_json(f"{self._http}/status")["status"]["flushStatus"]["electionState"] == "leader")

    def pids(self) -> Mapping[str, int]:
        return {f"{self._name} {pid}": pid for pid in family(self._process.pid)}

    def stop(self) -> None:
        self._process.kill()


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}
    return over


def _place(kv: KV, name: str, address: str, output: str) -> None:
    kv.do(lambda store: write_cluster(store, [member(name, address)], output, _SHARDS))


def _turn(
    name: str, command: str, folder: Path, sink: SinkProcess, options: argparse.Namespace
) -> tuple[Loaded, float]:
    folder.mkdir()
    kv = kv_of("etcd", folder)
    assert kv.server is not None
    kv.server.start()
    try:
        one: _Instance = (
            _Rival(name, command, folder, kv, sink.address) if command else _Ours(folder, kv, sink.address, options)
        )
        try:
            warm = options.warm
            if options.reconnect:
                load(one.address, one.cpu, options.kind, options.series, warm, options.connections)
                warm = 0.0
            found = load(one.address, one.cpu, options.kind, options.series, options.seconds, options.connections, warm)
            return found, one.mib()
        finally:
            one.stop()
    finally:
        kv.server.kill()


def main(values: list[str]) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench beside", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", action="append", default=[], metavar="NAME=COMMAND", help="a rival, see above")
    parser.add_argument("--kind", choices=KINDS, default="timed")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=2, help="of each")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm", type=float, default=3.0, help="seconds of load before")
    parser.add_argument("--reconnect", action="store_true", help="what is measured comes over connections of its own")
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="of ours")
    parser.add_argument("--journal", choices=("on", "off"), default="on", help="of ours")
    options = parser.parse_args(values)
    named = [one.partition("=")[::2] for one in options.against]
    if any(not name.isidentifier() or name == _OURS or not command for name, command in named):
        parser.error("--against: expected NAME=COMMAND")
    if (
        min(options.series, options.turns, options.connections, options.workers) < 1
        or min(options.seconds, options.warm) <= 0
    ):
        parser.error("all numbers must be positive")
    folder = Path(tempfile.mkdtemp(prefix="bench-beside-"))
    sink = SinkProcess()
    found: dict[str, list[Loaded]] = {}
    print(f"{options.kind}, {options.series} series, journal of ours {options.journal}", flush=True)
    try:
        for turn in range(options.turns):
            for name, command in [(_OURS, ""), *named]:
                speed = machine_ms()
                one, mib = _turn(name, command, folder / f"{name}-{turn}", sink, options)
                found.setdefault(name, []).append(one)
                print(
                    f"  {name:8} {one.per_cpu_second / 1e3:6.0f} k messages of {one.message_bytes} bytes a CPU second = "
                    f"{one.us_per_message:.3f} us, {one.messages / one.seconds / 1e3:.0f} k a second, {mib:.0f} MiB "
                    f"(machine: {speed:.1f} ms)",
                    flush=True,
                )
    finally:
        sink.close()
        shutil.rmtree(folder, ignore_errors=True)
    middle = {name: statistics.median(one.per_cpu_second for one in all_of) for name, all_of in found.items()}
    for name, rate in middle.items():
        samples = f", {rate * TIMER_VALUES / 1e6:.1f} M values" if options.kind == "timer" else ""
        ratio = "" if name == _OURS else f"; ours has {middle[_OURS] / rate:.1f} times as many"
        print(f"{name}: {rate / 1e3:.0f} k messages a CPU second (median){samples}{ratio}")
    return 0
