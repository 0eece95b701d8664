"""Python loads this by itself where the folder is in PYTHONPATH: notes every fsync of the process and of those that are forked from it.

A line of JSON in the file that ``M3CRASH_SYNCED`` names for each one that succeeded: inode and what was durable then (the size when it was
called, or a directory's names and inodes); and one for each inode that a file does not have any more, as another one may get it.
"""

import json
import os
import stat
import time
from collections.abc import Callable
from typing import Any


def _note(notes: str, **what: Any) -> None:
    # Opened each time: a process that is forked may close what it does not know.
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.write(file, json.dumps(what).encode() + b"\n")
    os.close(file)


def _noting(sync: Callable[[Any], None], notes: str) -> Any:
    def call(fd: Any) -> None:
        found = os.fstat(fd)
        names = None
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(fd) as entries:
                names = {entry.name: entry.inode() for entry in entries}
        began = time.monotonic()
        sync(fd)
        took = time.monotonic() - began
        _note(notes, inode=found.st_ino, size=found.st_size, names=names, took_s=took)

    return call


def _telling(remove: Callable[..., None], notes: str, which: int) -> Any:
    """``which`` argument names the file that is gone afterwards."""

    def call(*paths: Any, **more: Any) -> None:
        try:
            inode = os.stat(paths[which], dir_fd=more.get("dir_fd"), follow_symlinks=False).st_ino
        except OSError:
            inode = 0
        remove(*paths, **more)
        if inode:
            _note(notes, gone=inode)

    return call


if _notes := os.environ.get("M3CRASH_SYNCED"):
    os.fsync = _noting(os.fsync, _notes)
    os.fdatasync = _noting(os.fdatasync, _notes)
    os.unlink = _telling(os.unlink, _notes, 0)
    os.remove = _telling(os.remove, _notes, 0)
    os.rename = _telling(os.rename, _notes, 1)
    os.replace = _telling(os.replace, _notes, 1)
