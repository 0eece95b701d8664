"""The directory of a log: its lock, its format version, its runs, the names in it.

``lock``              the lock (``lock``)
``format``            JSON: name and version of the format, and the number of the last run
``{number}.segment``  a segment; ``number`` has 16 hexadecimal digits
``{name}.cursor``     a cursor
``….damaged``         what could not be read, set aside
anything else         is not ours and is left alone

A forked child has no lock, and must leave the log alone.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from m3x.private import private_directory
from m3x.segments.errors import DirectoryError, VersionError, is_full
from m3x.segments.format import VERSION, HeaderError, HeaderVersionError
from m3x.segments.lock import DirectoryLock
from m3x.segments.scan import read_header

__all__ = ["RUN_BITS", "Directory", "segment_name", "segment_numbers", "set_aside"]

RUN_BITS = 36
"""The bits of a sequence number below those of its run."""

_FORMAT = "m3x.segments"
_SEGMENT = re.compile(r"([0-9a-f]{16})\.segment(\.damaged(\.\d+)?)?")


def segment_name(number: int) -> str:
    """The name of the file of a segment."""
    return f"{number:016x}.segment"


def set_aside(path: Path) -> str:
    """Renames a file that cannot be read; returns its new name. Raises ``OSError``."""
    aside = f"{path.name}.damaged"
    count = 1
    while (path.parent / aside).exists():
        count += 1
        aside = f"{path.name}.damaged.{count}"
    path.rename(path.parent / aside)
    return aside


def segment_numbers(path: Path) -> list[int]:
    """The segments in ``path``, in order; those that were set aside are not among them. Raises ``OSError``."""
    return sorted(int(found[1], 16) for found in _matches(path) if not found[2])


def _matches(path: Path) -> Iterable[re.Match[str]]:
    return filter(None, map(_SEGMENT.fullmatch, os.listdir(path)))


class _Format(msgspec.Struct):
    format: str
    version: int
    run: int = 0


class Directory:
    """An open, locked directory; ``run`` is a number that no earlier holder had."""

    def __init__(self, path: Path) -> None:
        """Makes the directory if need be. Blocks for a few fsyncs.

        Raises ``DirectoryLocked``, ``VersionError`` or ``DirectoryError``.
        """
        self.path = path
        try:
            missing = [folder for folder in (path, *path.parents) if not folder.exists()]
            private_directory(path)
            path.chmod(0o700)
            for folder in missing:
                _sync(folder.parent)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise DirectoryError(path, error) from error
        self._lock: DirectoryLock | None = None
        try:
            self._lock = DirectoryLock(path)
            self.run = self._last_run() + 1
            self._begun = False
            try:
                self.begin_run()
            except OSError as error:
                # What is there can be read, and let go, on a full disk as well: that may make room.
                if not is_full(error):
                    raise
        except OSError as error:
            self.close()
            raise DirectoryError(path, error) from error
        except BaseException:
            self.close()
            raise

    def begin_run(self) -> None:
        """Makes the number of the run durable, if it is not yet: to be called before it is used. Raises ``OSError``."""
        if self._begun:
            return
        new = self.path / "format.new"
        with open(new, "wb", opener=_private) as file:
            file.write(msgspec.json.encode(_Format(_FORMAT, VERSION, self.run)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.rename(self.path / "format")
        self.sync()
        self._begun = True

    def sync(self) -> None:
        """Makes the names in it durable. Blocks; raises ``OSError``."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.close()
        if self._fd >= 0:
            os.close(self._fd)
        self._lock, self._fd = None, -1

    def _last_run(self) -> int:
        last = max((int(found[1], 16) >> RUN_BITS for found in _matches(self.path)), default=0)
        file = self.path / "format"
        try:
            found = msgspec.json.decode(file.read_bytes(), type=_Format)
        except FileNotFoundError:
            self._check_segments()
        except msgspec.MsgspecError:
            self._check_segments()
            set_aside(file)
        else:
            if (found.format, found.version) != (_FORMAT, VERSION):
                version = found.version if found.format == _FORMAT else f"{found.version} of {found.format!r}"
                raise VersionError(self.path, version, VERSION)
            last = max(last, found.run)
        return last

    def _check_segments(self) -> None:
        """Without the file ``format``, segments say of which version the directory is."""
        for number in segment_numbers(self.path):
            with open(self.path / segment_name(number), "rb") as file:
                try:
                    read_header(file.fileno())
                except HeaderVersionError as error:
                    raise VersionError(self.path, error.found, VERSION) from None
                except HeaderError:
                    continue


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
