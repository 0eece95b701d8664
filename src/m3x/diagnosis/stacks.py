"""Stacks of this process and of its children.

A child that was forked (``m3x.processes``) writes its stacks when it gets SIGUSR1, into memory that its parent finds among its open
files: by a handler in C (``faulthandler``), so also while it is in compiled code or hangs. A service itself writes them to its standard
error then, as it does before it dies of a fault or of a watchdog's SIGABRT.
"""

import asyncio
import contextlib
import faulthandler
import fcntl
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["ChildStacks", "NoStacksError", "frames_of", "own_stacks", "register_child", "register_service"]

_SIGNAL = signal.SIGUSR1
_MEMORY = "m3-stacks"
_PATIENCE_S = 5.0
_LOOK_S = 0.005


class NoStacksError(Exception):
    """A child does not say where it is; the message says why."""


def register_service() -> None:
    """SIGUSR1, and what ends this process, have its stacks written to standard error."""
    faulthandler.enable()
    faulthandler.register(_SIGNAL, all_threads=True, chain=False)


def register_child() -> None:
    """SIGUSR1 has them written where the parent reads them."""
    descriptor = os.memfd_create(_MEMORY, os.MFD_CLOEXEC)
    # The parent empties it.
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    faulthandler.register(_SIGNAL, file=descriptor, all_threads=True, chain=False)


def own_stacks() -> str:
    """All threads with their names, then all tasks of the event loop that calls."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f'thread {ident} "{names.get(ident, "?")}"\n{"".join(traceback.format_stack(frame))}'
        for ident, frame in sys._current_frames().items()
    ]
    with contextlib.suppress(RuntimeError):
        for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
            lines = "".join(f"  {_place(frame)}\n" for frame in frames_of(task.get_coro()))
            parts.append(f'task "{task.get_name()}"\n{lines}')
    return "\n".join(parts)


def frames_of(coroutine: Any) -> Iterator[FrameType]:
    """Of a coroutine that waits, and of those that it waits for, outermost first."""
    while coroutine is not None:
        frame = next(
            (found for name in ("cr_frame", "gi_frame", "ag_frame") if (found := getattr(coroutine, name, None))), None
        )
        if frame is None:
            return
        yield frame
        coroutine = next(
            (found for name in ("cr_await", "gi_yieldfrom", "ag_await") if (found := getattr(coroutine, name, None))),
            None,
        )


def _place(frame: FrameType) -> str:
    return f'File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_qualname}'


class ChildStacks:
    """What a child writes. Raises ``NoStacksError`` if it is none of those that do."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._file = _memory_of(pid)

    def ask(self) -> None:
        """Has it write once more."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, _SIGNAL)

    def take(self) -> str:
        """What it has written since it was last taken."""
        try:
            with open(self._file, "r+b") as memory:
                text = memory.read().decode(errors="replace")
                memory.truncate(0)
        except OSError as error:
            raise NoStacksError(f"process {self._pid} has ended") from error
        return text

    async def now(self) -> str:
        """Where it is. Raises ``NoStacksError``."""
        self.take()
        self.ask()
        text, deadline = "", time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_S)
            if not (more := self.take()) and text:
                return text
            text += more
        raise NoStacksError(
            f"process {self._pid} does not answer within {_PATIENCE_S:g} s: it is stopped, or waits for a disk"
        )


def _memory_of(pid: int) -> str:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}").startswith(f"/memfd:{_MEMORY}"):
                    return f"{folder}/{name}"
    raise NoStacksError(f"process {pid} is not there, or has just begun")
