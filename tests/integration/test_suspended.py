"""A leader that is stopped (SIGSTOP) for longer than its lease and a window, as a suspended machine or one process of it.

Another one leads, and who goes on afterwards follows. No window is lost, and none has two values.
"""

import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from lab.failover.cluster import Aggregator
from lab.failover.drill import Drill, drill
from lab.failover.load import COUNTERS
from lab.failover.plan import Timing
from lab.http import get
from lab.processes import send_signal, stop
from lab.waiting import wait_until

TIMING = Timing(resolution_s=2, past_s=5, ttl_s=3)
WINDOW_NS = TIMING.resolution_s * 10**9


@pytest.fixture(scope="module")
def pair() -> Iterator[Drill]:
    """A leader and a follower under load."""
    with drill("embedded", TIMING) as made:
        yield made


class Suspended:
    """What came downstream since the pair was whole."""

    def __init__(self, pair: Drill) -> None:
        pair.recover()
        self.pair = pair
        self.leader: Aggregator = wait_until("somebody leads", pair.cluster.leader)
        self.other = next(one for one in pair.cluster.instances.values() if one is not self.leader)
        self._begun = len(pair.consumer.arrivals)
        self._first_ns = (time.time_ns() // WINDOW_NS + 1) * WINDOW_NS

    def values(self) -> dict[tuple[int, int], set[float]]:
        """(Timed series, start of the window) → the values that have come."""
        found = defaultdict(set)
        for ident, end_ns, value, _ in self.pair.consumer.arrivals[self._begun :]:
            series = self.pair.load.number.get(ident, -1)
            if series >= COUNTERS and end_ns - WINDOW_NS >= self._first_ns:
                found[series, end_ns - WINDOW_NS].add(value)
        return found

    def wait_for_windows(self, count: int) -> None:
        """Returns when so many windows that begin from now on are out."""
        last_ns = (time.time_ns() // WINDOW_NS + count) * WINDOW_NS
        last_series = len(self.pair.load.ids) - 1
        wait_until("windows come out", lambda: (last_series, last_ns) in self.values(), 120, every_s=0.2)

    def check(self) -> None:
        """Every timed window has come, with its one right value; a window that was put out twice has had the same one twice."""
        values = self.values()
        last_ns = max(start for _, start in values)
        load = self.pair.load
        expected = {
            (series, start): {float(load.expected[start][series])}
            for start in range(self._first_ns, last_ns, WINDOW_NS)
            for series in range(COUNTERS, len(load.ids))
            if not np.isnan(load.expected[start][series])
        }
        assert len({start for _, start in expected}) >= 5
        assert {key: values.get(key) for key in expected} == expected


def output(instance: Aggregator) -> float:
    """Messages that an instance has handed to its producer of the output so far."""
    lines = get(instance.metrics_url)[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if "message_enqueued" in line and line[0] != "#")


Which = Callable[[Aggregator], list[int]]


@pytest.mark.parametrize(
    "which",
    [
        pytest.param(Aggregator.pids, id="the whole instance"),
        pytest.param(lambda leader: [leader.process.pid], id="its supervisor", marks=pytest.mark.slow),
    ],
)
def test_who_was_suspended_for_longer_than_its_lease_follows(pair: Drill, which: Which) -> None:
    run = Suspended(pair)
    pids = which(run.leader)
    for pid in pids:
        stop(pid)
    try:
        wait_until("the other one leads", run.other.leads, 60)
        run.wait_for_windows(3)
    finally:
        send_signal(pids, signal.SIGCONT)
    wait_until("it follows", lambda: run.leader.flush_status().get("electionState") == "follower", 60)
    sent = output(run.leader)
    run.wait_for_windows(2)
    assert run.other.leads()
    assert output(run.leader) == sent
    wait_until("it could lead again", lambda: run.leader.flush_status().get("canLead"), 120)
    run.check()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["aggregator.front", "aggregator.worker"])
def test_one_process_suspended_for_longer_than_the_lease(pair: Drill, module: str) -> None:
    run = Suspended(pair)
    pids = run.leader.children(module)
    for pid in pids:
        stop(pid)
    stopped = time.monotonic()
    try:
        wait_until("the lease has ended twice over", lambda: time.monotonic() > stopped + 2 * TIMING.ttl_s, 60)
    finally:
        send_signal(pids, signal.SIGCONT)
    run.wait_for_windows(3)
    wait_until("one of them leads", pair.cluster.leader, 60)
    run.check()
