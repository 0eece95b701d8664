"""The queue of a sink: appended batches are read from any value on, whatever happened to segments and cursor."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.coordinator.sinks.batches import LONG, SHORT, Row, batch_of, rows_of

from coordinator.sinks.queue import Queue, QueueFullError, QueueOptions, QueueReader
from coordinator.sinks.records import RecordVersionError
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import UNAGGREGATED, Destination, TimeUnit
from m3metrics.policy import StoragePolicy
from m3x.segments import AppendError, DirectoryLocked, Reader, Record

SMALL = QueueOptions(max_bytes=1 << 16, segment_bytes=400)
"""A segment has one or two records of ten values."""


def _rows(first: int, count: int = 10) -> list[Row]:
    return [Row(b"series %d" % (i % 7), i, i / 2, SHORT if i % 3 else LONG) for i in range(first, first + count)]


def _fill(queue: Queue, records: int) -> None:
    table = SeriesTable()
    for _ in range(records):
        queue.append(batch_of(table, _rows(queue.end)), 5, waiting=1)


def _read(
    reader: QueueReader, start: int, stop: int, most_bytes: int = 1 << 20
) -> tuple[list[Row], list[tuple[int, int]]]:
    """All rows of ``[start, stop)``, as many reads as it takes; what is lost."""
    table, rows, lost = SeriesTable(), list[Row](), list[tuple[int, int]]()
    while start < stop:
        chunk = reader.read(start, stop, most_bytes)
        for read in chunk.records:
            values = reader.values(read, table)
            if read.wanted:
                rows += rows_of(values)
                start = read.record.header.first + read.record.header.rows
        lost += chunk.lost
        start = max([start, *(b for _, b in chunk.lost)])
    return rows, lost


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue", SMALL)


def test_it_is_read_from_any_value_on(queue: Queue) -> None:
    _fill(queue, 12)
    reader = queue.reader()
    for start, stop in [(0, 120), (0, 10), (50, 70), (30, 40), (30, 120), (110, 120), (0, 120)]:
        assert _read(reader, start, stop) == (_rows(start, stop - start), [])
        assert _read(reader, start, stop, most_bytes=1) == (_rows(start, stop - start), [])


@given(wanted=st.lists(st.tuples(st.integers(0, 29), st.integers(1, 6)), max_size=8), most=st.integers(1, 2000))
def test_a_reader_may_go_anywhere(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[int, int]], most: int
) -> None:
    queue = Queue(tmp_path_factory.mktemp("queue"), SMALL)
    _fill(queue, 30)
    reader = queue.reader()
    for first, count in wanted:
        start, stop = first * 10, min((first + count) * 10, 300)
        assert _read(reader, start, stop, most) == (_rows(start, stop - start), [])
    queue.close()


def test_it_goes_on_where_it_ended(queue: Queue, tmp_path: Path) -> None:
    _fill(queue, 3)
    queue.save([(0, 10), (20, 30)])
    with pytest.raises(DirectoryLocked):
        Queue(tmp_path / "queue", SMALL)
    queue.close()
    again = Queue(tmp_path / "queue", SMALL)
    assert (again.end, list(again.done)) == (30, [(0, 10), (20, 30)])
    assert again.append(batch_of(SeriesTable(), _rows(30)), 5, waiting=1)[:2] == (30, 40)
    assert _read(again.reader(), 10, 40) == (_rows(10, 30), [])


def test_a_cursor_that_is_missing_means_that_nothing_is_known(queue: Queue, tmp_path: Path) -> None:
    _fill(queue, 12)
    queue.save([(0, 75)])
    queue.close()
    (tmp_path / "queue" / "delivered.cursor").unlink()
    again = Queue(tmp_path / "queue", SMALL)
    assert 0 < again.available <= 70
    assert list(again.done) == [(0, again.available)]


def test_numbers_go_on_when_nothing_is_left(queue: Queue, tmp_path: Path) -> None:
    _fill(queue, 3)
    queue.save([(0, 30)])
    queue.close()
    assert not list((tmp_path / "queue").glob("*.segment"))
    again = Queue(tmp_path / "queue", SMALL)
    assert (again.end, again.available) == (30, 30)


def test_what_is_delivered_is_deleted_by_segments(queue: Queue) -> None:
    _fill(queue, 30)
    before = queue.size_bytes
    queue.save([(0, 155), (200, 300)])
    assert 140 <= queue.available <= 155
    assert before * 0.4 < queue.size_bytes < before * 0.6
    assert _read(queue.reader(), queue.available, 300)[1] == []


def test_a_full_queue_says_so(tmp_path: Path) -> None:
    queue = Queue(tmp_path, QueueOptions(max_bytes=4000))
    with pytest.raises(QueueFullError, match="of 4000 bytes"):
        _fill(queue, 100)
    assert queue.size_bytes <= 4000
    end = queue.end
    # What is not needed any more is no obstacle, and goes.
    queue.append(batch_of(SeriesTable(), _rows(end)), 5, waiting=0)
    queue.save([(0, queue.end)])
    assert queue.size_bytes == 0
    _fill(queue, 1)


def test_or_drops_the_oldest(tmp_path: Path) -> None:
    queue = Queue(tmp_path, QueueOptions(max_bytes=4000, drop_oldest=True))
    _fill(queue, 100)
    assert queue.size_bytes <= 4000
    assert 850 < queue.available < 1000
    assert _read(queue.reader(), queue.available, 1000) == (_rows(queue.available, 1000 - queue.available), [])


def test_a_batch_larger_than_the_queue_is_taken_when_nothing_waits(tmp_path: Path) -> None:
    queue = Queue(tmp_path, QueueOptions(max_bytes=1000))
    batch = batch_of(SeriesTable(), _rows(0, 500))
    queue.append(batch, 5, waiting=0)
    with pytest.raises(QueueFullError):
        queue.append(batch, 5, waiting=500)


def test_damage_costs_the_record_and_what_uses_its_definitions(tmp_path: Path) -> None:
    queue, table = Queue(tmp_path / "queue", QueueOptions()), SeriesTable()
    for k in range(4):
        rows = [Row(b"all", 4 * k), Row(b"only %d" % k, 4 * k + 1), Row(b"only %d" % max(k - 1, 0), 4 * k + 2)]
        queue.append(batch_of(table, rows), 5, waiting=1)
    queue.close()
    [segment] = (tmp_path / "queue").glob("*.segment")
    data = bytearray(segment.read_bytes())
    data[data.index(b"only 1")] ^= 1
    segment.write_bytes(data)
    again = Queue(tmp_path / "queue", SMALL)
    rows, lost = _read(again.reader(), 0, 12)
    assert lost == [(3, 6)]
    # Record 2 uses "only 1", which record 1 defined.
    assert [row.time_ns for row in rows] == [0, 1, 2, 8, 9, 12, 13, 14]


def test_after_a_failed_append_definitions_are_written_again(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    table = SeriesTable()
    queue.append(batch_of(table, _rows(0)), 5, waiting=1)
    with monkeypatch.context() as patch:
        patch.setattr("os.pwritev", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for _ in range(2):
            with pytest.raises(AppendError, match="ENOSPC"):
                queue.append(batch_of(table, [Row(b"new", 10)]), 5, waiting=1)
    assert queue.end == 10
    queue.append(batch_of(table, [Row(b"new", 10), *_rows(11, 9)]), 5, waiting=1)
    assert _read(queue.reader(), 0, 20) == ([*_rows(0), Row(b"new", 10), *_rows(11, 9)], [])


def test_after_a_record_that_is_too_large_definitions_are_written_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = SeriesTable()
    queue.append(batch_of(table, [Row(b"other", 5)]), 5, waiting=1)
    with monkeypatch.context() as patch:
        patch.setattr("m3x.segments.format.MAX_RECORD", 100)
        with pytest.raises(ValueError, match="at most 100"):
            queue.append(batch_of(table, _rows(0)), 5, waiting=1)
    queue.append(batch_of(table, _rows(0)), 5, waiting=1)
    assert _read(queue.reader(), 0, 11) == ([Row(b"other", 5), *_rows(0)], [])


def test_what_could_not_be_read_once_is_read_with_its_definitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, table, real = Queue(tmp_path, QueueOptions()), SeriesTable(), Reader.next
    queue.append(batch_of(table, _rows(0)), 5, waiting=1)
    queue.append(batch_of(table, _rows(10)), 5, waiting=1)
    calls: list[Reader] = []

    def fail_at_the_second(reader: Reader) -> Record | None:
        calls.append(reader)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(reader)

    monkeypatch.setattr(Reader, "next", fail_at_the_second)
    reader = queue.reader()
    with pytest.raises(OSError, match="Input/output error"):
        reader.read(10, 20)
    assert _read(reader, 10, 20) == (_rows(10), [])


def test_a_queue_of_the_first_version_is_read_for_ever(tmp_path: Path) -> None:
    """``queue_version_1`` was written by the release that had no annotations and no units of time; what is new goes behind it."""
    shutil.copytree(Path(__file__).with_name("queue_version_1"), tmp_path / "queue")
    (tmp_path / "queue").chmod(0o700)
    queue = Queue(tmp_path / "queue", SMALL)
    assert (queue.end, list(queue.done)) == (80, [(0, 5), (20, 30)])
    in_milliseconds = Destination(StoragePolicy.parse("10s@1ms:2d"), TimeUnit.MILLISECONDS)
    destinations = (SHORT, LONG, UNAGGREGATED, in_milliseconds)
    written = [Row(b"series %d" % (i % 7), i, i / 2, destinations[i % 4]) for i in range(80)]
    assert _read(queue.reader(), 0, 80) == (written, [])
    assert _read(queue.reader(), 40, 80) == (written[40:], [])
    chunk = queue.reader().read(0, 80)
    assert [one.record.header.first for one in chunk.records if one.record.header.answered] == [30]
    more = [Row(b"series 1", 80, 1.0, in_milliseconds, b"annotation"), Row(b"new", 81)]
    queue.append(batch_of(SeriesTable(), more), 5, waiting=1)
    assert _read(queue.reader(), 0, 82) == ([*written, *more], [])


def test_records_of_another_version_stay_as_they_are(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("coordinator.sinks.queue.VERSION", 3)
        _fill(queue, 1)
    queue.close()
    with pytest.raises(RecordVersionError, match="format version 3"):
        Queue(tmp_path / "queue", SMALL)
    assert list((tmp_path / "queue").glob("*.segment"))


def test_a_value_of_a_known_series_has_at_most_32_bytes(tmp_path: Path) -> None:
    queue = Queue(tmp_path, QueueOptions())
    table = SeriesTable()
    ids = [b"%0150d" % i for i in range(1000)]
    queue.append(batch_of(table, [Row(one, 0) for one in ids]), 5, waiting=1)
    before = queue.size_bytes
    for k in range(10):
        queue.append(batch_of(table, [Row(one, k, 0.0, SHORT if k % 2 else LONG) for one in ids]), 5, waiting=1)
    assert queue.size_bytes - before <= 22 * 10_000
    assert queue.bytes_of(11_000) == queue.size_bytes
    assert np.isclose(queue.bytes_of(5_500), queue.size_bytes / 2, rtol=0.01)
