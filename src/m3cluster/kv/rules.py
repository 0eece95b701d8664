"""The key-value rules on SQLite tables: versions, revisions, leases, conditions. No threads, no loop; each method is one transaction.

``kv``       key → value, version, create and mod revision, lease
``lease``    id → deadline on ``CLOCK_BOOTTIME`` and the boot it counts in, so that a reboot ends all leases
``meta``     the revision, which grows with every change of keys
``history``  the last values of keys that were overwritten, until the key is deleted

Leases that are over vanish, with their keys, in front of whatever is asked next: nobody ever reads a key of a dead lease.
"""

import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from m3cluster.kv.refusals import condition_failed, lease_ended, no_version, not_found, version_mismatch
from m3cluster.kv.store import KVError, NotKeptError, Value

__all__ = ["UNKNOWN", "Tables"]

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (
    key TEXT PRIMARY KEY, data BLOB NOT NULL, version INTEGER NOT NULL,
    create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL, lease INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS kv_lease ON kv (lease) WHERE lease IS NOT NULL;
CREATE TABLE IF NOT EXISTS lease (
    id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, deadline_ns INTEGER NOT NULL, ttl_ns INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS meta (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL);
INSERT OR IGNORE INTO meta VALUES (1, 1);
"""
_HISTORY = """
CREATE TABLE IF NOT EXISTS history (
    key TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL, create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL,
    PRIMARY KEY (key, version)
) WITHOUT ROWID;
"""
_VERSIONS_KEPT = 100
"""Of each key, besides the current one."""
_COLUMNS = "data, version, create_revision, mod_revision"
_ALIVE = "id = ? AND boot_id = ? AND deadline_ns > ?"

_NEVER_NS = (1 << 63) - 1

UNKNOWN = -1
"""In ``changes``: the caller has not read the key yet."""


class Tables:
    """The rules on one connection (in autocommit mode). Used by one thread at a time. ``clock`` is ``CLOCK_BOOTTIME`` in nanoseconds.

    Methods raise what ``Store`` says, and ``sqlite3.Error``.
    """

    def __init__(self, connection: sqlite3.Connection, boot: str, clock: Callable[[], int]) -> None:
        self._db = connection
        self._boot = boot
        self._clock = clock
        self._commits = 0
        self.next_end_ns = 0
        """When the next lease ends, as the last call of ``changes`` found it."""
        self._prepare()

    def _prepare(self) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, _SCHEMA_VERSION):
            raise KVError(f"the file has layout {found}, this release reads layout {_SCHEMA_VERSION}; use another file")
        if not found:
            # One transaction: of several processes that open a new file at once all find it complete.
            self._db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {_SCHEMA_VERSION};COMMIT;")
        # Files of earlier releases have none.
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'history'").fetchone():
            self._db.executescript(_HISTORY)

    def close(self) -> None:
        """Closes the connection."""
        self._db.close()

    @contextlib.contextmanager
    def _change(self) -> Iterator[int]:
        """A write transaction behind the removal of what has expired; yields the time. Nothing of it stays if the body raises."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            # Read behind BEGIN, which may have waited: a lease that ran out meanwhile is over.
            now_ns = self._clock()
            self._expire(now_ns)
            yield now_ns
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._commits += 1

    def _fresh(self) -> None:
        """Removes what has expired, if anything has; done in front of every read."""
        over = "SELECT 1 FROM lease WHERE deadline_ns <= ? OR boot_id <> ? LIMIT 1"
        if self._db.execute(over, (self._clock(), self._boot)).fetchone():
            with self._change():
                pass

    def _expire(self, now_ns: int) -> None:
        over = [
            row[0]
            for row in self._db.execute(
                "SELECT id FROM lease WHERE deadline_ns <= ? OR boot_id <> ?", (now_ns, self._boot)
            )
        ]
        for lease in over:
            self._end_lease(lease)

    def _end_lease(self, lease: int) -> None:
        self._db.execute("DELETE FROM lease WHERE id = ?", (lease,))
        if self._db.execute("DELETE FROM kv WHERE lease = ?", (lease,)).rowcount:
            self._next_revision()

    def _next_revision(self) -> int:
        self._db.execute("UPDATE meta SET revision = revision + 1")
        return int(self._db.execute("SELECT revision FROM meta").fetchone()[0])

    def _find(self, key: str) -> Value | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM kv WHERE key = ?", (key,)).fetchone()
        return None if row is None else Value(bytes(row[0]), *row[1:])

    def _write(self, key: str, data: bytes, old: Value | None, lease: int | None = None) -> Value:
        revision = self._next_revision()
        version, created = (old.version + 1, old.create_revision) if old else (1, revision)
        if old is not None:
            past = (key, old.version, old.data, old.create_revision, old.mod_revision)
            self._db.execute("INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, ?)", past)
            self._db.execute("DELETE FROM history WHERE key = ? AND version < ?", (key, version - _VERSIONS_KEPT))
        row = (key, data, version, created, revision, lease)
        self._db.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?, ?, ?)", row)
        return Value(data, version, created, revision)

    def _remove(self, key: str) -> None:
        self._db.execute("DELETE FROM kv WHERE key = ?", (key,))
        self._db.execute("DELETE FROM history WHERE key = ?", (key,))
        self._next_revision()

    def get(self, key: str) -> Value:
        """The value of a key."""
        self._fresh()
        value = self._find(key)
        if value is None:
            raise not_found(key)
        return value

    def get_version(self, key: str, version: int) -> Value:
        """The value at a version since the key was created."""
        value = self.get(key)
        if version == value.version:
            return value
        if not 0 < version < value.version:
            raise no_version(key, version, value.version)
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM history WHERE key = ? AND version = ? AND create_revision = ?",
            (key, version, value.create_revision),
        ).fetchone()
        if row is None:
            raise NotKeptError(f"version {version} of {key} is not kept: only the last {_VERSIONS_KEPT} are")
        return Value(bytes(row[0]), *row[1:])

    def set(self, key: str, data: bytes) -> int:
        """Unconditional write; a lease of the key no longer holds it."""
        with self._change():
            return self._write(key, data, self._find(key)).version

    def check_and_set(self, key: str, version: int, data: bytes) -> int:
        """Write at an expected version."""
        with self._change():
            old = self._find(key)
            if (old.version if old else 0) != version:
                raise version_mismatch(key, version, old)
            return self._write(key, data, old).version

    def put_if(self, key: str, data: bytes, other_key: str, create_revision: int) -> int:
        """Write under the condition that another key still is what it was."""
        with self._change():
            other = self._find(other_key)
            if other is None or other.create_revision != create_revision:
                raise condition_failed(key, other_key, create_revision, other)
            return self._write(key, data, self._find(key)).version

    def delete(self, key: str) -> Value:
        """Delete; returns the last value."""
        with self._change():
            old = self._find(key)
            if old is None:
                raise not_found(key)
            self._remove(key)
            return old

    def delete_if(self, key: str, create_revision: int) -> bool:
        """Delete at an expected create revision."""
        with self._change():
            old = self._find(key)
            if old is None or old.create_revision != create_revision:
                return False
            self._remove(key)
            return True

    def keys(self, prefix: str) -> list[tuple[str, Value]]:
        """Keys with a prefix in order of create revision."""
        self._fresh()
        rows: list[Any] = self._db.execute(
            f"SELECT key, {_COLUMNS} FROM kv WHERE key >= ?1 AND substr(key, 1, length(?1)) = ?1 ORDER BY create_revision",
            (prefix,),
        ).fetchall()
        return [(row[0], Value(bytes(row[1]), *row[2:])) for row in rows]

    def grant(self, ttl_ns: int) -> int:
        """A new lease; returns its id, a random positive 63-bit number."""
        with self._change() as now_ns:
            lease = secrets.randbits(62) | 1 << 62
            self._db.execute("INSERT INTO lease VALUES (?, ?, ?, ?)", (lease, self._boot, now_ns + ttl_ns, ttl_ns))
            return lease

    def keep_alive(self, lease: int) -> bool:
        """Moves the lease's deadline to now + TTL; False if it is over."""
        with self._change() as now_ns:
            moved = self._db.execute(
                f"UPDATE lease SET deadline_ns = ttl_ns + ? WHERE {_ALIVE}",
                (now_ns, lease, self._boot, now_ns),
            )
            return moved.rowcount == 1

    def revoke(self, lease: int) -> None:
        """Ends the lease; its keys vanish."""
        with self._change():
            self._end_lease(lease)

    def put_with_lease(self, key: str, data: bytes, lease: int) -> Value:
        """Creates a key bound to a lease unless the key exists."""
        with self._change() as now_ns:
            alive = self._db.execute(f"SELECT 1 FROM lease WHERE {_ALIVE}", (lease, self._boot, now_ns)).fetchone()
            if not alive:
                raise lease_ended(key, lease)
            return self._find(key) or self._write(key, data, None, lease)

    def changes(self, known: dict[str, int], token: tuple[int, int]) -> tuple[dict[str, Value | None], tuple[int, int]]:
        """What has changed of the keys in ``known`` (key → mod revision that the caller has; 0: missing; ``UNKNOWN``).

        ``token`` is what the last call returned: as long as nobody has written since and no key is unknown, nothing is read.
        """
        self._fresh()
        now = (int(self._db.execute("PRAGMA data_version").fetchone()[0]), self._commits)
        ends = self._db.execute("SELECT min(deadline_ns) FROM lease").fetchone()[0]
        self.next_end_ns = _NEVER_NS if ends is None else int(ends)
        if now == token and UNKNOWN not in known.values():
            return {}, now
        found = {key: self._find(key) for key in known}
        news = {key: value for key, value in found.items() if (value.mod_revision if value else 0) != known[key]}
        return news, now
