"""The DuckDB file: its tables and the statements that touch them. Blocking; called from worker threads only.

``series(number, id)``: encoded sorted tags. ``policies(number, name)``. ``points_<policy>(series, time_ms, value, nan, seq)``:
appended only; of two rows with the same series and time the larger ``seq`` holds. ``value`` is NULL where ``nan`` is the bit
pattern of a NaN: DuckDB takes a NaN that comes from numpy for a missing value, and Prometheus' staleness marker is one particular
NaN.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from coordinator.store.errors import QueryTooLargeError, StoreError
from m3x.private import private_directory

__all__ = ["Database", "Fetched", "Rows"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS series (number UINTEGER NOT NULL, id BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS policies (number USMALLINT NOT NULL, name VARCHAR NOT NULL);
"""
_POINTS = """
CREATE TABLE IF NOT EXISTS points_{number} (
    series UINTEGER NOT NULL, time_ms BIGINT NOT NULL, value DOUBLE, nan UBIGINT NOT NULL, seq BIGINT NOT NULL
)
"""


@dataclass(slots=True)
class Rows:
    """Points of one policy, to be written. All arrays have the same length."""

    policy: int
    series: NDArray[np.uint32]
    time_ms: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(slots=True)
class Fetched:
    """Points as they come from a table, in no order."""

    series: NDArray[np.uint32]
    time_ms: NDArray[np.int64]
    bits: NDArray[np.uint64]
    """IEEE-754 patterns of the values."""
    seq: NDArray[np.int64]


