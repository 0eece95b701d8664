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
