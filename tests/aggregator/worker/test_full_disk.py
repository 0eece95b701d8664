"""A worker that begins while its disk is full: it waits, says why, and goes on when there is room."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.aggregator.engine.engine_calls import NOW, flush_both
from tests.aggregator.engine.test_shorthand import close_all
from tests.aggregator.worker.test_durable import Bench

from aggregator import ipc
from aggregator.journal.replaying import Replayer
from aggregator.worker.durable import Stopped
from m3x.segments import AppendError, SegmentLog


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Appending fails so often, from now on."""
    real = SegmentLog.append

    def begin(times: int) -> None:
        left = times

        def append(self: SegmentLog, parts: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                raise AppendError(self.path, OSError(errno.ENOSPC, "No space left on device"))
            return real(self, parts)

        monkeypatch.setattr(SegmentLog, "append", append)

    return begin


def reasons(bench: Bench) -> list[str]:
    return [message.waits for message in bench.told if isinstance(message, ipc.Replaying) and message.waits]


def written(folder: Path, count: int) -> None:
    """What an earlier worker leaves."""
    before = Bench(folder)
    before.durable.begin()
    for seq in range(count):
        before.batch(seq)
    before.durable.close()


def test_new_numbers_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[int], None]
) -> None:
    written(tmp_path, 3)
    # As after a snapshot of an engine that had let entries go.
    monkeypatch.setattr(Replayer, "renumbered", lambda _: np.array([7, 0], np.uint32))
    bench = Bench(tmp_path)
    refuse(2)
    assert bench.durable.begin()[0].samples == 3
    assert len(reasons(bench)) == 2
    assert "No space left" in reasons(bench)[0]
    bench.batch(3)
    assert bench.acked == [3]
    bench.durable.close()


def test_what_is_taken_over_from_other_workers_waits_for_room(tmp_path: Path, refuse: Callable[[int], None]) -> None:
    written(tmp_path / "old", 3)
    bench = Bench(tmp_path / "new", sources=(str(tmp_path / "old"),))
    refuse(2)
    assert bench.durable.begin()[0].samples == 3
    assert len(reasons(bench)) == 2
    bench.durable.close()
    # What was saved then is whole.
    again = Bench(tmp_path / "new", sources=(str(tmp_path / "old"),))
    again.durable.begin()
    for command in close_all(NOW):
        assert flush_both(again.engine, command, NOW) == flush_both(bench.engine, command, NOW)
    again.durable.close()


def test_it_can_be_stopped_while_it_waits(tmp_path: Path, refuse: Callable[[int], None]) -> None:
    written(tmp_path / "old", 1)
    bench = Bench(tmp_path / "new", sources=(str(tmp_path / "old"),))
    bench.stopped = True
    refuse(1_000_000)
    with pytest.raises(Stopped):
        bench.durable.begin()
    assert reasons(bench)
