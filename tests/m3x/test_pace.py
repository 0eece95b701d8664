"""Turns: so many in a second, and hosts one after another."""

from m3x.pace import Pace

MS = 1_000_000


def test_some_begin_at_once_and_the_others_evenly() -> None:
    pace: Pace[int] = Pace(100, 3)
    assert [pace.enter("a", n, 0) for n in range(6)] == [True, True, True, False, False, False]
    assert pace.turns(9 * MS) == []
    assert pace.wait_ns(9 * MS) == MS
    assert pace.turns(10 * MS) == [3]
    # Somebody waits, so nobody passes.
    assert not pace.enter("a", 6, 10 * MS)
    assert pace.turns(30 * MS) == [4, 5]
    assert pace.turns(45 * MS) == [6]
    assert not pace
    assert [pace.enter("a", n, 10_000 * MS) for n in range(4)] == [True, True, True, False]


def test_whoever_floods_waits_behind_himself() -> None:
    pace: Pace[str] = Pace(100, 1)
    assert pace.enter("flood", "first", 0)
    for n in range(50):
        assert not pace.enter("flood", f"f{n}", 0)
    assert not pace.enter("one", "x", 0)
    assert not pace.enter("two", "y", 0)
    assert [who for ms in (10, 20, 30, 40) for who in pace.turns(ms * MS)] == ["f0", "x", "y", "f1"]


def test_who_leaves_has_no_turn() -> None:
    pace: Pace[str] = Pace(100, 1)
    pace.enter("a", "now", 0)
    for who in ("x", "y"):
        pace.enter("a", who, 0)
    pace.enter("b", "z", 0)
    pace.leave("a", "x")
    pace.leave("b", "z")
    pace.leave("c", "nobody")
    assert pace.turns(100 * MS) == ["y"]
    assert not pace
