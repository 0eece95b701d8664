"""Since when an instance holds all samples."""

import pytest

from aggregator.supervisor.election import completeness
from aggregator.supervisor.election.completeness import Completeness

S = 1_000_000_000


class Clock:
    """Both clocks, far from each other."""

    def __init__(self) -> None:
        self.now_ns = 100 * S

    def wall_ns(self) -> int:
        return 1_000_000 * S + self.now_ns

    def boot_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(completeness, "wall_ns", made.wall_ns)
    monkeypatch.setattr(completeness, "boot_ns", made.boot_ns)
    return made


def test_a_process_that_was_not_there_missed_samples_until_now(clock: Clock) -> None:
    told: list[int] = []
    one = Completeness(lambda: told.append(one.since_ns))
    assert one.since_ns == clock.wall_ns()
    clock.now_ns += S
    assert one.since_ns == clock.wall_ns() - S
    one.missed()
    assert told == [clock.wall_ns()]


def test_who_connects_to_a_new_front_brings_what_it_kept(clock: Clock) -> None:
    one = Completeness(lambda: None)
    clock.now_ns += S
    one.listening()
    clock.now_ns += 2 * S
    one.connections(1)
    assert one.since_ns == clock.wall_ns()
    # Nobody new.
    clock.now_ns += S
    one.connections(1)
    one.connections(0)
    assert one.since_ns == clock.wall_ns() - S
    one.connections(1)
    assert one.since_ns == clock.wall_ns()
    # Long after the front began to listen a connection is that of a producer that is new itself.
    clock.now_ns += 10 * S
    one.connections(2)
    assert one.since_ns == clock.wall_ns() - 10 * S
    # A new front: all connect again.
    one.listening()
    clock.now_ns += S
    one.connections(2)
    assert one.since_ns == clock.wall_ns()
