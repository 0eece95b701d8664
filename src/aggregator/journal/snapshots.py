"""Snapshots: what the engine of a worker was at a place of its journal, so that what is before need not be replayed, nor kept.

A snapshot is a folder ``snapshot-{number}`` beside the segments, and is itself a log of records (``m3x.segments``): a ``Head``, a
``Piece`` for each piece of a table (``aggregator.engine.snapshot``), an ``End``. Its name ends with ``.part`` until all of it is there.
Columns have names and dtypes of their own; readers leave out tables and columns that they do not know, and a release that cannot do
without one that an older release does not write has another ``FORMAT`` and reads both.
"""

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from aggregator.engine.snapshot import Table
from m3x.segments import Part, SegmentLog, SyncPolicy, read_only
from m3x.segments.directory import set_aside

__all__ = ["Head", "Snapshot", "SnapshotError", "newest", "remove_others", "write"]

FORMAT = 1
_LENGTH = struct.Struct("<I")
_PREFIX = "snapshot-"
_PART = ".part"
_SEGMENT_BYTES = 1 << 40


class SnapshotError(Exception):
    """A snapshot that is not whole, or of a format that this release does not read."""


class _Record(msgspec.Struct, frozen=True):
    """Base of all headers."""


class Head(_Record, frozen=True, tag="head"):
    """What there is once."""

    format: int
    segment: int
    """Where in the journal to go on: what is before is in here."""
    offset: int
    now_ns: int
    """The newest stamp."""
    front: int
    seq: int
    settled: int
    """As ``Sessions.last``."""
    once: dict[str, int]


class Piece(_Record, frozen=True, tag="piece"):
    """A piece of a table; behind it the columns, one after the other."""

    table: str
    columns: list[tuple[str, str, int, bool]]
    """Name, dtype, length, and whether all are the same: then only the first one is there."""


class End(_Record, frozen=True, tag="end"):
    """All of it is there."""

    pieces: int


_decode = msgspec.msgpack.Decoder(Head | Piece | End).decode
_encode = msgspec.msgpack.Encoder().encode


def _parts(header: _Record) -> list[Part]:
    head = _encode(header)
    return [_LENGTH.pack(len(head)) + head]


def write(folder: Path, number: int, head: Head, tables: Iterator[Table], sync: SyncPolicy) -> Path:
    """Writes a snapshot into ``folder``. Raises ``SegmentError`` or ``OSError``; what was written is gone then."""
    path = folder / f"{_PREFIX}{number:08d}"
    part = path.with_name(path.name + _PART)
    shutil.rmtree(part, ignore_errors=True)
    pieces = 0
    try:
        with SegmentLog(part, sync="os" if sync == "os" else "always", segment_bytes=_SEGMENT_BYTES) as log:
            log.append(_parts(head))
            for table in tables:
                columns, arrays = [], []
                for name, column in table.columns.items():
                    # Nearly all that are not the same show it at their ends.
                    same = len(column) > 1 and column[0] == column[-1] and bool((column == column[0]).all())
                    columns.append((name, column.dtype.str, len(column), bool(same)))
                    arrays.append(np.ascontiguousarray(column[:1] if same else column).view(np.uint8))
                log.append([*_parts(Piece(table.name, columns)), *arrays])
                pieces += 1
            log.append(_parts(End(pieces)))
            log.flush()
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return path


class Snapshot:
    """A snapshot that is whole. Raises ``SnapshotError`` for one that is not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = int(path.name.removeprefix(_PREFIX))
        self.head: Head
        self.size_bytes = sum(file.stat().st_size for file in path.iterdir())
        pieces = 0
        last: Head | Piece | End | None = None
        for header, _ in self._records():
            if last is None:
                if not isinstance(header, Head) or header.format != FORMAT:
                    raise SnapshotError(f"{path} has no head of format {FORMAT}")
                self.head = header
            pieces += isinstance(header, Piece)
            last = header
        if not isinstance(last, End) or last.pieces != pieces:
            raise SnapshotError(f"{path} is not whole")

    def tables(self) -> Iterator[Table]:
        """The pieces of the tables."""
        for header, data in self._records():
            if not isinstance(header, Piece):
                continue
            columns, at = {}, 0
            for name, kind, count, same in header.columns:
                found = np.frombuffer(data, np.dtype(kind), 1 if same else count, at)
                columns[name] = np.full(count, found[0]) if same else found.copy()
                at += found.nbytes
            yield Table(header.table, columns)

    def set_aside(self) -> str:
        """Renames it; returns its new name."""
        return set_aside(self.path)

    def _records(self) -> Iterator[tuple[Head | Piece | End, memoryview]]:
        reader = read_only(self.path)
        try:
            for record in reader:
                if record.lost:
                    raise SnapshotError(f"{self.path} is damaged")
                end = _LENGTH.size + _LENGTH.unpack_from(record.data)[0]
                yield _decode(record.data[_LENGTH.size : end]), record.data[end:]
        except (OSError, struct.error, msgspec.MsgspecError) as error:
            raise SnapshotError(f"{self.path} cannot be read: {error}") from error
        finally:
            reader.close()


def newest(folder: Path) -> tuple[Snapshot | None, list[str]]:
    """The newest snapshot that is whole, and what is wrong with newer ones: those are set aside."""
    problems: list[str] = []
    for path in reversed(_folders(folder)):
        try:
            return Snapshot(path), problems
        except SnapshotError as error:
            problems.append(f"{error}; it is now {set_aside(path)}")
    return None, problems


def remove_others(folder: Path, number: int) -> None:
    """Removes older snapshots than this one, and what remained of those that were never complete."""
    for path in _folders(folder):
        if int(path.name.removeprefix(_PREFIX)) < number:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{_PREFIX}*{_PART}"):
        shutil.rmtree(path, ignore_errors=True)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal())
