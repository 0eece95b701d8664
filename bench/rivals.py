"""Aggregators to compare: ours, and rivals that speak m3msg, each in a cluster of its own, alone or as members that mirror each other.

All get the file of M3's how-to (``configs/m3aggregator.yml``) with other addresses, a KV with one placement that is cut over and both
topics, and one consumer of their output. ``{config}`` in the command of a rival is the one file that it is to load, ``{directory}`` a
folder for its own files.
"""

import argparse
import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
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

from m3x.process import cpu_seconds, proportional_bytes

__all__ = ["OURS", "Instance", "against_option", "named_rivals", "started"]

OURS = "ours"
_HOW_TO = ROOT / "configs/m3aggregator.yml"
_SHARDS = 64
_START_S = 60.0
_STOP_S = 40.0


class Instance:
    """An aggregator under test, not started yet."""

    name: str
    address: str
    """Where it takes m3msg."""

    def start(self) -> None:
        """Starts it."""
        raise NotImplementedError

    @property
    def root(self) -> int:
        """The process above all others of it."""
        raise NotImplementedError

    def state(self) -> str:
        """What it says of its election, ``leader`` or another.

        Raises ``OSError`` while it does not answer, ``LabError`` if it has ended.
        """
        raise NotImplementedError

    def pids(self) -> Mapping[str, int]:
        """Its processes by name; without children that end soon, whose CPU time is their parents' then."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ends it, if it was started."""
        raise NotImplementedError

    def leads(self) -> bool:
        """Whether it leads its shard set. Raises as ``state``."""
        return self.state() == "leader"

    def cpu(self) -> dict[str, float]:
        """CPU seconds by process."""
        return {name: cpu_seconds(pid, children=name.startswith("worker")) for name, pid in self.pids().items()}

    def mib(self) -> float:
        """Memory of all processes (PSS), children that end soon included."""
        return sum(proportional_bytes(pid) for pid in family(self.root)) / (1 << 20)


class _Ours(Instance):
    def __init__(self, name: str, folder: Path, kv: KV, overlay: Mapping[str, Any], workers: int) -> None:
        self.name = name
        named = {"aggregator": {"hostID": {"resolver": "config", "value": name}}}
        self._aggregator = instances.Aggregator(
            name, folder, kv.section(name), config=_HOW_TO, workers=workers, overlay=_merged(named, overlay)
        )
        self.address = self._aggregator.address

    def start(self) -> None:
        self._aggregator.start()

    @property
    def root(self) -> int:
        return self._aggregator.process.pid

    def state(self) -> str:
        self._aggregator.process.check()
        return str(self._aggregator.flush_status().get("electionState", ""))

    def pids(self) -> Mapping[str, int]:
        return self._aggregator.roles()

    def stop(self) -> None:
        if self._aggregator.running:
            self._aggregator.process.stop(_STOP_S)


class _Rival(Instance):
    def __init__(self, name: str, command: str, folder: Path, kv: KV, overlay: Mapping[str, Any]) -> None:
        self.name = name
        msg, http, metrics = (f"127.0.0.1:{port}" for port in free_ports(3))
        self.address, self._http = msg, f"http://{http}"
        section = {key: value for key, value in kv.section(name).items() if value is not None}
        whole = _merged(yaml.safe_load(_HOW_TO.read_text()), aggregator_overlay(msg, http, metrics, section))
        config = folder / f"{name}.yml"
        config.write_text(yaml.safe_dump(_merged(whole, overlay), sort_keys=False))
        own = folder / name
        own.mkdir()
        self._words = [word.format(config=config, directory=own) for word in shlex.split(command)]
        self._log = folder / f"{name}.log"
        self._process: Process | None = None

    def start(self) -> None:
        self._process = Process(self.name, self._words, self._log, env={"M3AGGREGATOR_HOST_ID": self.name})

    @property
    def process(self) -> Process:
        """It was started."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    @property
    def root(self) -> int:
        return self.process.pid

    def state(self) -> str:
        self.process.check()
        return str(get_json(f"{self._http}/status")["status"]["flushStatus"]["electionState"])

    def pids(self) -> Mapping[str, int]:
        return {f"{self.name} {pid}": pid for pid in family(self.root)}

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}
    return over


def against_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--against``, which ``named_rivals`` reads."""
    parser.add_argument("--against", action="append", default=[], metavar="NAME=COMMAND", help="a rival, see above")


def named_rivals(parser: argparse.ArgumentParser, against: Sequence[str]) -> list[tuple[str, str]]:
    """Names and commands of ours, whose command is empty, and of all rivals."""
    named = [one.partition("=")[::2] for one in against]
    if any(not name.isidentifier() or name == OURS or not command for name, command in named):
        parser.error("--against: expected NAME=COMMAND")
    return [(OURS, ""), *named]


@contextlib.contextmanager
def started(
    name: str,
    command: str,
    folder: Path,
    output: str,
    *,
    members: int = 1,
    workers: int = 1,
    overlay: Mapping[str, Any] | None = None,
    own: Mapping[str, Any] | None = None,
    kv: str = "etcd",
) -> Iterator[list[Instance]]:
    """Instances that mirror each other, of which one leads, and their KV; all end afterwards.

    ``folder``: is made for them. ``output``: ``host:port`` of the consumer. ``overlay``: sections that every configuration has instead of
    those of the how-to; ``own`` and ``workers``: of ours only. ``kv``: of ``lab.kv.KINDS``.
    """
    folder.mkdir()
    store = kv_of(kv, folder)
    names = [name] if members == 1 else [f"{name}{number}" for number in range(1, members + 1)]
    common = overlay or {}
    ours = _merged(common, own or {})
    made: list[Instance] = [
        _Rival(one, command, folder, store, common) if command else _Ours(one, folder, store, ours, workers)
        for one in names
    ]
    with contextlib.ExitStack() as ends:
        if store.server is not None:
            store.server.start()
            ends.callback(store.server.kill)
        placed = [member(one.name, one.address, f"group{number}") for number, one in enumerate(made)]
        store.do(lambda kv_store: write_cluster(kv_store, placed, output, _SHARDS))
        for one in made:
            ends.callback(one.stop)
            one.start()
        for one in made:
            wait_until(f"{one.name} answers", one.state, _START_S)
        wait_until(f"{name} leads", lambda: any(one.leads() for one in made), _START_S)
        yield made
