"""Reading beside the writer: in its process, in another thread, without its lock."""

import threading
from pathlib import Path

import pytest
from tests.m3x.segments.open_files import open_segments

from m3x.segments import Damage, Position, SegmentLog, read_only
from m3x.segments.format import HEADER_BYTES


def read(reader: object) -> list[bytes]:
    return [bytes(record.data) for record in reader]  # type: ignore[attr-defined]


@pytest.mark.parametrize("chunk_bytes", [1, 24, 100, 150, 333, 1 << 20])
def test_chunks_of_any_size_give_the_same_records(tmp_path: Path, chunk_bytes: int) -> None:
    records = [bytes([n]) * (n * 37 % 211) for n in range(60)]
    with SegmentLog(tmp_path, segment_bytes=1000) as log:
        for record in records:
            log.append([record])
        (damaged, *_) = sorted(tmp_path.glob("*.segment"))[2:]
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:300] + bytes(40) + whole[340:])
        found = list(log.reader(chunk_bytes=chunk_bytes))
        expected = list(log.reader(chunk_bytes=1 << 22))
        assert [record[:3] for record in found] == [record[:3] for record in expected]
        assert [bytes(record.data) for record in found] == [bytes(record.data) for record in expected]
        assert len(found) == len(records) - sum(record.lost for record in found) < len(records)
        assert len(log.damage) == 1


def test_an_iteration_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, segment_bytes=250) as log:
        reader = log.reader()
        assert read(reader) == []
        for n in range(20):
            place = log.append([b"%d" % n, bytes(60)])
            assert read(reader) == [b"%d" % n + bytes(60)]
            assert reader.position == place.end
        reader.close()
        log.append([b"more"])
        assert read(reader) == [b"more"]


def test_data_stays_as_it_is(tmp_path: Path) -> None:
    with SegmentLog(tmp_path) as log:
        log.append([b"first"])
        reader = log.reader()
        first = reader.next()
        assert first is not None
        log.append([b"second"])
        assert read(reader) == [b"second"]
        while log.drop_oldest():
            pass
        reader.close()
        assert bytes(first.data) == b"first"
        assert first.data.readonly


def test_a_position_in_a_segment_that_is_gone_leads_to_the_next(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, segment_bytes=200) as log:
        places = [log.append([b"%d" % n, bytes(150)]) for n in range(6)]
        log.drop_through(places[2].end)
        assert [record.start for record in log.reader(places[1].start)] == [place.start for place in places[3:]]
        assert log.damage == []


def test_what_was_dropped_before_it_was_read_is_not_missing(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, segment_bytes=100) as log:
        log.append([b"read", bytes(100)])
        reader = log.reader()
        assert len(read(reader)) == 1
        dropped = log.append([b"dropped", bytes(100)])
        log.append([b"left", bytes(100)])
        log.drop_through(dropped.end)
        assert [data[:4] for data in read(reader)] == [b"left"]
        assert log.damage == []


def test_a_position_within_a_record_leads_to_the_next(tmp_path: Path) -> None:
    with SegmentLog(tmp_path) as log:
        places = [log.append([b"%d" % n, bytes(150)]) for n in range(4)]
        for offset in range(places[1].start.offset + 1, places[2].start.offset + 1):
            found = list(log.reader(Position(places[0].start.segment, offset)))
            assert [record.start for record in found] == [place.start for place in places[2:]]


def test_another_thread_reads_while_this_one_writes_and_rolls(tmp_path: Path) -> None:
    count = 3000
    with SegmentLog(tmp_path, segment_bytes=5000) as log:
        found: list[tuple[int, bytes]] = []
        done = threading.Event()

        def follow() -> None:
            reader = log.reader(chunk_bytes=1000)
            while not done.is_set():
                found.extend((record.sequence, bytes(record.data)) for record in reader)
            found.extend((record.sequence, bytes(record.data)) for record in reader)

        thread = threading.Thread(target=follow)
        thread.start()
        first = log.next_segment
        for n in range(count):
            log.append([b"%d" % n, bytes(n % 300)])
        done.set()
        thread.join()
        assert found == [(first + n, b"%d" % n + bytes(n % 300)) for n in range(count)]
        assert log.damage == []


def test_tools_read_without_the_lock(tmp_path: Path) -> None:
    told: list[Damage] = []
    with SegmentLog(tmp_path, segment_bytes=200) as log:
        reader = read_only(tmp_path, on_damage=told.append)
        assert read(reader) == []
        for n in range(8):
            log.append([b"%d" % n, bytes(60)])
            assert read(reader) == [b"%d" % n + bytes(60)]
        log.drop_through(log.end)
        log.append([b"last"])
        assert read(reader) == [b"last"]
    assert read(read_only(tmp_path)) == [bytes(record.data) for record in SegmentLog(tmp_path).reader()]
    assert told == []


def test_tools_wait_for_what_is_being_written(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, preamble=lambda: b"who") as log:
        for n in range(3):
            log.append([b"%d" % n, bytes(60)])
        end = log.end.offset
    (file,) = tmp_path.glob("*.segment")
    whole = file.read_bytes()
    told: list[Damage] = []
    reader = read_only(tmp_path, on_damage=told.append)
    found = []
    file.write_bytes(b"")
    for size in range(len(whole) + 1):
        with file.open("ab") as opened:
            opened.write(whole[size - 1 : size])
        found += [(record.end.offset, size) for record in reader]
    assert len(found) == 3
    assert all(offset == size for offset, size in found)
    assert found[-1][0] == end
    assert told == []


def test_tools_tell_what_is_damaged_and_missing(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, segment_bytes=100) as log:
        for n in range(6):
            log.append([b"%d" % n, bytes(90)])
    files = sorted(tmp_path.glob("*.segment"))
    files[1].write_bytes(files[1].read_bytes()[: HEADER_BYTES - 4])
    files[3].unlink()
    files[4].write_bytes(files[4].read_bytes()[:-30])
    before = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    told: list[Damage] = []
    assert [data[:1] for data in read(read_only(tmp_path, on_damage=told.append))] == [b"0", b"2", b"5"]
    assert [(damage.segment, damage.what) for damage in told] == [
        (int(files[1].stem, 16), "60 bytes of a header of at least 64"),
        (int(files[3].stem, 16), f"missing before {files[4].stem}"),
        (int(files[4].stem, 16), "its end is damaged"),
    ]
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == before


def test_a_file_is_open_only_while_it_is_read(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, segment_bytes=100) as log:
        for n in range(6):
            log.append([b"%d" % n, bytes(90)])
        reader = log.reader()
        assert len(open_segments(tmp_path)) == 0
        for _ in range(6):
            assert reader.next() is not None
            assert len(open_segments(tmp_path)) == 1
        assert reader.next() is None
        assert len(open_segments(tmp_path)) == 0
