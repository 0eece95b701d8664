"""When a batch is cut: as soon as its worker would wait otherwise, and not while it would only join others there."""

import itertools
import socket
from types import SimpleNamespace
from typing import Any

import mmh3
import pytest
from tests.aggregator.front.conftest import frame

from aggregator import ipc
from aggregator.front.figures import Figures
from aggregator.front.flow import Flow
from aggregator.front.intake import Intake
from aggregator.front.options import FrontOptions

DELAY = 5_000_000
LARGE, SMALL = 300_000, 3_000
NOW = 10**18
METRIC = b"m" * 100


class Taking:
    """A link that takes everything."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, header: Any, payload: Any) -> bool:
        self.sent.append(header)
        return True

    def close(self) -> None:
        pass


class Rig:
    """An intake and one connection, whose messages go to the first of so many workers, which has been told its shards.

    ``at``: the time (monotonic).
    """

    def __init__(self, workers: int) -> None:
        options = FrontOptions(
            listener=-1, run_dir="", epoch=1, parent_pid=0, shared_bytes=0, batch_delay_ns=DELAY, credit_bytes=1 << 30, workers=workers
        )  # fmt: skip
        flow = Flow(options.credit_bytes, options.waiting_bytes, options.stall_ns)
        self.stream, self._link = flow.stream(0), Taking()
        self.stream.attach(self._link, 1)
        assert self.stream.order(ipc.Shards(1, 1, []), 1, 0, 0)
        self._intake = Intake(options, flow, SimpleNamespace(), Figures(), lambda: NOW)  # type: ignore[arg-type]
        mine = mmh3.hash(METRIC, 0, signed=False) % workers
        self._intake.route([(shard - mine) % workers for shard in range(workers)], 0)
        self._numbers = itertools.count(1)
        self._far, near = socket.socketpair()
        near.setblocking(False)
        self._connection: Any = SimpleNamespace(
            id=1, sock=near, partial=b"", long=None, door=SimpleNamespace(raw=False), outstanding=0, host_number=0, since_ns=0,
            took=lambda *_: None,
        )  # fmt: skip

    def read(self, nbytes: int, at: int) -> None:
        """Stages as many whole frames as have so many bytes."""
        left = nbytes
        while left > 0:
            data = b"".join(frame(METRIC, next(self._numbers)) for _ in range(20))
            self._far.sendall(data)
            assert self._intake.read(self._connection, NOW, at) == len(data)
            left -= len(data)

    def cut_due(self, at: int, *, more_comes: bool) -> int:
        """How many batches went to the worker."""
        before = len(self._link.sent)
        self._intake.cut_due(at, more_comes)
        return len(self._link.sent) - before

    def close(self) -> None:
        self._far.close()
        self._connection.sock.close()


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Any:
    made = Rig(getattr(request, "param", 1))
    yield made
    made.close()


def test_what_is_all_that_comes_goes_at_once(rig: Rig) -> None:
    rig.read(SMALL, 0)
    assert rig.cut_due(1, more_comes=False) == 1


def test_a_small_batch_waits_for_what_is_about_to_come(rig: Rig) -> None:
    rig.read(SMALL, 0)
    assert rig.cut_due(DELAY - 1, more_comes=True) == 0
    assert rig.cut_due(DELAY, more_comes=True) == 1


def test_a_worker_that_has_nothing_gets_a_large_batch_at_once(rig: Rig) -> None:
    rig.read(LARGE, 0)
    assert rig.cut_due(1, more_comes=True) == 1


def test_for_a_worker_that_is_away_large_batches_wait_for_more_like_small_ones(rig: Rig) -> None:
    rig.stream.detach()
    for _ in range(3):
        rig.read(LARGE, 0)
        rig.cut_due(1, more_comes=True)
        assert rig.stream.waiting_bytes == 0
    rig.cut_due(DELAY, more_comes=True)
    assert rig.stream.waiting_bytes >= 3 * LARGE


def test_behind_another_batch_a_large_one_waits_for_more(rig: Rig) -> None:
    rig.read(LARGE, 0)
    assert rig.cut_due(1, more_comes=True) == 1
    rig.read(LARGE, 2)
    assert rig.cut_due(DELAY + 1, more_comes=True) == 0
    assert rig.cut_due(DELAY + 2, more_comes=True) == 1
    rig.read(LARGE, DELAY + 3)
    assert rig.cut_due(DELAY + 4, more_comes=True) == 0
    for header in range(2):
        assert rig.stream.acked(header, DELAY + 5) is not None
    assert rig.cut_due(DELAY + 6, more_comes=True) == 1


@pytest.mark.parametrize(("rig", "times"), [(1, 1), (2, 2), (4, 4), (8, 4)], indirect=["rig"])
def test_while_much_comes_each_of_several_workers_is_given_more_time(rig: Rig, times: int) -> None:
    rig.read(SMALL, 0)
    assert rig.cut_due(times * DELAY - 1, more_comes=True) == 0
    assert rig.cut_due(times * DELAY, more_comes=True) == 1
    rig.read(LARGE, times * DELAY)
    assert rig.stream.acked(0, times * DELAY) is not None
    # It has nothing to do, and what is large enough to begin with is a part of all that comes, too.
    assert rig.cut_due(times * DELAY + 1, more_comes=True) == (times == 1)


@pytest.mark.parametrize("rig", [8], indirect=True)
def test_with_several_workers_what_is_all_that_comes_goes_at_once(rig: Rig) -> None:
    rig.read(SMALL, 0)
    assert rig.cut_due(1, more_comes=False) == 1
