"""Connections between all parts that are cut, held, split, half open or flooded in turn, while samples are sent until they are answered.

Afterwards every value is right, nothing hangs, and each process has the sockets and threads that it had before.
"""

import contextlib
import http.client
import itertools
import os
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

import pytest
from lab.cluster import ROOT, member, write_cluster
from lab.http import get
from lab.kv import kv_of
from lab.kv_servers import EtcdServer
from lab.ports import free_port
from lab.processes import family
from lab.prometheus import EQUAL, remote_read
from lab.relay import RelayThread
from lab.waiting import wait_until
from tests.integration.conftest import Deployment
from tests.real_servers import require_server

from m3ctl.bench.remote_write import write_request

WRITE = "/api/v1/prom/remote/write"
SHARDS = 16
SENDERS = 2
INSTANCE = "m3aggregator-local"
COORDINATOR = {
    "workers": 1,
    "clusters": [
        {
            "namespaces": [
                {"namespace": "raw", "type": "unaggregated", "retention": "48h"},
                {"namespace": "two", "type": "aggregated", "resolution": "2s", "retention": "48h"},
                # For the carbon rules of the file.
                {
                    "namespace": "ten",
                    "type": "aggregated",
                    "resolution": "10s",
                    "retention": "48h",
                    "downsample": {"all": False},
                },
            ]
        }
    ],
    "writes": {"ack": "aggregated", "ackTimeout": "20s"},
    "downsample": {
        "rules": {
            "mappingRules": [
                {
                    "name": "sum",
                    "filter": "__name__:summed",
                    "aggregations": ["Sum"],
                    "storagePolicies": [{"resolution": "2s", "retention": "48h"}],
                }
            ]
        }
    },
}
AGGREGATOR = {"aggregator": {"bufferDurationForPastTimedMetric": "20s"}}
NOISE = random.Random(7).randbytes(1 << 16)


class Chain:
    """Senders → coordinator → front → worker → port 7507, etcd beside them: with a relay before each server."""

    def __init__(self, deployment: Deployment, stack: contextlib.ExitStack) -> None:
        self.deployment, folder = deployment, deployment.folder
        self.kv = deployment.kv = kv_of("etcd", folder)
        assert self.kv.server is not None
        stack.callback(self.kv.server.start().kill)
        own = f"127.0.0.1:{free_port()}"
        self.relays = {
            "samples": RelayThread(f"127.0.0.1:{deployment.http}"),
            "messages": RelayThread(own),
            "values": RelayThread(f"127.0.0.1:{deployment.ingest}"),
            "KV of the coordinator": RelayThread(self.kv.server.address),
            "KV of the aggregator": RelayThread(self.kv.server.address),
        }
        for relay in self.relays.values():
            stack.callback(relay.close)
        placed = [member(INSTANCE, self.relays["messages"].address)]
        self.kv.do(lambda store: write_cluster(store, placed, self.relays["values"].address, SHARDS))
        of_coordinator, of_aggregator = (
            self.kv.section(service, self.relays[f"KV of the {service.removeprefix('m3')}"].address)
            for service in ("m3coordinator", "m3aggregator")
        )
        deployment.start_coordinator(
            ROOT / "configs/local/m3coordinator.yml", **COORDINATOR, clusterManagement=of_coordinator
        )
        self.aggregator = deployment.start_aggregator(
            "aggregator", ROOT / "configs/local/m3aggregator.yml", own, kvClient=of_aggregator, **AGGREGATOR
        )
        wait_until("the instance leads", self.aggregator.leads, 120)
        wait_until("its processes are up", self.aggregator.ready, 120)
        wait_until("the coordinator takes writes", self.ready, 60)

    def ready(self) -> bool:
        """Whether the coordinator takes writes, and both have nothing to complain of."""
        answers = [get(f"{url}/ready") for url in (self.deployment.base, self.aggregator.http)]
        return all(status == 200 for status, _ in answers)

    def held(self) -> dict[str, tuple[int, int]]:
        """Sockets and threads of each process."""
        found = {}
        for name, process in self.deployment.processes.items():
            for number, pid in enumerate(family(process.pid)):
                with contextlib.suppress(OSError):
                    sockets = sum(_is_socket(path) for path in Path(f"/proc/{pid}/fd").iterdir())
                    found[f"{name} {number}"] = sockets, len([*Path(f"/proc/{pid}/task").iterdir()])
        return found

    def sources(self) -> int:
        """Processes of the aggregator that others are forked from; the spare one comes some time after the start."""
        pids = family(self.deployment.processes["aggregator"].pid)
        return sum(b"m3x.processes" in _command(pid) for pid in pids)

    def log(self) -> str:
        """What both services have said."""
        return "".join(process.log_file.read_text() for process in self.deployment.processes.values())

    def stored(self) -> dict[str, float]:
        """The sum of all values by the label ``n``."""
        now_ms = time.time_ns() // 1_000_000
        points = remote_read(
            self.deployment.base, [("__name__", EQUAL, "summed")], now_ms - 3_600_000, now_ms + 60_000,
            {"M3-Metrics-Type": "aggregated"},
        )  # fmt: skip
        return {dict(labels)["n"]: sum(values.values()) for labels, values in points.items()}


