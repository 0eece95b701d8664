"""How the processes of one machine tell each other that they have written: they touch a file, and the others are woken (inotify(7)).

A touch comes behind the commit that it tells of, so who hears it reads what was written. It says neither who nor what. Each listener
takes an inotify instance, of which a user has 128 by default (``fs.inotify.max_user_instances``); who gets none has to look.
"""

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from m3x.log import logger

__all__ = ["Bell"]

_log = logger(__name__)

_IN_ATTRIB = 0x4
_READ_BYTES = 1 << 14


class Bell:
    """Of ``file``, which exists."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._fd = _watched(file)
        if self._fd < 0:
            _log.info_limited(
                "the system wakes nobody when this file is written; it is looked at more often", file=str(file)
            )

    @property
    def hears(self) -> bool:
        """Whether this process is woken."""
        return self._fd >= 0

    def ring(self) -> bool:
        """Wakes all that listen, this process as well, and returns whether it could; called from any thread."""
        try:
            os.utime(self._file)
        except OSError:
            # The others look from time to time.
            return False
        return True

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
