"""A coordinator of several processes: one service from outside, whichever process a sender reaches and whatever becomes of it."""

import contextlib
import http.client
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path

import pytest
from lab.http import get, request
from lab.instances import Aggregator
from lab.processes import children, send_signal, stop
from lab.prometheus import EQUAL, remote_read
from lab.waiting import wait_until
from tests.integration.conftest import Deployment
from tests.integration.inside import Inside, serving

from m3ctl.bench.remote_write import write_request

WORKERS = 3
WRITE = "/api/v1/prom/remote/write"
TIMEOUT_S = 2
ESTABLISHED = "01"
"""As ``/proc/net/tcp`` writes it."""
CONFIG = """
workers: {workers}
nextWorkerAt: {next_worker_at}
listenAddress: 127.0.0.1:{http}
metrics: {{prometheus: {{listenAddress: "127.0.0.1:{metrics}"}}}}
clusters:
  - namespaces:
      - {{namespace: raw, type: unaggregated, retention: 48h}}
      - {{namespace: two, type: aggregated, resolution: 2s, retention: 48h}}
downsample:
  bufferPastLimits: [{{resolution: 0s, bufferPast: 4s}}]
  rules:
    mappingRules:
      - {{name: sum, filter: "__name__:summed", aggregations: [Sum], storagePolicies: [{{resolution: 2s, retention: 48h}}]}}
writeLimits: {{tenants: {{small: {{maxSamplesPerSecond: 1, burstSamples: {burst}}}}}}}
embeddedAggregator: {{workers: 1}}
"""
BURST = 10 * WORKERS


class Coordinator(Inside):
    """With write processes, all of which take connections, and an aggregator inside."""

    next_worker_at = 0.0

    def text(self) -> str:
        return CONFIG.format(
            workers=WORKERS, next_worker_at=self.next_worker_at, burst=BURST, http=self.http, metrics=self.metrics
        )

    def writers(self) -> dict[int, int]:
        """Pids by number."""
        found = {}
        for pid, command in children(self.process.pid).items():
            if "coordinator.writers" in command:
                found[int(command[-1].rsplit("-", 1)[1].removesuffix(".json"))] = pid
        return found

    def connection(self) -> http.client.HTTPConnection:
        """One that stays."""
        return http.client.HTTPConnection("127.0.0.1", self.http, timeout=60)

    def stored(self, name: str, kind: str) -> dict[str, float]:
        """The sum of all values by the label ``n``; ``kind``: aggregated, unaggregated."""
        now_ms = time.time_ns() // 1_000_000
        headers = {"M3-Metrics-Type": kind}
        points = remote_read(self.base, [("__name__", EQUAL, name)], now_ms - 3_600_000, now_ms + 60_000, headers)
        return {dict(labels)["n"]: sum(values.values()) for labels, values in points.items()}

    def figure(self, name: str) -> float:
        """The sum of what begins so on the page of figures."""
        return figure(self.metrics, name)


def figure(port: int, name: str) -> float:
    _, text = get(f"http://127.0.0.1:{port}/metrics")
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"coordinator_{name}"))


