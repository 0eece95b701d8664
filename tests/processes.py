"""Processes that tests stop: a signal that has been sent has not yet been acted upon."""

import os
import signal
import time
from pathlib import Path

STOP_S = 30.0


def stop(pid: int) -> None:
    """SIGSTOP, and returns once every thread has stopped: on a loaded machine the others run on until one of them has taken the signal.

    Raises ``AssertionError`` if that takes longer than ``STOP_S``.
    """
    os.kill(pid, signal.SIGSTOP)
    give_up = time.monotonic() + STOP_S
    while running := running_threads(pid):
        assert time.monotonic() < give_up, f"process {pid} is not stopped after {STOP_S:g} s: {running}"
        time.sleep(0.001)


def running_threads(pid: int) -> dict[int, str]:
    """State letters (proc(5)) of the threads that are neither stopped nor dead."""
    states: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            # The name, in parentheses, may contain anything; the state follows the last of them.
            states[int(task.name)] = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return {thread: state for thread, state in states.items() if state not in "TZX"}
