"""When connections are read: at once what comes now and then, at a steady pace what goes on to come in small pieces."""

import itertools
import os
import select
from collections.abc import Iterator

import pytest

from aggregator.front.process import Reading

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
