"""The store of one machine: an SQLite file in WAL mode that several processes share.

* Every write is one transaction, synced to the disk: kill -9 of any process, or of all, loses nothing that was answered.
* SQLite runs on one worker thread per client, so the event loop never waits for the disk or for another process's lock.
* Who has written wakes the others (``bell``), which then ask ``PRAGMA data_version``. Once a second they ask without that, but for the
  times at which the log of writes (WAL) is as it was: a writer may be killed before it rings. Where nobody can be woken it is ten times.
* A process that is stopped in the middle of a write (SIGSTOP within that millisecond) holds the lock: other clients' calls then raise
  ``KVError`` after ``BUSY_S``, and leases run out rather than being held by two.
"""

import asyncio
import os
import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from m3cluster.kv.rules import Tables
from m3cluster.kv.sqlite.bell import Bell
from m3cluster.kv.sqlite.store import SQLiteStore
from m3cluster.kv.store import KVError
from m3x.clock import boot_ns
from m3x.private import private_directory
from m3x.process import boot_id

__all__ = ["BUSY_S", "open_embedded"]

BUSY_S = 5.0
"""How long a call waits for another process's write."""
_SAME_TIME_NS = 100_000_000
"""Writes closer to each other than this may have the same time: the system's clock for files ticks some hundred times a second."""

_clients: dict[str, set[SQLiteStore]] = {}
"""Clients of this process by file: they tell each other of writes without waiting for the next poll."""


async def open_embedded(path: str | Path) -> SQLiteStore:
    """A client of the database in file ``path``; file and folders are created if need be.

    Raises ``KVError`` naming the file and the cause if it cannot be used.
    """
    file = _absolute(path)
    executor = ThreadPoolExecutor(1, thread_name_prefix="kv")
    try:
        tables = await asyncio.get_running_loop().run_in_executor(executor, _connect, file)
    except BaseException:
        executor.shutdown(wait=False)
        raise
    wal = f"{file}-wal"
    peers = _clients.setdefault(str(file), set())
    return SQLiteStore(tables, executor, peers, str(file), lambda: _stamp(wal), Bell(file))


def _stamp(wal: str) -> tuple[int, ...] | None:
    """Changes with every write; None where the next write may have the time of the last one."""
    try:
        found = os.stat(wal)
    except OSError:
        return None
    if abs(time.time_ns() - found.st_mtime_ns) < _SAME_TIME_NS:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _absolute(path: str | Path) -> Path:
    return Path(path).resolve()


def _connect(file: Path) -> Tables:
    try:
        private_directory(file.parent)
        connection = sqlite3.connect(file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise KVError(f"cannot open the embedded KV {file}: {error}; its folder must exist and be writable") from error
    try:
        _enter_wal_mode(connection)
        connection.execute("PRAGMA synchronous = FULL")
        return Tables(connection, boot_id(), boot_ns)
    except (sqlite3.Error, KVError) as error:
        connection.close()
        raise KVError(f"cannot use the embedded KV {file}: {error}") from error


def _enter_wal_mode(connection: sqlite3.Connection) -> None:
    """Switching the mode needs the file alone, and SQLite does not wait for that by itself."""
    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(random.uniform(0.005, 0.05))