def _is_socket(path: Path) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except OSError:
        return False


class Senders:
    """Each sends a sample of a new series until it is answered with 200, then the next one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answered: set[int] = set()
        self.broken: dict[int, int] = defaultdict(int)
        """How often a connection has ended before an answer came."""
        self.refused: list[tuple[int, str]] = []
        self._numbers = itertools.count()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._end.is_set():
            n = next(self._numbers)
            body = write_request([((("__name__", "summed"), ("n", str(n))), n + 0.5, time.time_ns() // 1_000_000)])
            while True:
                try:
                    connection.request("POST", WRITE, body, {"Content-Encoding": "snappy"})
                    answer = connection.getresponse()
                    text = answer.read().decode()
                except (OSError, HTTPException):
                    self.broken[n] += 1
                    connection.close()
                    time.sleep(0.05)
                    continue
                if answer.status < 500:
                    break
            if answer.status != 200:
                self.refused.append((answer.status, text))
            self.answered.add(n)
            time.sleep(0.02)
        connection.close()

    def go_on(self) -> None:
        """Returns when samples that are sent from now on are answered."""
        begun = len(self.answered)
        wait_until("samples are answered", lambda: len(self.answered) >= begun + 3 * SENDERS, 90)

    def close(self) -> None:
        """Returns when the last one is answered."""
        self._end.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def chain(module_deployment: Deployment) -> Iterator[Chain]:
    """All of it, serving."""
    require_server(EtcdServer)
    with contextlib.ExitStack() as stack:
        yield Chain(module_deployment, stack)


def cut(relay: RelayThread, seconds: float) -> None:
    """Connections break, and cannot be made anew for a while."""
    relay.cut()
    time.sleep(seconds)
    relay.mend()


def held(relay: RelayThread, seconds: float) -> None:
    """Nothing passes for a while, and then everything."""
    relay.hold_all()
    time.sleep(seconds)
    relay.release()


def split(relay: RelayThread, seconds: float) -> None:
    """A few bytes pass at a time, and late."""
    relay.split(5, 0.001)
    time.sleep(seconds)
    relay.split(0)


def half_open(relay: RelayThread, seconds: float) -> None:
    """The server has lost its connections, which its clients do not know for a while."""
    relay.half_open()
    time.sleep(seconds)
    relay.reset()


def flooded(relay: RelayThread, _seconds: float) -> None:
    """Very many connections with noise."""
    assert relay.flood(100, NOISE) == 100


Fault = Callable[[RelayThread, float], None]
FAULTS = (cut, held, split, half_open, flooded)
NOT_CONNECTED = "consumer not connected; its messages wait in its buffer"
LINES = {
    ("samples", flooded): "what came is not HTTP",
    ("messages", cut): NOT_CONNECTED,
    ("messages", half_open): NOT_CONNECTED,
    ("messages", flooded): "connection closed: bad input",
    ("values", cut): NOT_CONNECTED,
    ("values", half_open): NOT_CONNECTED,
    ("values", flooded): "a connection is closed: its bytes are not m3msg",
    ("KV of the coordinator", cut): "waiting for the store",
    ("KV of the aggregator", cut): "waiting for the store",
}
"""What is said of a fault, together with the address of the relay where we are the client."""
MOST_LINES = 30
"""Of that kind, whatever number of connections there are: lines are limited."""


def said(chain: Chain, hop: str, fault: Callable[..., None]) -> int:
    """How many lines the services have written about such a fault there."""
    line = LINES[hop, fault]
    where = "" if fault is flooded else chain.relays[hop].address
    return sum(line in one and where in one for one in chain.log().splitlines())


def run(chain: Chain, seconds: float, faults: tuple[tuple[str, Fault], ...] = ()) -> None:
    """These faults, or all of them on every connection; then everything is right and as before."""
    senders = Senders(chain.relays["samples"].port)
    senders.go_on()
    wait_until("a spare process to fork others from is there", lambda: chain.sources() == 2, 60)
    before = chain.held()
    broken: set[int] = set()
    for hop, fault in faults or itertools.product(chain.relays, FAULTS):
        if fault is flooded and hop.startswith("KV"):
            # The ports of etcd are not ours.
            continue
        lines = said(chain, hop, fault) if (hop, fault) in LINES else -1
        fault(chain.relays[hop], seconds)
        senders.go_on()
        if lines >= 0:
            wait_until(
                f"{hop}, {fault.__name__}: it is said", lambda h=hop, f=fault, n=lines: said(chain, h, f) > n, 30
            )
            assert said(chain, hop, fault) - lines < MOST_LINES
        if hop == "samples":
            broken = set(senders.broken)
    senders.close()
    assert not senders.refused
    # Only faults between a sender and the coordinator are seen by the sender.
    assert set(senders.broken) == broken
    wait_until("all are ready", chain.ready, 60)
    wait_until("every value is stored", lambda: chain.stored().keys() >= set(map(str, senders.answered)), 180)
    stored = chain.stored()
    once = {str(n): n + 0.5 for n in senders.answered - broken}
    assert {n: stored.pop(n) for n in once} == once
    # Whose sender goes away within a second may count as often as it has come (docs/answers.md).
    for n in broken:
        assert stored.pop(str(n)) / (n + 0.5) in range(1, 2 + senders.broken[n])
    assert not stored
    # A sender's connections are gone, which were there before.
    with contextlib.suppress(TimeoutError):
        wait_until("nobody holds more than before", lambda: not more(before, chain.held()), 60)
    assert more(before, chain.held()) == {}
    assert "Traceback" not in chain.log()


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def more(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> dict[str, object]:
    """The processes that have more sockets, or threads beyond those that a pool starts when it needs them, or are others."""
    if before.keys() != now.keys():
        return {"processes": (before, now)}
    pool = (os.cpu_count() or 1) + 4
    return {
        name: (before[name], found)
        for name, found in now.items()
        if found[0] > before[name][0] or found[1] > before[name][1] + pool
    }


def test_every_connection_in_turn(chain: Chain) -> None:
    run(chain, 0.3)


@pytest.mark.slow
def test_what_is_held_for_longer_than_it_takes_until_it_is_sent_again_counts_once(chain: Chain) -> None:
    """M3's ``messageRetry`` begins with two and a half to five seconds."""
    run(chain, 7.0, (("messages", held), ("messages", held)))
    page = get(chain.aggregator.metrics_url)[1]
    assert sum(float(n) for n in re.findall(r"^\w*_redelivered(?:\{.*\})? (\S+)$", page, re.MULTILINE)) > 0


@pytest.mark.slow
def test_every_connection_in_turn_for_longer(chain: Chain) -> None:
    run(chain, 2.0)
