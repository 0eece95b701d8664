"""When connections are read: at once what comes now and then, at a steady pace what goes on to come in small pieces."""

import itertools
import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.aggregator.front.conftest import frame

from aggregator.front import process
from aggregator.front.clients import Connection
from aggregator.front.figures import Figures
from aggregator.front.flow import Flow
from aggregator.front.intake import Intake
from aggregator.front.options import FrontOptions
from aggregator.front.process import Front, Reading
from m3x.clock import monotonic_ns

MS = 1_000_000
QUICK, STEADY = 5 * MS, 40 * MS


class Rig:
    """A reading with a pipe in the place of all connections."""

    def __init__(self) -> None:
        self.poll, self.readers = select.epoll(), select.epoll()
        self.out, self.into = os.pipe()
        self.readers.register(self.out, select.EPOLLIN)
        self.reading = Reading(self.poll, self.readers, QUICK, STEADY)
        self.reading.allow(True)

    def ready(self) -> set[int]:
        return {fd for fd, _ in self.poll.poll(0)}

    def round(self, nbytes: int, at: int) -> int:
        """A round that brings so much; when the next one is due."""
        self.reading.round_ended(nbytes, at)
        self.reading.allow(True)
        return self.reading.next_ns

    def close(self) -> None:
        for end in (self.out, self.into):
            os.close(end)
        self.readers.close()
        self.poll.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_what_comes_after_a_quiet_time_is_read_at_once(rig: Rig) -> None:
    assert rig.reading.next_ns == 0
    assert not rig.reading.due(rig.ready(), 0)
    os.write(rig.into, b"x")
    assert rig.reading.due(rig.ready(), 0)


def test_after_a_round_descriptors_are_not_looked_at_until_the_next_one_is_due(rig: Rig) -> None:
    os.write(rig.into, b"x")
    begin = 10**12
    at = rig.round(1000, begin)
    assert at == begin + QUICK
    assert not rig.ready()
    assert not rig.reading.due(rig.ready(), at - 1)
    assert rig.reading.due(rig.ready(), at)
    # It brings nothing: whatever comes next is told by the descriptors again.
    assert rig.round(0, at) == 0
    assert rig.reading.due(rig.ready(), at)


def test_a_trickle_is_read_at_the_steady_pace_and_a_burst_is_not(rig: Rig) -> None:
    at, times = 10**12, []
    for _ in range(100):
        at = rig.round(1000, at)
        times.append(at)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[:8] == [QUICK] * 8
    assert pauses[-50:] == [STEADY] * 50
    at = rig.round(1000, at + 60 * STEADY)
    assert rig.round(1000, at) == at + QUICK


