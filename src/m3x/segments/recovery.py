"""Puts a directory in order when it is opened: what is torn is cut off, what cannot be read is set aside, what is missing is told.

Only the last segment can be torn by the death of its process, and only it is read to its end here (and the one before it, if it turns out
to have no record); damage elsewhere is found, and told, when it is read.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from m3x.segments.directory import RUN_BITS, Directory, segment_name, segment_numbers, set_aside
from m3x.segments.format import HEAD_BYTES, HeaderError, SegmentHeader, Short, frame_at
from m3x.segments.scan import CHUNK_BYTES, Damage, SegmentScan, read_header

__all__ = ["Recovered", "Segment", "recover"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as its log knows it."""

    header: SegmentHeader
    size: int
    """Bytes of its file."""
    stop: int
    """The sequence number behind its last record."""
    complete: bool = True
    """Nothing is appended to it any more."""

    @property
    def number(self) -> int:
        """Its number."""
        return self.header.number

    @property
    def records(self) -> int:
        """How many records were appended to it."""
        return self.stop - self.header.number


@dataclass
class Recovered:
    """What was found."""

    segments: list[Segment] = field(default_factory=list)
    """In order."""
    damage: list[Damage] = field(default_factory=list)
    """What was cut off, set aside or missing."""


def recover(directory: Directory) -> Recovered:
    """Blocks while the last segment is read. Raises ``OSError``."""
    found = Recovered()
    headers = list(_headers(directory, found))
    last, damage = _last(directory, headers)
    for header, following in itertools.zip_longest(headers, headers[1:]):
        if following is None:
            assert last is not None
            segment = last
        else:
            with open(directory.path / segment_name(header.number), "rb") as file:
                told = following.previous == header.number
                stop = following.previous_stop if told else _read_through(file.fileno(), header).stop
                segment = Segment(header, os.fstat(file.fileno()).st_size, stop)
            if following.previous > header.number:
                found.damage.append(_missing(segment, following))
        found.segments.append(segment)
    found.damage += damage
    return found


def _last(directory: Directory, headers: list[SegmentHeader]) -> tuple[Segment | None, list[Damage]]:
    """The last segment that has records, with what no record follows cut off; those behind it leave ``headers`` and the directory.

    Also what is wrong with them. A power cut may empty a segment and tear the one before it. What could not be cut off stays in the
    directory.
    """
    damage: list[Damage] = []
    while headers:
        header = headers[-1]
        path = directory.path / segment_name(header.number)
        with open(path, "rb+") as file:
            segment = _read_through(file.fileno(), header)
            size = os.fstat(file.fileno()).st_size
            if segment.size < size:
                damage.insert(0, _cut(directory, file.fileno(), header, segment.size, size))
            is_cut = os.fstat(file.fileno()).st_size == segment.size
        if segment.size > header.size:
            return segment, damage
        if is_cut:
            path.unlink()
        headers.pop()
    return None, damage


def _headers(directory: Directory, found: Recovered) -> Iterator[SegmentHeader]:
    """Those of all good files; others are set aside, empty ones removed."""
    for number in segment_numbers(directory.path):
        name = segment_name(number)
        with open(directory.path / name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                header = read_header(file.fileno())
                if header.number != number:
                    raise HeaderError(f"it is segment {header.number:016x} by its header")
            except HeaderError as error:
                reason = str(error)
            else:
                yield header
                continue
        if size == 0:
            # The process ended between making the file and writing to it.
            (directory.path / name).unlink()
        else:
            aside = set_aside(directory.path / name)
            found.damage.append(Damage(number, 0, size, None, f"{reason}; the file is now {aside}"))


def _read_through(fd: int, header: SegmentHeader) -> Segment:
    """Counts the records of a segment whose successor does not say how many there are; its size is up to the end of the last good one."""
    size = os.fstat(fd).st_size
    scan = SegmentScan(fd, header)
    while scan.next(size) is not None:
        pass
    return Segment(header, scan.good, header.number if scan.expected is None else scan.expected)


def _cut(directory: Directory, fd: int, header: SegmentHeader, good: int, size: int) -> Damage:
    """Cuts a segment off at ``good``. What is there of a record that was not written to its end is no use; all else is kept in a file."""
    what, torn = "the last record was not written to its end, and was cut off", True
    if not _is_begin_of_record(fd, header, good, size):
        aside = directory.path / f"{segment_name(header.number)}.{good}.damaged"
        try:
            _copy(fd, good, size, aside)
        except OSError as error:
            # No room, say. Nobody reads beyond what is good; the next opening tries again.
            aside.unlink(missing_ok=True)
            what = f"its end cannot be read, nor copied into a file of its own ({error.strerror})"
            return Damage(header.number, good, size - good, None, what)
        what, torn = f"its end cannot be read; it is now in {aside.name}", False
    os.ftruncate(fd, good)
    os.fsync(fd)
    return Damage(header.number, good, size - good, None, what, torn)


def _copy(fd: int, start: int, stop: int, path: Path) -> None:
    with open(path, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        for offset in range(start, stop, CHUNK_BYTES):
            file.write(os.pread(fd, min(CHUNK_BYTES, stop - offset), offset))
        file.flush()
        os.fsync(file.fileno())


def _is_begin_of_record(fd: int, header: SegmentHeader, good: int, size: int) -> bool:
    """Whether at ``good`` stands a record that reaches beyond ``size``, or only zeros (blocks that never came to the disk)."""
    head = os.pread(fd, min(HEAD_BYTES, size - good), good)
    found = frame_at(head, 0, good, header)
    if isinstance(found, Short) and good + found.need > size:
        return True
    parts = (os.pread(fd, min(CHUNK_BYTES, size - offset), offset) for offset in range(good, size, CHUNK_BYTES))
    return all(part.count(0) == len(part) for part in parts)


def _missing(before: Segment, after: SegmentHeader) -> Damage:
    same_run = before.stop >> RUN_BITS == after.number >> RUN_BITS
    records = after.number - before.stop if same_run else None
    return Damage(after.previous, 0, 0, records, f"missing before {after.number:016x}")
