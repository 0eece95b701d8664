"""The lock of a directory: the file ``lock`` in it holds it (flock) and says who has it, pid and time as JSON.

It belongs to the process: a child that was forked without ``exec`` gives its copy up at once, or it would hold the directory beyond the
death of its parent.
"""

import contextlib
import fcntl
import os
import time
import weakref
from pathlib import Path

import msgspec

from m3x.segments.errors import DirectoryLocked

__all__ = ["DirectoryLock"]


class _Holder(msgspec.Struct):
    pid: int
    since: str


class DirectoryLock:
    """Held from its making until ``close`` or the end of the process. Raises ``DirectoryLocked`` or ``OSError``."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            written = os.pread(self._fd, 1000, 0)
            os.close(self._fd)
            if isinstance(error, BlockingIOError):
                raise DirectoryLocked(path, _name_of_holder(written)) from None
            raise
        _held.add(self)
        holder = _Holder(os.getpid(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        # On a full disk the holder may have to remain without a name.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, os.pwrite(self._fd, msgspec.json.encode(holder) + b"\n", 0))

    def close(self) -> None:
        """Gives it back."""
        _held.discard(self)
        if self._fd >= 0:
            # Said expressly, as a child that was just forked may still have its copy.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1

    def _forked(self) -> None:
        """In a forked child: forgets the lock, which stays with the parent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_held: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for lock in list(_held):
        lock._forked()


os.register_at_fork(after_in_child=_leave_to_parent)


def _name_of_holder(written: bytes) -> str:
    with contextlib.suppress(msgspec.MsgspecError):
        holder = msgspec.json.decode(written, type=_Holder)
        return f"process {holder.pid} (since {holder.since})"
    return "another process"