def test_the_more_a_round_brings_the_sooner_is_the_next_one(rig: Rig) -> None:
    at = 10**12
    pauses = []
    for nbytes in (49152, 57344, 65535):
        for _ in range(200):
            before, at = at, rig.round(nbytes, at)
        pauses.append(at - before)
    assert pauses[0] == STEADY
    assert pauses[1:] == [STEADY * 49152 // nbytes for nbytes in (57344, 65535)]


def test_a_full_round_is_followed_at_once(rig: Rig) -> None:
    os.write(rig.into, b"x")
    assert rig.round(65536, 10**12) == 0
    assert rig.reading.loaded
    assert rig.reading.due(rig.ready(), 10**12)


def test_small_rounds_between_full_ones_do_not_wait_longer(rig: Rig) -> None:
    at = 10**12
    for _ in range(100):
        assert rig.round(100_000, at) == 0
        before, at = at, rig.round(8000, at)
        assert at == before + QUICK


def test_while_reading_is_not_allowed_no_round_is_due(rig: Rig) -> None:
    os.write(rig.into, b"x")
    at = rig.round(1000, 10**12)
    rig.reading.allow(False)
    assert rig.reading.next_ns == 0
    assert not rig.reading.due(rig.ready(), at)
    rig.reading.allow(True)
    assert rig.reading.due(rig.ready(), at)


def test_after_a_full_round_that_left_nothing_behind_as_much_is_gathered_as_is_worth_a_batch(rig: Rig) -> None:
    os.write(rig.into, b"x")
    at, nbytes, per_ms = 10**12, 100_000, 50_000
    for number in range(100):
        rig.reading.round_ended(nbytes, at, emptied=True)
        rig.reading.allow(True)
        assert (rig.reading.next_ns > 0) == (number >= 25)
        assert rig.reading.loaded == (number < 25)
        assert not rig.reading.next_ns or not rig.reading.due(rig.ready(), rig.reading.next_ns - 1)
        before, at = at, rig.reading.next_ns or at + 2 * MS
        nbytes = per_ms * (at - before) // MS
    assert nbytes == pytest.approx(393216, rel=0.01)


@pytest.mark.parametrize("rounds", [[(2, 200_000)], [(4, 200_000), (1, 800_000)], [(7, 400_000), (1, 1_000_000)]])
def test_where_much_more_is_about_to_come_nothing_is_gathered(rig: Rig, rounds: list[tuple[int, int]]) -> None:
    """However unevenly it comes."""
    os.write(rig.into, b"x")
    at = 10**12
    for _ in range(100):
        for took_ms, nbytes in rounds:
            at += took_ms * MS
            rig.reading.round_ended(nbytes, at, emptied=True)
            rig.reading.allow(True)
            assert rig.reading.next_ns == 0
            assert rig.reading.loaded
            assert rig.reading.due(rig.ready(), at)


def test_where_much_comes_at_once_now_and_then_nothing_is_gathered(rig: Rig) -> None:
    """In the time in which as much as is worth a batch would come nothing may come at all."""
    os.write(rig.into, b"x")
    at = 10**12
    for _ in range(20):
        rig.reading.round_ended(380_000, at, emptied=True)
        rig.reading.allow(True)
        assert rig.reading.next_ns == 0
        assert rig.reading.due(rig.ready(), at)
        at += 20 * MS


def test_what_was_left_behind_is_read_at_once(rig: Rig) -> None:
    os.write(rig.into, b"x")
    rig.reading.round_ended(1 << 20, 10**12, emptied=False)
    rig.reading.allow(True)
    assert rig.reading.next_ns == 0
    assert rig.reading.due(rig.ready(), 10**12)


def test_what_may_have_left_something_behind_is_counted() -> None:
    far, near = socket.socketpair()
    near.setblocking(False)
    with far, near:
        connection = Connection(1, near, "10.0.0.1:9", SimpleNamespace(raw=False))  # type: ignore[arg-type]
        options = FrontOptions(listener=-1, run_dir="", epoch=1, parent_pid=0, shared_bytes=0, read_bytes=1000)
        flow = Flow(options.credit_bytes, options.waiting_bytes, options.stall_ns)
        flow.stream(0)
        intake = Intake(options, flow, SimpleNamespace(), Figures(), lambda: 10**18)  # type: ignore[arg-type]
        intake.route([0], 0)
        far.sendall(frame(b"m" * 100, 1) * 12)
        found = []
        while intake.read(connection, 10**18, 1) == 1000:
            found.append(intake.filled_reads)
        assert found == [1]
        assert intake.filled_reads == 1
        connection.slack = 900
        far.sendall(frame(b"m" * 100, 2))
        assert 100 <= intake.read(connection, 10**18, 2) < 1000
        assert intake.filled_reads == 2


PER_ROUND = 4


@pytest.fixture
def producers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Front]]:
    """Makes a front that has read nothing yet, and so many producers that each have sent as much as makes a round full."""
    monkeypatch.setattr(process, "_CONNECTIONS_PER_ROUND", PER_ROUND)
    monkeypatch.setattr(process, "_FAREWELL_MS", 0)
    opened: list[socket.socket] = []
    fronts: list[Front] = []

    def make(count: int) -> Front:
        listener = socket.create_server(("127.0.0.1", 0))
        described = FrontOptions(
            listener=listener.detach(), run_dir=str(tmp_path), epoch=1, parent_pid=0, shared_bytes=0
        )
        made = Front(described)
        fronts.append(made)
        (door,) = made._clients.doors
        made._intake.route([0], monotonic_ns())
        made._flow.stream(0)
        host, port = door.open().rsplit(":", 1)
        for _ in range(count):
            opened.append(socket.create_connection((host, int(port))))
        while made._clients.count < count:
            assert made._clients.accept(door)
        assert not made._clients.admit(monotonic_ns())
        for number, one in enumerate(opened):
            one.sendall(frame(b"m" * 70_000, number))
        assert len(made._clients.readable(2 * count)) == count
        return made

    yield make
    for one in opened:
        one.close()
    for front in fronts:
        front._clients.stop_listening()
        front._end()


def gathers(front: Front) -> bool:
    """Whether the front lets more arrive after a round, rather than reading on at once, where a batch has come in 7 ms of late."""
    now = monotonic_ns()
    front._reading.round_ended(0, now - 70 * MS)
    front._reading.round_ended(10 * process._GATHERED_BYTES, now)
    front._read_round(now)
    front._reading.allow(True)
    return front._reading.next_ns > 0


def test_all_are_read_in_a_round_where_they_are_few(producers: Callable[[int], Front]) -> None:
    assert gathers(producers(PER_ROUND - 1))


@pytest.mark.parametrize("count", [PER_ROUND, PER_ROUND + 1])
def test_where_more_may_be_readable_than_a_round_reads_the_next_one_is_made_at_once(
    producers: Callable[[int], Front], count: int
) -> None:
    assert not gathers(producers(count))


def test_a_round_that_had_to_stop_has_left_something_behind(
    producers: Callable[[int], Front], monkeypatch: pytest.MonkeyPatch
) -> None:
    front = producers(PER_ROUND - 1)
    monkeypatch.setattr(front._flow, "paused", iter([False, True, True]).__next__)
    assert not gathers(front)
    assert len(front._clients.readable(PER_ROUND)) == PER_ROUND - 2
