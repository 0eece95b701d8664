"""The private directory of an instance: its sockets and the option files of its processes.

It is removed at the end. After a ``kill -9`` it stays; the next instance that starts in the same place removes it. An instance that
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

from aggregator.config import LONGEST_RUN_DIRECTORY
from m3x import log
from m3x.config import ConfigError

__all__ = ["run_directory"]

_log = log.logger(__name__)

_PREFIX = "m3agg-"
_LOCK = "lock"


@contextlib.contextmanager
def run_directory(configured: str) -> Iterator[Path]:
    """A fresh directory below ``configured`` (empty: the system's place for such), removed at the end.

    Raises ``ConfigError`` where it cannot be made.
    """
    parent = Path(configured).resolve() if configured else Path(tempfile.gettempdir())
    if not configured and len(str(parent)) > LONGEST_RUN_DIRECTORY:
        parent = Path("/tmp")
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"instance.runDirectory: {parent} cannot be made: {error.strerror}"]) from error
    _remove_stale(parent)
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
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


def _remove_stale(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and _is_nobodys(path):
                shutil.rmtree(path)
                _log.info("removed the directory of an instance that was killed", path=str(path))


def _is_nobodys(path: Path) -> bool:
    """Raises ``OSError`` for a directory without the lock: somebody else's, or only just made."""
    with (path / _LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
