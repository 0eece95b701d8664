"""Which front sent what."""

from aggregator.journal.sessions import REPEATS_NS, Sessions
from m3x.segments import Position


def at(offset: int) -> Position:
    return Position(1, offset)


def test_what_is_there_and_what_may_come_again() -> None:
    sessions = Sessions()
    assert (sessions.last, sessions.open_from, sessions.has(7, 0)) == ((-1, -1, -1), None, False)
    for seq in range(4):
        sessions.wrote(7, seq, seq - 2, 100 + seq, at(seq))
    assert sessions.last == (7, 3, 1)
    assert sessions.has(7, 3)
    assert not sessions.has(7, 4)
    assert not sessions.has(8, 0)
    assert sessions.open_from == at(2)
    assert [sessions.is_open(7, seq) for seq in range(4)] == [False, False, True, True]
    sessions.wrote(8, 0, -1, 110, at(4))
    assert sessions.open_from == at(2)
    sessions.wrote(8, 1, 0, 103 + REPEATS_NS, at(5))
    assert sessions.open_from == at(5)
    sessions.wrote(9, 0, -1, 104 + REPEATS_NS, at(6))
    assert sessions.has(8, 1)
    assert not sessions.has(7, 0)


def test_a_snapshot_keeps_the_last_front() -> None:
    sessions = Sessions()
    sessions.restore(7, 5, 3)
    assert sessions.last == (7, 5, 3)
    assert sessions.has(7, 5)
    sessions.wrote(7, 6, 3, 0, at(0))
    assert sessions.open_from == at(0)
