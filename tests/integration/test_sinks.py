"""Values from port 7507 and raw samples in a real Prometheus and a real VictoriaMetrics, though one is away and the coordinator dies."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from lab.http import get_json, request
from lab.m3msg_client import M3MsgClient, aggregated
from lab.prometheus import Points
from lab.stores import PrometheusStore, RemoteStore, VictoriaMetrics
from lab.waiting import wait_until
from tests.integration.conftest import Deployment, deployed
from tests.real_servers import require_binary

from coordinator.sinks.prom_remote.splitting import bound
from m3ctl.bench.remote_write import Labels, write_request

SECOND, MINUTE = "10s:48h", "1m:960h"
SERIES = 40
LATE_S = 5.0
"""Nothing may wait that long for a store that works; scripts/bench measures how long it is."""
_MS = {SECOND: 10_000, MINUTE: 60_000}
_NS = 1_000_000


def endpoint(name: str, store: RemoteStore, policy: str, **more: Any) -> dict[str, Any]:
    """A section of ``endpoints``; no policy: raw samples."""
    resolution, _, retention = policy.partition(":")
    section = {"storagePolicy": {"resolution": resolution, "retention": retention}} if policy else {}
    return {"name": name, "address": store.write_url, **section, **more}


@dataclass
class World:
    """A coordinator, its stores, and what each of them should have."""

    deployment: Deployment
    prometheus: PrometheusStore
    victoria: VictoriaMetrics
    client: M3MsgClient
    began_ms: int
    sent: Points = field(default_factory=dict)
    """What an aggregator or a client has sent."""

    def start(self) -> None:
        """The coordinator."""
        endpoints = [
            endpoint("prometheus", self.prometheus, SECOND),
            endpoint("prometheus-minutes", self.prometheus, MINUTE),
            endpoint("victoria", self.victoria, SECOND, ordered=False),
            endpoint("victoria-minutes", self.victoria, MINUTE, ordered=False),
            endpoint("victoria-raw", self.victoria, "", ordered=False),
        ]
        config = self.deployment.folder / "coordinator.json"
        sections = {
            "backend": "prom-remote",
            "prometheusRemoteBackend": {"endpoints": endpoints},
            "ingest": {"ingester": {"workerPoolSize": 100}},
        }
        config.write_text(json.dumps(sections))
        self.deployment.start_coordinator(config, carbon={})

    def windows(self, job: str, numbers: range) -> None:
        """Every series' values of these windows of ten seconds, in order, and what is due of the longer policy."""
        messages = []
        for number in numbers:
            at_ms = self.began_ms + number * _MS[SECOND]
            for policy in (SECOND, MINUTE) if number % 6 == 0 else (SECOND,):
                for k in range(SERIES):
                    labels = {"__name__": "m", "job": job, "policy": policy, "k": str(k)}
                    messages.append(self.value(labels, at_ms, number + k / 64, policy))
        self.client.send(messages)

    def value(self, labels: dict[str, str], at_ms: int, value: float, policy: str) -> bytes:
        """A message with it, which is expected from now on."""
        self.sent.setdefault(tuple(sorted(labels.items())), {})[at_ms] = value
        return aggregated(labels, at_ms * _NS, value, policy)

    def raw(self, job: str, number: int) -> None:
        """Samples that nobody aggregates."""
        labels: Labels = (("__name__", "raw"), ("job", job))
        at_ms = self.began_ms + number * 10_000
        self.sent.setdefault(labels, {})[at_ms] = float(number)
        headers = {"Content-Encoding": "snappy", "M3-Metrics-Type": "unaggregated"}
        body = write_request([(labels, float(number), at_ms)])
        status, text = request("POST", f"{self.deployment.base}/api/v1/prom/remote/write", body, headers)
        assert status == 200, text

    def expected(self, job: str, *, raw: bool) -> Points:
        """What a store should have."""
        return {
            labels: points
            for labels, points in self.sent.items()
            if ("job", job) in labels and (raw or ("__name__", "raw") not in labels)
        }

    def stored(self, store: RemoteStore, job: str) -> Points:
        """What it has."""
        return store.samples(f'{{job="{job}"}}', self.began_ms - 3_600_000, self.began_ms + 3_600_000)

    def sinks(self) -> dict[str, dict[str, Any]]:
        """``/api/v1/sinks`` by name."""
        document = get_json(f"{self.deployment.base}/api/v1/sinks")
        return {sink["name"]: sink for sink in document["sinks"]}

    def nothing_waits(self, store: str) -> None:
        """Returns when the coordinator has heard from a store that it has everything: a moment after it has."""
        wait_until(
            f"nothing waits for {store}",
            lambda: not any(sink["waitingValues"] for name, sink in self.sinks().items() if name.startswith(store)),
            20,
        )

    def victoria_is_never_late(self, job: str) -> None:
        """Returns when VictoriaMetrics has everything that was sent."""

        def all_there() -> bool:
            sinks = self.sinks()
            assert max(sinks[name]["ageS"] for name in sinks if name.startswith("victoria")) < LATE_S
            return self.stored(self.victoria, job) == self.expected(job, raw=True)

        wait_until("VictoriaMetrics has everything", all_there, LATE_S)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything runs."""
    require_binary("prometheus")
    require_binary("victoria-metrics")
    folder = tmp_path_factory.mktemp("sinks")
    with PrometheusStore(folder) as prometheus, VictoriaMetrics(folder) as victoria, deployed(folder) as deployment:
        assert isinstance(prometheus, PrometheusStore)
        assert isinstance(victoria, VictoriaMetrics)
        with M3MsgClient(deployment.ingest) as client:
            began_ms = (int(time.time()) // 60 - 10) * 60_000
            made = World(deployment, prometheus, victoria, client, began_ms)
            made.start()
            yield made


def test_everything_arrives_though_a_store_is_away_and_the_coordinator_is_killed(world: World) -> None:
    job = "outage"
    coordinator = world.deployment.processes["coordinator"]
    world.windows(job, range(6))
    world.raw(job, 0)
    world.client.settle()
    world.victoria_is_never_late(job)
    wait_until("Prometheus has it", lambda: world.stored(world.prometheus, job) == world.expected(job, raw=False), 20)

    world.nothing_waits("prometheus")
    world.prometheus.kill()
    for number in range(6, 18):
        world.windows(job, range(number, number + 1))
        world.raw(job, number)
        world.client.settle()
        world.victoria_is_never_late(job)
    waiting = world.sinks()
    assert (waiting["prometheus"]["waitingValues"], waiting["prometheus-minutes"]["waitingValues"]) == (
        12 * SERIES,
        2 * SERIES,
    )
    assert waiting["prometheus"]["waitingBytes"] > 20 * 12 * SERIES
    assert waiting["prometheus"]["ageS"] > 0
    assert "Connect" in waiting["prometheus"]["error"]

    # What is under way when it dies is not acknowledged, and comes again.
    world.windows(job, range(18, 30))
    coordinator.kill()
    world.windows(job, range(30, 36))
    world.start()
    world.client.settle()
    # What it comes upon in its queues is as old as its start took, and more.
    world.nothing_waits("victoria")
    world.raw(job, 36)
    world.victoria_is_never_late(job)
    assert world.sinks()["prometheus"]["waitingValues"] >= 30 * SERIES

    world.prometheus.start()
    wait_until(
        "Prometheus has it, too", lambda: world.stored(world.prometheus, job) == world.expected(job, raw=False), 40
    )
    world.nothing_waits("")
    sinks = world.sinks()
    assert len(sinks) == 5
    assert {name: sink["dropped"] + sink["unreadable"] for name, sink in sinks.items()} == dict.fromkeys(sinks, 0)


def test_a_sample_that_prometheus_refuses_costs_itself_only(world: World) -> None:
    job, count = "refused", 2000

    def labels(k: int) -> dict[str, str]:
        return {"__name__": "m", "job": job, "k": str(k)}

    def refused() -> int:
        # The second one: an attempt was answered with 503, as when Prometheus reads its log at start.
        counts = world.sinks()["prometheus"]["refused"]
        return counts.get("out-of-order", 0) + counts.get("already-there", 0)

    world.client.send([world.value(labels(k), world.began_ms, 0.5, SECOND) for k in range(count)])
    world.client.settle()
    wait_until(
        "Prometheus has the first ones",
        lambda: world.stored(world.prometheus, job) == world.expected(job, raw=False),
        20,
    )
    world.nothing_waits("prometheus")

    # While it is away its lanes fill, so that its next requests are large.
    before = refused()
    world.prometheus.kill()
    late = (world.began_ms - 1000, 7.0)
    messages = [world.value(labels(k), world.began_ms + 10_000, k / 4, SECOND) for k in range(count)]
    # Behind a newer one of its series in the same request Prometheus would drop it without a word.
    messages.insert(count // 3, aggregated(labels(777), late[0] * _NS, late[1], SECOND))
    world.client.send(messages)
    world.client.settle()
    world.prometheus.start()
    wait_until(
        "Prometheus has the others", lambda: world.stored(world.prometheus, job) == world.expected(job, raw=False), 40
    )
    world.nothing_waits("prometheus")
    assert refused() == before + 1
    requests = sum(number for status, number in world.prometheus.write_requests().items() if status in (204, 400))
    # A lane has had two batches: the one that waited for an answer, and what came behind it.
    assert requests <= 2 * 4 + bound(count // 4)

    found = world.stored(world.victoria, job)
    expected = world.expected(job, raw=True)
    expected[tuple(sorted(labels(777).items()))] |= dict([late])
    assert found == expected
