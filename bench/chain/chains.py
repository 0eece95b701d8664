"""Who gets the load: our chain of processes, and any other command that takes remote writes and writes aggregates on."""

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lab.cluster import LOCAL, coordinator_overlay, member, overlaid, write_cluster
from lab.http import get, try_get
from lab.instances import Aggregator
from lab.kv import kv_of
from lab.ports import free_port, free_ports
from lab.processes import Process, family, module_command
from lab.waiting import wait_until

__all__ = ["Chain", "Ours", "Rival"]

_SHARDS = 64
_RETENTION = "48h"
_START_S = 120.0
_LOCAL_NAME = "m3aggregator-local"


class Chain(ABC):
    """Processes that serve; ``port`` and ``path``: where remote writes go to."""

    name: str
    port: int
    path: str

    @abstractmethod
    def pids(self) -> dict[str, int]:
        """Its processes by name."""

    @abstractmethod
    def stop(self) -> None:
        """Ends them."""

    def stored(self) -> int | None:
        """How many values are in a store of its own; None: it has none."""
        return None


class Ours(Chain):
    """A coordinator, ``rf`` aggregators that mirror each other with ``workers`` workers each, and a sink: ``prom-remote`` at ``receiver``,
    or ``embedded``. ``env``: of all processes. ``coordinator``: sections of its file instead of ours."""

    name = "ours"
    path = "/api/v1/prom/remote/write"

    def __init__(
        self,
        folder: Path,
        receiver: str,
        resolution_s: int,
        sink: str,
        rf: int,
        workers: int,
        env: Mapping[str, str] | None = None,
        coordinator: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir()
        kv = kv_of("embedded", folder)
        self.port, self._metrics, carbon, ingest = free_ports(4)
        names = [f"aggregator-{k}" for k in range(rf)] if rf > 1 else [_LOCAL_NAME]
        self._aggregators = [
            Aggregator(
                name,
                folder,
                kv.section(name),
                workers=workers,
                overlay={"aggregator": {"hostID": {"value": name}}},
                env=env,
            )
            for name in names
        ]
        members = [member(one.name, one.address, f"group-{k}") for k, one in enumerate(self._aggregators)]
        kv.do(lambda store: write_cluster(store, members, f"127.0.0.1:{ingest}", _SHARDS))
        config = yaml.safe_load((LOCAL / "m3coordinator.yml").read_text())
        own = coordinator_overlay((self.port, self._metrics, carbon, ingest), kv.section("coordinator"), folder)
        del config["carbon"], own["carbon"], config["downsample"]["rules"]
        policy = {"resolution": f"{resolution_s}s", "retention": _RETENTION}
        if sink == "embedded":
            config["clusters"] = [{"namespaces": [{"namespace": "aggregated", "type": "aggregated", **policy}]}]
        else:
            del config["clusters"], config["embeddedStorage"], own["embeddedStorage"]
            endpoint = {"name": "store", "address": receiver, "storagePolicy": policy}
            own |= {"backend": "prom-remote", "prometheusRemoteBackend": {"endpoints": [endpoint]}}
        own |= coordinator or {}
        file = folder / "coordinator.yml"
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        files = overlaid(file, own, folder / "coordinator-overlay.yml")
        self._embedded = sink == "embedded"
        for one in self._aggregators:
            one.start()
        command = module_command("coordinator", *files, "--data-dir", str(folder / "data"))
        self._coordinator = Process("coordinator", command, folder / "coordinator.log", env=env)
        try:
            base = f"http://127.0.0.1:{self.port}"
            self._coordinator.wait_for_http(f"{base}/health", _START_S)
            for one in self._aggregators:
                one.wait_until_ready(_START_S)
            wait_until("an aggregator leads", lambda: any(one.leads() for one in self._aggregators), _START_S)
            wait_until("the coordinator takes writes", lambda: get(f"{base}/ready")[0] == 200, _START_S)
        except BaseException:
            self.stop()
            raise

    def pids(self) -> dict[str, int]:
        coordinator, *below = family(self._coordinator.pid)
        found = {"coordinator": coordinator, **{f"coordinator's {k}": pid for k, pid in enumerate(below)}}
        for k, one in enumerate(self._aggregators):
            prefix = f"{k}: " if len(self._aggregators) > 1 else ""
            found |= {prefix + role: pid for role, pid in one.roles().items()}
        return found

    def stop(self) -> None:
        for one in self._aggregators:
            if one.running:
                one.process.stop()
        self._coordinator.stop()

    def stored(self) -> int | None:
        if not self._embedded:
            return None
        _, text = get(f"http://127.0.0.1:{self._metrics}/metrics")
        return sum(
            int(float(one)) for one in re.findall(r"^\w*_ingest_success\w*(?:\{.*\})? (\S+)$", text, re.MULTILINE)
        )


class Rival(Chain):
    """``command``: a template with ``{port}`` (HTTP, where it shall listen), ``{receiver}`` (URL of the store), ``{directory}`` (an empty
    one) and ``{resolution}`` (``10s``)."""

    def __init__(self, name: str, folder: Path, receiver: str, resolution_s: int, command: str, path: str) -> None:
        folder.mkdir()
        self.name = name
        self.port, self.path = free_port(), path
        words = shlex.split(
            command.format(port=self.port, receiver=receiver, directory=folder, resolution=f"{resolution_s}s")
        )
        self._process = Process(self.name, words, folder / "log")
        try:
            wait_until(f"{self.name} listens", self._listens, _START_S)
        except BaseException:
            self.stop()
            raise

    def pids(self) -> dict[str, int]:
        names: dict[str, int] = {}
        for k, pid in enumerate(family(self._process.pid)):
            names[self.name if k == 0 else f"{self.name}'s {k}"] = pid
        return names

    def stop(self) -> None:
        self._process.stop()

    def _listens(self) -> bool:
        self._process.check()
        return try_get(f"http://127.0.0.1:{self.port}/")[0] != 0
