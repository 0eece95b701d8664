"""How the processes of one machine tell each other that they have written: they touch a file, and the others are woken (inotify(7)).

A touch comes behind the commit that it tells of, so who hears it reads what was written. It says neither who nor what.
"""

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["Bell"]

_IN_ATTRIB = 0x4
_READ_BYTES = 1 << 14


class Bell:
    """Of ``file``, which exists. ``hears``: whether this process is woken; the system may offer that to no more of them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._fd = _watched(file)

    @property
    def hears(self) -> bool:
        """Whether ``listen`` calls anybody."""
        return self._fd >= 0

    def ring(self) -> None:
        """Wakes all that listen, this process as well; called from any thread."""
        # Those that are not woken look from time to time.
        with contextlib.suppress(OSError):
            os.utime(self._file)

    def listen(self, heard: Callable[[], None]) -> None:
        """Calls ``heard`` in the running loop after each ring, or once for several."""
        if self.hears:
            asyncio.get_running_loop().add_reader(self._fd, self._read, heard)

    def _read(self, heard: Callable[[], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, _READ_BYTES)
        heard()

    def close(self) -> None:
        """Hears no more."""
        if self.hears:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def _watched(file: Path) -> int:
    """A descriptor that has something to read once ``file`` was touched; -1 where the system does not offer that."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "inotify_init1"):
        return -1
    fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(file), ctypes.c_uint32(_IN_ATTRIB)) < 0:
        os.close(fd)
        return -1
    return fd
