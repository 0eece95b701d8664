"""When what died is started again."""

import pytest

from m3x.processes import restarts


def test_at_once_then_ever_more_slowly_and_at_once_after_a_steady_life(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 0
    monkeypatch.setattr(restarts, "monotonic_ns", lambda: now_ns)
    one, pauses = restarts.Restarts(), []
    for lived_s in (1, 1, 1, 1, 1, 1, 1, 11, 1):
        one.started()
        now_ns += lived_s * 10**9
        pauses.append(one.pause_s())
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 0.0, 0.5]


def test_deaths_in_a_row_are_forgotten_once_one_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 0
    monkeypatch.setattr(restarts, "monotonic_ns", lambda: now_ns)
    one, counted = restarts.Restarts(), []
    for lived_s, waited_s in ((1, 0), (1, 1), (1, 20), (5, 0), (11, 0)):
        one.started()
        now_ns += lived_s * 10**9
        counted.append(one.in_a_row())
        if lived_s < 11:
            one.pause_s()
            now_ns += waited_s * 10**9
            counted.append(one.in_a_row())
    # As it lives, and after its death, however long the next start is waited for.
    assert counted == [0, 1, 1, 2, 2, 3, 3, 4, 0]