class Database:
    """One process at a time may have the file open. Methods raise ``StoreError``."""

    def __init__(self, path: Path, memory_bytes: int, threads: int) -> None:
        self._path = path
        self._config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_bytes >> 20}MiB",
            "threads": str(threads),
        }
        self._guard = threading.Lock()
        self._open()
        self._seq = 0
        self._policies: dict[str, int] = {}
        try:
            self._connection.execute(_SCHEMA)
            for number, name in self._connection.execute("SELECT number, name FROM policies").fetchall():
                self._policies[name] = number
                found = self._connection.execute(f"SELECT max(seq) FROM points_{number}").fetchone()
                if found is not None and found[0] is not None:
                    self._seq = max(self._seq, found[0] + 1)
        except duckdb.Error as error:
            self._connection.close()
            raise StoreError(f"{path} is not a store of this service: {error}") from error

    def _open(self) -> None:
        try:
            private_directory(self._path.parent)
            self._connection = duckdb.connect(str(self._path), config=self._config)
            self._source = self._connection.cursor()
        except (duckdb.Error, OSError) as error:
            raise StoreError(f"cannot open the store {self._path}: {error}") from error

    def policy(self, name: str) -> int:
        """The number of a policy; its table is made when it is new."""
        if name not in self._policies:
            number = max(self._policies.values(), default=-1) + 1
            with _Transaction(self._connection):
                self._connection.execute(_POINTS.format(number=number))
                self._connection.execute("INSERT INTO policies VALUES (?, ?)", [number, name])
            self._policies[name] = number
        return self._policies[name]

    def policies(self) -> dict[str, int]:
        """Every policy that was ever configured."""
        return dict(self._policies)

    def load_series(self) -> tuple[NDArray[np.uint32], list[bytes]]:
        """Number and id of every series, by number."""
        try:
            rows = self._connection.execute("SELECT number, id FROM series ORDER BY number").fetchnumpy()
        except duckdb.Error as error:
            raise StoreError(f"cannot read the series of {self._path}: {error}") from error
        return np.ma.getdata(rows["number"]), [bytes(data) for data in rows["id"]]

    def commit(self, series: tuple[NDArray[np.uint32], list[bytes]], parts: Sequence[Rows]) -> None:
        """Writes new series (numbers and ids) and points in one transaction: all or nothing, and on disk when it returns."""
        numbers, ids = series
        seq = self._seq
        try:
            with _Transaction(self._connection):
                if ids:
                    _insert_series(self._connection, numbers, ids)
                for rows in parts:
                    _insert_points(self._connection, rows, seq)
                    seq += len(rows.series)
        except duckdb.FatalException as error:
            # DuckDB refuses everything on a connection after such an error; what was committed is in the file.
            with self._guard:
                self._source.close()
                self._connection.close()
                self._open()
            raise StoreError(f"cannot write to {self._path}, opened it again: {error}") from error
        except duckdb.Error as error:
            raise StoreError(f"cannot write to {self._path}: {error}") from error
        self._seq = seq

    def fetch(self, policy: int, wanted: NDArray[np.uint32] | None, start_ms: int, end_ms: int, limit: int) -> Fetched:
        """Points of ``wanted`` series (None: of all) with start ≤ time ≤ end. May run in several threads beside ``commit``."""
        what = "series, time_ms, coalesce(value, 0) AS value, nan, seq"
        columns = self._read(policy, what, wanted, start_ms, end_ms, f"LIMIT {limit + 1}")
        if len(columns["series"]) > limit:
            raise QueryTooLargeError(
                f"the query reads more than {limit} points; ask for fewer series or a shorter range"
            )
        bits = columns["value"].view(np.uint64)
        return Fetched(
            series=columns["series"],
            time_ms=columns["time_ms"],
            bits=np.where(columns["nan"] != 0, columns["nan"], bits),
            seq=columns["seq"],
        )

    def present(self, policy: int, wanted: NDArray[np.uint32] | None, start_ms: int, end_ms: int) -> NDArray[np.uint32]:
        """Those of ``wanted`` series (None: of all) with a point with start ≤ time ≤ end, in no order. For any thread, as ``fetch``."""
        found: NDArray[np.uint32] = self._read(policy, "DISTINCT series", wanted, start_ms, end_ms)["series"]
        return found

    def _read(
        self, policy: int, what: str, wanted: NDArray[np.uint32] | None, start_ms: int, end_ms: int, more: str = ""
    ) -> dict[str, NDArray[Any]]:
        """Columns of the points of some series in a range."""
        query = f"SELECT {what} FROM points_{policy} WHERE time_ms BETWEEN ? AND ?"
        try:
            with self._cursor() as cursor:
                if wanted is not None:
                    cursor.register("wanted", {"number": wanted})
                    query += " AND series IN (SELECT number FROM wanted)"
                found = cursor.execute(f"{query} {more}", [start_ms, end_ms]).fetchnumpy()
        except duckdb.Error as error:
            raise StoreError(f"cannot read from {self._path}: {error}") from error
        return {name: np.ma.getdata(column) for name, column in found.items()}

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        # A connection is for one thread at a time; this one only makes others.
        with self._guard:
            return self._source.cursor()

    def expire(self, policy: int, before_ms: int) -> int:
        """Deletes the points of a policy that are older than ``before_ms``; returns how many."""
        try:
            deleted = self._connection.execute(f"DELETE FROM points_{policy} WHERE time_ms < ?", [before_ms]).fetchone()
        except duckdb.Error as error:
            raise StoreError(f"cannot delete old points from {self._path}: {error}") from error
        return int(deleted[0]) if deleted else 0

    def forget_series(self, numbers: NDArray[np.uint32]) -> None:
        """Deletes series; their points have gone before."""
        gone = {"number": numbers}
        try:
            self._connection.register("gone", gone)
            self._connection.execute("DELETE FROM series WHERE number IN (SELECT number FROM gone)")
            self._connection.unregister("gone")
        except duckdb.Error as error:
            raise StoreError(f"cannot delete old series from {self._path}: {error}") from error

    def close(self) -> None:
        """Writes the log into the file and closes it."""
        self._source.close()
        self._connection.close()
        del self._source, self._connection


class _Transaction:
    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.begin()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._connection.commit()
        elif not issubclass(kind, duckdb.FatalException):
            self._connection.rollback()


def _insert_series(connection: duckdb.DuckDBPyConnection, numbers: NDArray[np.uint32], ids: list[bytes]) -> None:
    column = np.empty(len(ids), object)
    column[:] = ids
    connection.register("fresh", {"number": numbers, "id": column})
    connection.execute("INSERT INTO series SELECT number, id FROM fresh")
    connection.unregister("fresh")


def _insert_points(connection: duckdb.DuckDBPyConnection, rows: Rows, seq: int) -> None:
    columns = {
        "series": rows.series,
        "time_ms": rows.time_ms,
        "value": rows.values,
        "nan": np.where(np.isnan(rows.values), rows.values.view(np.uint64), np.uint64(0)),
        "seq": np.arange(seq, seq + len(rows.series), dtype=np.int64),
    }
    connection.register("fresh", columns)
    connection.execute(f"INSERT INTO points_{rows.policy} SELECT series, time_ms, value, nan, seq FROM fresh")
    connection.unregister("fresh")
