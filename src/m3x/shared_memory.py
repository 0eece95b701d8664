"""Memory that one process writes and others read: it has no file that would be written back, and none that stays behind.

Its name in a directory is a link to the owner's descriptor. It leads nowhere once the owner has ended; who has mapped it keeps it.
"""

import mmap
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["SharedMemory", "as_writeable", "mapped"]


class SharedMemory:
    """The owner's end; pages are committed when they are touched. Raises ``OSError`` where the system does not offer it."""

    def __init__(self, path: Path, nbytes: int) -> None:
        self._fd = os.memfd_create(path.name)
        try:
            os.ftruncate(self._fd, nbytes)
            path.symlink_to(f"/proc/{os.getpid()}/fd/{self._fd}")
            # What nobody could open is of no use.
            os.close(os.open(path, os.O_RDONLY))
            self.array: NDArray[np.uint8] = np.frombuffer(mmap.mmap(self._fd, nbytes), np.uint8)
            """All of it."""
        except OSError:
            os.close(self._fd)
            raise

    def place_of(self, part: NDArray[np.uint8]) -> int:
        """Where in it ``part`` begins; -1 if that is other memory."""
        at = part.ctypes.data - self.array.ctypes.data
        return at if 0 <= at < len(self.array) else -1

    def close(self) -> None:
        """Nobody can map it any more; arrays that were made of it stay."""
        os.close(self._fd)


def mapped(path: Path) -> NDArray[np.uint8]:
    """The memory of that name, to be read. Raises ``OSError`` if its owner has ended."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return np.frombuffer(mmap.mmap(fd, 0, prot=mmap.PROT_READ), np.uint8)
    finally:
        os.close(fd)


class _Writeable:
    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.owner = array
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}


def as_writeable(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same bytes as an array that says it can be written to: kernels that never do are compiled for such arrays only.

    To make it takes longer than to cut a part out of it.
    """
    return array if array.flags.writeable else np.asarray(_Writeable(array))
