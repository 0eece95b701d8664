"""The wall clock while somebody sets it."""

import time

import pytest

from m3x import clock

S = 1_000_000_000
START = 1_767_355_200 * S


class Clocks:
    """In place of ``time``: ``set_by`` is what the wall clock was set by."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def __init__(self) -> None:
        self.boot, self.set_by = 5 * S, 0

    def clock_gettime_ns(self, _: int) -> int:
        return self.boot

    def time_ns(self) -> int:
        return START + self.boot + self.set_by


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(clock, "time", made)
    monkeypatch.setattr(clock, "_steady", clock._Steady())
    return made


def after(clocks: Clocks, seconds: float) -> int:
    """What is said then, in nanoseconds beyond the boot clock."""
    clocks.boot += round(seconds * S)
    return clock.wall_ns() - START - clocks.boot


@pytest.mark.parametrize("step", [3600 * S, -3600 * S, 2 * S, -2 * S])
def test_a_step_that_is_taken_back_never_was(clocks: Clocks, step: int) -> None:
    assert after(clocks, 0) == 0
    clocks.set_by = step
    assert [after(clocks, 3), after(clocks, 6.9)] == [0, 0]
    clocks.set_by = 0
    assert after(clocks, 1) == 0
    clocks.set_by = step
    # It is a new one.
    assert [after(clocks, 1), after(clocks, 9)] == [0, 0]


@pytest.mark.parametrize("step", [3600 * S, -3600 * S])
def test_a_step_that_lasts_counts(clocks: Clocks, step: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert after(clocks, 0) == 0
    clocks.set_by = step
    assert [after(clocks, 1), after(clocks, 9.9), after(clocks, 0.1), after(clocks, 5)] == [0, 0, step, step]
    assert capsys.readouterr().err.count("was set") == 2


def test_small_corrections_count_at_once_however_many(clocks: Clocks) -> None:
    for part in range(1, 20):
        clocks.set_by = part * S * 3 // 4
        assert after(clocks, 1) == clocks.set_by


def test_a_suspended_machine_has_not_had_its_clock_set(clocks: Clocks) -> None:
    """Both clocks have gone on; the wall clock is read from the battery's, to the second."""
    assert after(clocks, 0) == 0
    clocks.set_by = -S // 2
    assert after(clocks, 7200) == -S // 2
