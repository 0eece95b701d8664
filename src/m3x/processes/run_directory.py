"""The private directory of a service that has child processes: their sockets and option files.

It is removed at the end. After a ``kill -9`` it stays; the next service that starts in the same place removes it. One that
lives holds a lock on the file ``lock`` in its directory, which the kernel releases with the process; the file gets its name only once it is
locked, so a directory with an unlocked one belongs to nobody.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from m3x import log
from m3x.config import ConfigError
from m3x.private import private_directory

__all__ = ["run_directory"]

_log = log.logger(__name__)

_LOCK = "lock"


@contextlib.contextmanager
def run_directory(configured: str, *, key: str, prefix: str, longest: int) -> Iterator[Path]:
    """A fresh directory below ``configured`` (empty: the system's place for such, if its name has at most ``longest`` characters: names of
    sockets are short), removed at the end. ``prefix``: how the names of this service's directories begin.

    Raises ``ConfigError`` about ``key`` where it cannot be made.
    """
    parent = Path(configured).resolve() if configured else Path(tempfile.gettempdir())
    if not configured and len(str(parent)) > longest:
        parent = Path("/tmp")
    try:
        private_directory(parent)
    except OSError as error:
        raise ConfigError([f"{key}: {parent} cannot be made: {error.strerror}"]) from error
    _remove_stale(parent, prefix)
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with _locked(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fresh = path / f"{_LOCK}.new"
    with fresh.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fresh.rename(path / _LOCK)
        yield


def _remove_stale(parent: Path, prefix: str) -> None:
    for path in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and _is_nobodys(path):
                shutil.rmtree(path)
                _log.info("removed the directory of a process that was killed", path=str(path))


def _is_nobodys(path: Path) -> bool:
    """Raises ``OSError`` for a directory without the lock: somebody else's, or only just made."""
    with (path / _LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
