"""The store of one process, for tests: several clients on one server behave like several processes on one KV."""

import sqlite3

from m3cluster.kv.rules import Tables
from m3cluster.kv.sqlite.store import SQLiteStore
from m3x.clock import boot_ns

__all__ = ["MemoryServer"]


class MemoryServer:
    """Holds keys and leases as long as it lives; ``client`` gives stores on it."""

    def __init__(self) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._tables = Tables(connection, "memory", boot_ns)
        self._clients: set[SQLiteStore] = set()

    def client(self) -> SQLiteStore:
        """A new client. Call it inside a running loop."""
        return SQLiteStore(self._tables, None, self._clients, "memory")

    def close(self) -> None:
        """Forgets everything."""
        self._tables.close()
