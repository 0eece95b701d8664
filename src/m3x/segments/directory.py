"""The directory of a log: its lock, its format version, its runs, the names in it.

``lock``              holds the lock (flock) and says who has it: pid and time, JSON
``format``            JSON: name and version of the format, and the number of the last run
``{number}.segment``  a segment; ``number`` has 16 hexadecimal digits
``{name}.cursor``     a cursor
``….damaged``         what could not be read, set aside
anything else         is not ours and is left alone

The lock belongs to the process: a child that was forked without ``exec`` gives its copy up at once, or it would hold the directory beyond
the death of its parent. Such a child must leave the log alone.
"""

import contextlib
import fcntl
import os
import re
import time
import weakref
from collections.abc import Iterable
from pathlib import Path

import msgspec

from m3x.segments.errors import DirectoryError, DirectoryLocked, VersionError, is_full
from m3x.segments.format import VERSION, HeaderError, HeaderVersionError
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


class _Holder(msgspec.Struct):
    pid: int
    since: str


class Directory:
    """An open, locked directory; ``run`` is a number that no earlier holder had."""

    def __init__(self, path: Path) -> None:
        """Makes the directory if need be. Blocks for a few fsyncs.

        Raises ``DirectoryLocked``, ``VersionError`` or ``DirectoryError``.
        """
        self.path = path
        try:
            missing = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.chmod(0o700)
            for folder in missing:
                _sync(folder.parent)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise DirectoryError(path, error) from error
        self._lock = -1
        try:
            self._lock = self._take_lock()
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
        _held.discard(self)
        if self._lock >= 0:
            # Said expressly, as a child that was just forked may still have its copy.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        for fd in (self._lock, self._fd):
            if fd >= 0:
                os.close(fd)
        self._lock = self._fd = -1

    def _take_lock(self) -> int:
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            written = os.pread(lock, 1000, 0)
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise DirectoryLocked(self.path, _name_of_holder(written)) from None
            raise
        _held.add(self)
        holder = _Holder(os.getpid(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        # On a full disk the holder may have to remain without a name.
        with contextlib.suppress(OSError):
            os.ftruncate(lock, os.pwrite(lock, msgspec.json.encode(holder) + b"\n", 0))
        return lock

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

    def forked(self) -> None:
        """In a forked child: forgets the lock, which stays with the parent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


_held: weakref.WeakSet[Directory] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for directory in list(_held):
        directory.forked()


os.register_at_fork(after_in_child=_leave_to_parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _name_of_holder(written: bytes) -> str:
    with contextlib.suppress(msgspec.MsgspecError):
        holder = msgspec.json.decode(written, type=_Holder)
        return f"process {holder.pid} (since {holder.since})"
    return "another process"
