"""Directories that a process left in disorder, or a disk damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest

from m3x.segments import SegmentLog
from m3x.segments.format import HEADER_BYTES

PREAMBLE = b"twelve bytes"
HEADER = 80
"""Bytes of a header with this preamble."""


def fill(path: Path, count: int = 9, per_segment: int = 3) -> list[bytes]:
    """A log of ``count`` records of 100 bytes (128 with their heads), some to a segment."""
    records = [b"%04d" % n * 25 for n in range(count)]
    with SegmentLog(path, preamble=lambda: PREAMBLE) as log:
        for n, record in enumerate(records):
            log.append([record])
            if n % per_segment == per_segment - 1:
                log.roll()
    return records


def files(path: Path) -> list[Path]:
    return sorted(path.glob("*.segment"))


def damaged(path: Path) -> list[str]:
    return sorted(found.name.partition(".segment")[2] for found in path.glob("*.damaged*"))


def contents(log: SegmentLog) -> list[bytes]:
    return [bytes(record.data) for record in log.reader()]


def change(path: Path, at: int, how: Callable[[bytes], bytes], size: int = 1) -> None:
    data = path.read_bytes()
    at = at % len(data)
    path.write_bytes(data[:at] + how(data[at : at + size]) + data[at + size :])


def flip(data: bytes) -> bytes:
    return bytes(255 - byte for byte in data)


def test_a_torn_end_is_cut_off_and_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = fill(tmp_path)
    last = files(tmp_path)[-1]
    whole = last.read_bytes()
    for size in (len(whole) - cut for cut in (1, 2, 64, 103, 104, 105, 127)):
        last.write_bytes(whole[:size])
        with SegmentLog(tmp_path) as log:
            assert contents(log) == records[:-1]
            (damage,) = log.damage
            assert (damage.offset, damage.size) == (HEADER + 256, size - HEADER - 256)
        (line,) = capsys.readouterr().err.splitlines()
        assert "the last record was not written to its end, and was cut off" in line
        with SegmentLog(tmp_path) as log:
            assert contents(log) == records[:-1]
            assert log.damage == []
        assert damaged(tmp_path) == []


def test_a_tail_of_zeros_is_cut_off(tmp_path: Path) -> None:
    records = fill(tmp_path)
    with files(tmp_path)[-1].open("ab") as file:
        file.write(bytes(5_000_000))
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records
        assert [damage.size for damage in log.damage] == [5_000_000]
    assert damaged(tmp_path) == []


@pytest.mark.parametrize("garbage", [b"g" * 700, b"\xf1m3\x1e" * 200, b"odd"])
def test_another_tail_is_kept_in_a_file(tmp_path: Path, garbage: bytes) -> None:
    records = fill(tmp_path)
    with files(tmp_path)[-1].open("ab") as file:
        file.write(garbage)
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records
        assert len(log.damage) == 1
        log.append([b"new"])
        assert contents(log) == [*records, b"new"]
    kept = [path.read_bytes() for path in tmp_path.glob("*.damaged")]
    # Fewer bytes than a head has can only be the begin of one.
    assert kept == ([garbage] if len(garbage) > 24 else [])


def test_a_last_record_that_was_damaged_later_is_kept_in_a_file(tmp_path: Path) -> None:
    records = fill(tmp_path)
    change(files(tmp_path)[-1], -20, flip)
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records[:-1]
        assert "its end cannot be read; it is now in" in str(log.damage[0])
    assert damaged(tmp_path) == [f".{HEADER + 256}.damaged"]
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records[:-1]
        assert log.damage == []


@pytest.mark.parametrize("at", [HEADER + 128, HEADER + 140, HEADER + 200])
@pytest.mark.parametrize("segment", [0, 1, 2])
def test_flipped_bits_cost_their_record(tmp_path: Path, segment: int, at: int) -> None:
    records = fill(tmp_path)
    file = files(tmp_path)[segment]
    change(file, at, flip)
    with SegmentLog(tmp_path) as log:
        left = [record for n, record in enumerate(records) if n != segment * 3 + 1]
        assert contents(log) == left
        assert contents(log) == left
        (damage,) = log.damage
        assert damage[1:4] == (HEADER + 128, 128, 1)
        assert [record.lost for record in log.reader()].count(1) == 1
        log.drop_through(log.end)
    assert damaged(tmp_path) == [".damaged"]


def test_the_damaged_end_of_an_earlier_segment_is_counted(tmp_path: Path) -> None:
    records = fill(tmp_path)
    first = files(tmp_path)[0]
    first.write_bytes(first.read_bytes()[: HEADER + 128 + 50])
    with SegmentLog(tmp_path) as log:
        assert contents(log) == [records[0], *records[3:]]
        (damage,) = log.damage
        assert damage[1:4] == (HEADER + 128, 50, 2)
        assert log.records == 9


@pytest.mark.parametrize("segment", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 30, HEADER_BYTES - 1, HEADER_BYTES + 3])
def test_half_a_header_is_set_aside(tmp_path: Path, segment: int, size: int) -> None:
    records = fill(tmp_path)
    file = files(tmp_path)[segment]
    file.write_bytes(file.read_bytes()[:size])
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records[: segment * 3] + records[segment * 3 + 3 :]
        assert f"the file is now {file.name}.damaged" in str(log.damage[0])
    assert damaged(tmp_path) == [".damaged"]


def test_a_header_that_is_wrong_is_set_aside(tmp_path: Path) -> None:
    records = fill(tmp_path)
    change(files(tmp_path)[1], HEADER_BYTES + 2, flip)
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records[:3] + records[6:]
        assert "the checksum of its header is wrong" in str(log.damage[0])


def test_a_renamed_segment_is_set_aside(tmp_path: Path) -> None:
    records = fill(tmp_path)
    first = files(tmp_path)[0]
    first.rename(tmp_path / "00000000000000ff.segment")
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records[3:]
        assert f"it is segment {first.stem} by its header" in str(log.damage[0])


def test_names_of_what_is_set_aside_do_not_collide(tmp_path: Path) -> None:
    fill(tmp_path)
    name = files(tmp_path)[1]
    for _ in range(3):
        name.write_bytes(b"nothing of ours")
        SegmentLog(tmp_path).close()
    assert damaged(tmp_path) == [".damaged", ".damaged.2", ".damaged.3"]


def test_an_empty_file_is_removed(tmp_path: Path) -> None:
    records = fill(tmp_path)
    (tmp_path / "00000fffffffffff.segment").touch()
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records
        assert log.damage == []
    assert len(files(tmp_path)) == 3


def test_a_segment_without_records_is_removed(tmp_path: Path) -> None:
    records = fill(tmp_path)
    last = files(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[:HEADER])
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records[:-3]
    assert len(files(tmp_path)) == 2


def test_a_missing_segment_is_said_and_passed(tmp_path: Path) -> None:
    records = fill(tmp_path)
    missing = files(tmp_path)[1]
    missing.unlink()
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records[:3] + records[6:]
        (damage,) = log.damage
        assert str(damage).startswith(f"segment {missing.stem}: missing before")
        assert damage.records == 3


def test_segments_that_were_dropped_are_not_missed(tmp_path: Path) -> None:
    records = fill(tmp_path)
    with SegmentLog(tmp_path) as log:
        log.drop_oldest()
        log.append([b"new"])
    with SegmentLog(tmp_path) as log:
        assert contents(log) == [*records[3:], b"new"]
        assert log.damage == []


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    records = fill(tmp_path)
    others = ["README", "1.segment", "00000FFFFFFFFFFF.segment", "0000000000000001.segment.bak", "x.cursor.damaged"]
    for name in others:
        (tmp_path / name).write_text(f"the file {name}")
    (tmp_path / "folder").mkdir()
    with SegmentLog(tmp_path) as log:
        assert contents(log) == records
        while log.drop_oldest():
            pass
        assert log.damage == []
    assert all((tmp_path / name).read_text() == f"the file {name}" for name in others)
    assert (tmp_path / "folder").is_dir()
