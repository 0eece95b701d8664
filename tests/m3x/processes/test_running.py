"""Children whose end is told, and what they leave behind."""

import os
import signal
from pathlib import Path

import pytest
from lab.waiting import until
from tests.m3x.processes.conftest import CHILD, alive, descendants

from m3x.processes import Zygote
from m3x.processes.running import Running


async def test_what_a_child_has_forked_ends_with_it_and_is_waited_for(zygote: Zygote, tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))
    running = await zygote.spawn(CHILD, [str(tmp_path / "it"), "fork"])
    await until((tmp_path / "it.forked").exists)
    [forked] = descendants(running.pid)
    running.signal(signal.SIGKILL)
    assert await running.wait() == -signal.SIGKILL
    await until(lambda: set(descendants(os.getpid())) - {zygote.pid, zygote.spare_pid} <= before)
    assert not alive(forked)


async def test_whoever_wants_to_know_is_told_once() -> None:
    pid, told = os.fork(), []
    if pid == 0:
        os.setsid()
        signal.pause()
    running = Running(pid, lambda *end: told.append(end))
    assert not running.ended
    running.signal(signal.SIGTERM)
    running.reap()
    running.reap()
    assert told == [(running, -signal.SIGTERM)]
    assert await running.wait() == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
