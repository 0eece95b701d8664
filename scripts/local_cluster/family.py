"""A process with all its descendants, as one thing to pause and let go on: the processes of an aggregator have sessions of their own."""

import contextlib
import os
import signal
from pathlib import Path

__all__ = ["family", "signal_family"]


def family(pid: int) -> list[int]:
    """The process and its descendants, parents first; without those that end meanwhile."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The name, in parentheses, may contain anything; state and parent follow the last of them (proc(5)).
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def signal_family(pid: int, number: signal.Signals) -> None:
    """Sends a signal to all of them."""
    for one in family(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, number)
