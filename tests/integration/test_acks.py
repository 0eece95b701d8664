"""``writes: {ack: aggregated}`` with real processes: what is answered with 200 is in an aggregator, and what is not is said."""

import contextlib
import itertools
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException

import pytest
from lab.cluster import ROOT
from lab.http import get, request
from lab.instances import Aggregator
from lab.processes import send_signal, stop
from lab.prometheus import EQUAL, remote_read
from lab.waiting import wait_until
from tests.integration.conftest import Deployment

from m3ctl.bench.remote_write import write_request

TIMEOUT_S = 2
SUMMED = {
    "name": "summed",
    "filter": "__name__:summed",
    "aggregations": ["Sum"],
    "storagePolicies": [{"resolution": "10s", "retention": "48h"}],
}
COORDINATOR = {
    "writes": {"ack": "aggregated", "ackTimeout": f"{TIMEOUT_S}s"},
    "downsample": {
        "rules": {"mappingRules": [SUMMED]},
        # So soon that a front that was stopped finds messages twice when it goes on.
        "remoteAggregator": {"client": {"m3msg": {"producer": {"writer": {"messageRetry": {"initialBackoff": "1s"}}}}}},
    },
}
AGGREGATOR = {"aggregator": {"bufferDurationForPastTimedMetric": "20s"}}
SENDERS, KILLS = 6, 3


@pytest.fixture(scope="module")
def aggregator(module_deployment: Deployment) -> Aggregator:
    return module_deployment.start_local(coordinator=COORDINATOR, aggregator=AGGREGATOR, processes_s=150)


@pytest.fixture
def deployment(module_deployment: Deployment, aggregator: Aggregator) -> Deployment:
    """With its aggregator."""
    return module_deployment


@pytest.fixture
def front(aggregator: Aggregator) -> Iterator[int]:
    """The pid of the front; it runs when the test ends."""
    pid = aggregator.roles()["front"]
    yield pid
    send_signal([pid], signal.SIGCONT)


def post(deployment: Deployment, body: bytes) -> tuple[int, str]:
    """Status and text. Raises ``OSError``, or ``HTTPException`` for half an answer."""
    status, text = request("POST", f"{deployment.base}/api/v1/prom/remote/write", body, timeout_s=60)
    return status, text.decode()


class Posting(threading.Thread):
    """A remote write whose answer is awaited elsewhere."""

    def __init__(self, deployment: Deployment, body: bytes) -> None:
        super().__init__(daemon=True)
        self.status: int | None = None
        self._deployment, self._body = deployment, body
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, HTTPException):
            self.status, _ = post(self._deployment, self._body)


def figure(deployment: Deployment, name: str) -> float:
    """Of the coordinator."""
    _, text = get(f"http://127.0.0.1:{deployment.coordinator_metrics}/metrics")
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"coordinator_{name}"))


def stored(deployment: Deployment, name: str) -> dict[str, list[float]]:
    """Values by the label ``n``."""
    now_ms = time.time_ns() // 1_000_000
    points = remote_read(deployment.base, [("__name__", EQUAL, name)], now_ms - 3_600_000, now_ms + 60_000)
    return {dict(labels)["n"]: list(values.values()) for labels, values in points.items()}


def sample(name: str, n: int) -> bytes:
    """A remote write of one sample, now."""
    return write_request([((("__name__", name), ("n", str(n))), float(n), time.time_ns() // 1_000_000)])


def test_an_answer_waits_for_the_ack(deployment: Deployment, front: int) -> None:
    assert post(deployment, sample("waited", 1))[0] == 200
    stop(front)
    posting = Posting(deployment, sample("waited", 2))
    wait_until("the request waits", lambda: figure(deployment, "write_ack_waiting") == 1)
    assert posting.status is None
    send_signal([front], signal.SIGCONT)
    assert wait_until("it is answered", lambda: posting.status) == 200
    assert figure(deployment, "write_ack_waiting") == 0


def test_without_an_ack_it_is_503_and_the_repeat_counts_once(deployment: Deployment, front: int) -> None:
    stop(front)
    body = sample("summed", 7)
    status, text = post(deployment, body)
    assert status == 503
    assert f"have not acknowledged all of it within {TIMEOUT_S} s (m3aggregator-local: 1 messages, " in text
    repeat = Posting(deployment, body)
    wait_until("the repeat is recognised", lambda: figure(deployment, "write_repeats") == 1)
    send_signal([front], signal.SIGCONT)
    assert wait_until("it is answered", lambda: repeat.status) == 200
    wait_until("it is stored", lambda: stored(deployment, "summed"), 90)
    assert stored(deployment, "summed")["7"] == [7.0]


def test_a_sender_that_goes_away_waits_no_more(deployment: Deployment, front: int) -> None:
    stop(front)
    body = sample("gone", 1)
    with socket.create_connection(("127.0.0.1", deployment.http)) as connection:
        head = f"POST /api/v1/prom/remote/write HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_until("the request waits", lambda: figure(deployment, "write_ack_waiting") == 1)
    wait_until("nobody waits", lambda: figure(deployment, "write_ack_waiting") == 0)
    assert figure(deployment, 'write_unacked{handler="remote-write",reason="sender-gone"}') == 1


def test_a_request_that_comes_again_after_kill_9_counts_once(deployment: Deployment, front: int) -> None:
    """Its messages bear the ids that they had, and their connection was cut."""
    stop(front)
    body = sample("summed", 9)
    Posting(deployment, body)
    wait_until("the request waits", lambda: figure(deployment, "write_ack_waiting") == 1)
    deployment.processes["coordinator"].kill()
    send_signal([front], signal.SIGCONT)
    deployment.start_coordinator(ROOT / "configs/local/m3coordinator.yml", **COORDINATOR)

    def answered() -> bool:
        try:
            return post(deployment, body)[0] == 200
        except (OSError, HTTPException):
            return False

    wait_until("it is answered", answered, 60)
    wait_until("it is stored", lambda: "9" in stored(deployment, "summed"), 90)
    assert stored(deployment, "summed")["9"] == [9.0]


def test_kill_9_of_the_coordinator_loses_nothing_that_was_answered(deployment: Deployment) -> None:
    numbers = itertools.count()
    answered: set[int] = set()
    cut: set[int] = set()
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            n = next(numbers)
            try:
                if post(deployment, sample("kept", n))[0] == 200:
                    answered.add(n)
            except (OSError, HTTPException):
                cut.add(n)
                time.sleep(0.05)

    senders = [threading.Thread(target=send, daemon=True) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    for _ in range(KILLS):
        before = len(answered)
        wait_until("some are answered", lambda before=before: len(answered) > before + 50, 120)
        deployment.processes["coordinator"].kill()
        deployment.start_coordinator(ROOT / "configs/local/m3coordinator.yml", **COORDINATOR)
    before = len(answered)
    wait_until("some are answered", lambda: len(answered) > before + 50, 120)
    done.set()
    for sender in senders:
        sender.join()
    assert cut
    expected = {str(n): [float(n)] for n in answered}

    def missing() -> set[str]:
        return expected.keys() - stored(deployment, "kept").keys()

    wait_until("everything that was answered is stored", lambda: not missing(), 120)
    found = stored(deployment, "kept")
    assert {n: found[n] for n in expected} == expected
