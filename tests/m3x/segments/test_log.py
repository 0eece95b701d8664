"""Appending, rolling, dropping and opening again, as the owner of a log sees them."""

import itertools
import stat
from pathlib import Path

import numpy as np
import pytest

from m3x.segments import START, Position, SegmentLog
from m3x.segments import log as log_module


def contents(log: SegmentLog, position: Position = START) -> list[bytes]:
    return [bytes(record.data) for record in log.reader(position)]


def test_records_come_back_in_order_and_in_the_next_run(tmp_path: Path) -> None:
    records = [bytes([n]) * n for n in range(50)]
    with SegmentLog(tmp_path / "log") as log:
        for record in records:
            log.append([record])
        assert contents(log) == records
        assert log.records == 50
    with SegmentLog(tmp_path / "log") as log:
        assert contents(log) == records
        log.append([b"later"])
        assert contents(log) == [*records, b"later"]
        assert log.records == 51
        assert not log.damage


def test_positions_order_as_records_do_and_lead_to_them(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        places = [log.append([b"%04d" % n, bytes(50)]) for n in range(20)]
        assert len(log.segments) > 3
        for before, after in itertools.pairwise(places):
            assert before.start < before.end <= after.start
        for n, place in enumerate(places):
            found = list(log.reader(place.start))
            assert [bytes(record.data[:4]) for record in found] == [b"%04d" % m for m in range(n, 20)]
            assert (found[0].start, found[0].end) == place
            assert next(iter(log.reader(place.end)), None) == (found[1] if n < 19 else None)


def test_everything_is_private(tmp_path: Path) -> None:
    with SegmentLog(tmp_path / "log") as log:
        log.append([b"x"])
        log.cursor("mine", int).write(1)
        assert stat.S_IMODE(log.path.stat().st_mode) == 0o700
        names = {path.name.partition(".")[-1] or path.name for path in log.path.iterdir()}
        assert names == {"segment", "cursor", "lock", "format"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in log.path.iterdir()} == {0o600}


def test_a_new_segment_is_known_before_its_first_record(tmp_path: Path) -> None:
    """The owner defines its names once per segment, and a reader that begins at any segment has them."""
    asked = iter(range(100))
    names = ["alpha", "beta", "gamma"]
    with SegmentLog(tmp_path, segment_bytes=400, preamble=lambda: b"layout %d" % next(asked)) as log:
        defined_in, defined = -1, set[str]()
        for n in range(60):
            name = names[n % 3]
            if log.next_segment != defined_in:
                defined_in, defined = log.next_segment, set()
            definition = b"" if name in defined else name.encode() + b"=%d;" % (n % 3)
            defined.add(name)
            assert log.append([definition, b"%d:%d" % (n % 3, n)]).start.segment == defined_in
        starts = [segment.number for segment in log.segments]
        assert len(starts) > 4
        for count, start in enumerate(starts):
            known: dict[bytes, bytes] = {}
            for record in log.reader(Position(start, 0)):
                assert record.header.preamble == b"layout %d" % starts.index(record.start.segment)
                *definition, row = bytes(record.data).split(b";")
                known.update(reversed(pair.split(b"=")) for pair in definition)
                assert row.split(b":")[0] in known
            assert next(asked) > count


def test_rolling(tmp_path: Path) -> None:
    with SegmentLog(tmp_path) as log:
        log.roll()
        assert log.segments == ()
        first = log.next_segment
        log.append([b"a"])
        assert log.next_segment == first
        log.roll()
        log.roll()
        assert log.next_segment == first + 1
        assert [segment.records for segment in log.segments] == [1]
        log.append([b"b"])
        assert [segment.number for segment in log.segments] == [first, first + 1]
        assert contents(log) == [b"a", b"b"]


def test_dropping_through_a_position(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, segment_bytes=200) as log:
        places = [log.append([b"%02d" % n, bytes(100)]) for n in range(10)]
        sizes = {segment.number: segment.size for segment in log.segments}
        total = log.size_bytes
        assert log.drop_through(START) == []
        assert log.drop_through(places[1].start) == []
        dropped = log.drop_through(places[5].end)
        assert [bytes(record.data[:2]) for record in log.reader()] == [b"%02d" % n for n in range(6, 10)]
        assert [drop.records for drop in dropped] == [2, 2, 2]
        assert log.size_bytes == total - sum(sizes[drop.number] for drop in dropped)
        assert log.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.segment"))


def test_the_segment_being_written_is_kept(tmp_path: Path) -> None:
    with SegmentLog(tmp_path) as log:
        log.append([b"x"])
        assert log.drop_through(log.end) == []
        log.roll()
        (dropped,) = log.drop_through(log.end)
        assert dropped.records == 1
        assert (log.size_bytes, log.records, log.segments) == (0, 0, ())
        log.append([b"y"])
        assert contents(log) == [b"y"]


def test_dropping_the_oldest(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, segment_bytes=200) as log:
        assert log.drop_oldest() is None
        for n in range(5):
            log.append([b"%d" % n, bytes(150)])
        log.append([b"last"])
        reader = log.reader()
        assert reader.next() is not None
        for left in (5, 4, 3, 2, 1, 0):
            dropped = log.drop_oldest()
            assert dropped is not None
            assert dropped.records == 1
            assert log.records == left
        assert log.drop_oldest() is None
        assert list(reader) == []
        log.append([b"new"])
        assert [bytes(record.data) for record in reader] == [b"new"]
        assert not log.damage


def test_how_much_is_before_a_consumer(tmp_path: Path) -> None:
    with SegmentLog(tmp_path, segment_bytes=300) as log:
        assert log.size_from(START) == 0
        places = [log.append([bytes(76)]) for _ in range(10)]
        assert len(log.segments) > 2
        for n, place in enumerate(places):
            assert log.size_from(place.start) == (10 - n) * 104
            assert log.size_from(place.end) == (9 - n) * 104
        assert log.size_from(START) == 1040
        log.drop_through(places[5].start)
        assert log.size_from(places[0].start) == log.size_bytes - 64 * len(log.segments)


def test_numbers_are_never_used_again(tmp_path: Path) -> None:
    """A cursor that is ahead of what a power cut left must not hide the records that come after it."""
    with SegmentLog(tmp_path) as log:
        lost = log.append([b"was consumed, but never came to the disk"])
    for path in tmp_path.glob("*.segment"):
        path.unlink()
    with SegmentLog(tmp_path) as log:
        assert log.end > lost.end
        log.append([b"new"])
        assert contents(log, lost.end) == [b"new"]


def test_many_parts_and_a_large_record(tmp_path: Path) -> None:
    parts = [b"%05d" % n for n in range(5000)]
    large = np.random.default_rng(1).integers(0, 256, 5_000_000, dtype=np.uint8)
    with SegmentLog(tmp_path) as log:
        log.append(parts)
        log.append([large, b"end"])
        first, second = log.reader()
        assert bytes(first.data) == b"".join(parts)
        assert np.array_equal(np.frombuffer(second.data, np.uint8)[:-3], large)


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = log_module.os.pwrite
    monkeypatch.setattr(log_module.os, "pwritev", lambda file, buffers, offset: real(file, buffers[0][:3], offset))
    monkeypatch.setattr(log_module.os, "pwrite", lambda file, data, offset: real(file, data[:7], offset))
    with SegmentLog(tmp_path) as log:
        log.append([b"the first", b" record"])
        log.append([b"and another"])
        assert contents(log) == [b"the first record", b"and another"]