def posted(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, str]:
    """Over a connection that may be asked to close."""
    connection.request("POST", WRITE, body, {"Content-Encoding": "snappy"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def until_answered(connection: http.client.HTTPConnection, body: bytes) -> None:
    """As senders do it: again over a new connection where one ends."""
    while True:
        try:
            assert posted(connection, body) == (200, "")
        except (OSError, HTTPException):
            connection.close()
        else:
            return


def small_burst(connection: http.client.HTTPConnection) -> int:
    """The status of a request of a tenant, of which two use up what it may send at once."""
    samples = [((("__name__", "small"), ("n", str(n))), 1.0, time.time_ns() // 1_000_000) for n in range(BURST // 2)]
    headers = {"Content-Encoding": "snappy", "X-Scope-OrgID": "small"}
    connection.request("POST", WRITE, write_request(samples), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def sample(name: str, n: int, value: float = 1.0) -> bytes:
    return write_request([((("__name__", name), ("n", str(n))), value, time.time_ns() // 1_000_000)])


class Gathering(Coordinator):
    """One process takes all connections as long as that is little work."""

    next_worker_at = 0.15

    def connected(self) -> dict[int, int]:
        """How many connections each write process has that it has accepted, by number."""
        accepted = {
            fields[9]
            for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
            if int(fields[1].rpartition(":")[2], 16) == self.http and fields[3] == ESTABLISHED
        }
        return {
            index: sum(os.readlink(file).strip("socket:[]") in accepted for file in Path(f"/proc/{pid}/fd").iterdir())
            for index, pid in self.writers().items()
        }


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with serving(Coordinator(tmp_path_factory.mktemp("writers"))) as made:
        wait_until("nobody is missing", lambda: "problems" not in json.loads(get(f"{made.base}/ready")[1]), 60)
        yield made


def test_writes_over_every_process_end_in_one_place(coordinator: Coordinator) -> None:
    """Connections that stay are spread evenly; figures, series and what is stored are those of all."""
    before = coordinator.figure("write_success")
    connections = [coordinator.connection() for _ in range(2 * WORKERS)]
    for n, connection in enumerate(connections):
        assert posted(connection, sample("spread", n)) == (200, "")
    for n, connection in enumerate(connections):
        assert posted(connection, sample("again", n)) == (200, "")
    assert coordinator.figure("write_success") == before + 4 * WORKERS
    expected = {str(n): 1.0 for n in range(2 * WORKERS)}
    assert coordinator.stored("spread", "unaggregated") == expected
    wait_until("they are aggregated", lambda: coordinator.stored("spread", "aggregated") == expected, 60)
    after, names = 0, set()
    while after is not None:
        page = json.loads(get(f"{coordinator.base}/api/v1/rules/series?after={after}")[1])
        names |= {dict(map(tuple, one["tags"])).get("n") for one in page["series"]}
        after = page["next"]
    assert names >= set(expected)
    for connection in connections:
        connection.close()


def test_whatever_is_no_write_is_answered_by_the_main_process(coordinator: Coordinator) -> None:
    for _ in range(2 * WORKERS):
        assert get(f"{coordinator.base}/nothing/there?a=b") == (404, "404 page not found\n")
        assert get(f"{coordinator.base}{WRITE}")[0] == 405
        status, text = get(f"{coordinator.base}/api/v1/rules/match?metric=summed&format=text")
        assert status == 200
        assert "sum" in text
        status, _ = request("POST", f"{coordinator.base}/api/v1/topic/init", b" " * (1 << 20) + b"{]")
        assert status == 400
    assert WRITE in get(f"{coordinator.base}/routes")[1]
    status, text = get(f"{coordinator.base}/ready")
    assert (status, [one["id"] for one in json.loads(text)["readyWrites"]]) == (200, ["raw", "two"])


def test_a_process_that_does_nothing_is_named_and_others_take_its_place(coordinator: Coordinator) -> None:
    pids = coordinator.writers()
    stop(pids[1])
    try:
        wait_until(
            "it is named", lambda: f"writer 1: process {pids[1]} does not answer" in get(f"{coordinator.base}/ready")[1]
        )
        for n in range(2 * WORKERS):
            assert request("POST", f"{coordinator.base}{WRITE}", sample("stopped", n), timeout_s=60)[0] == 200
    finally:
        send_signal([pids[1]], signal.SIGCONT)
    wait_until("nobody is missing", lambda: "problems" not in json.loads(get(f"{coordinator.base}/ready")[1]))


def test_kill_9_of_a_write_process_loses_nothing_that_was_answered(coordinator: Coordinator) -> None:
    """Senders come again until they have an answer, as Prometheus does; sums tell what is lost and what counts twice."""
    answered: list[int] = []
    refused: list[OSError] = []
    numbers = itertools.count()
    ends = threading.Event()

    def send() -> None:
        connection = coordinator.connection()
        while not ends.is_set():
            n = next(numbers)
            body = sample("summed", n, 3.0)
            while True:
                try:
                    status, _ = posted(connection, body)
                except ConnectionRefusedError as error:
                    refused.append(error)
                except (OSError, HTTPException):
                    connection.close()
                    continue
                if status == 200:
                    break
            answered.append(n)
        connection.close()

    senders = [threading.Thread(target=send, daemon=True) for _ in range(2 * WORKERS)]
    for sender in senders:
        sender.start()
    successes = coordinator.figure("write_success")
    for index in (0, 1, 2, 0):
        begin = len(answered)
        wait_until("requests are answered", lambda begin=begin: len(answered) > begin + 50)
        pid = coordinator.writers()[index]
        send_signal([pid], signal.SIGKILL)
        wait_until(
            "another one takes its place", lambda index=index, pid=pid: coordinator.writers().get(index, pid) != pid, 60
        )
        now = coordinator.figure("write_success")
        assert now >= successes
        successes = now
    ends.set()
    for sender in senders:
        sender.join(120)
    assert not refused
    expected = {str(n): 3.0 for n in answered}
    wait_until("all are stored", lambda: coordinator.stored("summed", "aggregated") == expected, 120)


def test_more_processes_take_connections_when_there_is_more_to_do(tmp_path: Path) -> None:
    with serving(Gathering(tmp_path)) as made, contextlib.ExitStack() as stack:
        wait_until("nobody is missing", lambda: "problems" not in json.loads(get(f"{made.base}/ready")[1]), 60)
        connections = [connected(stack, made.http) for _ in range(2 * WORKERS)]

        def gathered() -> int | None:
            """Which process has all connections; any that another one has taken is sent away by it."""
            for n, connection in enumerate(connections):
                until_answered(connection, sample("gathered", n))
            return next((one for one, has in made.connected().items() if has == len(connections)), None)

        def kept() -> int:
            """The same when it does not change any more."""
            wait_until("one process has all connections", lambda: gathered() is not None)
            found = gathered()
            assert found is not None
            return found

        assert made.figure("write_processes_in_use") == 1
        first = kept()
        answers = [small_burst(connections[0]), small_burst(connections[0]), small_burst(connections[0])]
        assert answers == [200, 200, 429], "what one tenant may send is not shared with processes that take nothing"
        pid = made.writers()[first]
        send_signal([pid], signal.SIGKILL)
        second = kept()
        assert second != first
        wait_until("it runs again", lambda: made.writers().get(first, pid) != pid)
        wait_until("nobody is missing", lambda: "problems" not in json.loads(get(f"{made.base}/ready")[1]), 60)
        assert kept() == second, "the one that took its place knows the series"
        ends = threading.Event()
        failed: list[tuple[int, str]] = []

        def send(connection: http.client.HTTPConnection) -> None:
            """Requests that are no work for anybody but the process that takes them."""
            while not ends.is_set():
                if (answer := posted(connection, write_request([]))) != (200, ""):
                    failed.append(answer)

        senders = [threading.Thread(target=send, args=(connection,), daemon=True) for connection in connections]
        for sender in senders:
            sender.start()
        try:
            wait_until("all take connections", lambda: failed or set(made.connected().values()) == {2}, 60)
        finally:
            ends.set()
            for sender in senders:
                sender.join(60)
        assert not failed
        wait_until("the figure says so", lambda: made.figure("write_processes_in_use") == WORKERS)


COORDINATOR = {
    "workers": 2,
    "nextWorkerAt": 0,
    "writes": {"ack": "aggregated", "ackTimeout": f"{TIMEOUT_S}s"},
    "downsample": {
        "rules": {
            "mappingRules": [
                {
                    "name": "summed",
                    "filter": "__name__:summed",
                    "aggregations": ["Sum"],
                    "storagePolicies": [{"resolution": "10s", "retention": "48h"}],
                }
            ]
        }
    },
}


@pytest.fixture(scope="module")
def aggregator(module_deployment: Deployment) -> Aggregator:
    return module_deployment.start_local(
        coordinator=COORDINATOR,
        aggregator={"aggregator": {"bufferDurationForPastTimedMetric": "20s"}},
        processes_s=150,
    )


def test_a_request_that_comes_again_to_another_process_counts_once(
    module_deployment: Deployment, aggregator: Aggregator
) -> None:
    deployment = module_deployment
    with contextlib.ExitStack() as stack:
        _counts_once(deployment, aggregator.roles()["front"], [connected(stack, deployment.http) for _ in range(2)])


def connected(stack: contextlib.ExitStack, port: int) -> http.client.HTTPConnection:
    """One that stays until the end of ``stack``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    stack.callback(connection.close)
    return connection


def _counts_once(deployment: Deployment, front: int, connections: Sequence[http.client.HTTPConnection]) -> None:
    for connection in connections:
        # Each to a process of its own, as they stay.
        assert posted(connection, sample("other", 1))[0] == 200
    body = sample("summed", 7, 7.0)
    stop(front)
    try:
        status, text = posted(connections[0], body)
        assert (status, "have not acknowledged all of it" in text) == (503, True)
        repeat: list[int] = []
        again = threading.Thread(target=lambda: repeat.append(posted(connections[1], body)[0]), daemon=True)
        again.start()
        wait_until("the repeat is recognised", lambda: figure(deployment.coordinator_metrics, "write_repeats") == 1)
    finally:
        send_signal([front], signal.SIGCONT)
    again.join(60)
    assert repeat == [200]

    def stored() -> list[float]:
        now_ms = time.time_ns() // 1_000_000
        points = remote_read(deployment.base, [("__name__", EQUAL, "summed")], now_ms - 3_600_000, now_ms + 60_000)
        return [value for values in points.values() for value in values.values()]

    wait_until("it is stored", stored, 90)
    assert stored() == [7.0]


def test_an_orderly_end_answers_what_is_under_way(module_deployment: Deployment, aggregator: Aggregator) -> None:
    """And leaves no process behind."""
    coordinator = module_deployment.processes["coordinator"]
    left = list(children(coordinator.pid))
    with contextlib.ExitStack() as stack:
        assert posted(connected(stack, module_deployment.http), sample("last", 1))[0] == 200
    assert coordinator.stop() == 0
    assert len(left) >= 3
    wait_until("nobody is left", lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
