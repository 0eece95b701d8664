"""Disks that are full or fail while records are appended."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from m3x.segments import AppendError, SegmentLog
from m3x.segments import directory as directory_module
from m3x.segments import log as log_module
from m3x.segments import recovery as recovery_module


class Disk:
    """Takes ``room`` bytes more of every write, then refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self.error = errno.ENOSPC
        self._pwritev, self._pwrite = os.pwritev, os.pwrite
        monkeypatch.setattr(log_module.os, "pwritev", self._write)
        monkeypatch.setattr(log_module.os, "pwrite", lambda file, data, offset: self._write(file, [data], offset))

    def _write(self, file: int, buffers: Sequence[Any], offset: int) -> int:
        if self.room is None:
            return self._pwritev(file, buffers, offset)
        taken = b"".join(buffers)[: self.room]
        if not taken:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= len(taken)
        return self._pwrite(file, taken, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def contents(log: SegmentLog) -> list[bytes]:
    return [bytes(record.data) for record in log.reader()]


@pytest.mark.parametrize("room", [0, 1, 23, 24, 60, 100])
def test_a_full_disk_leaves_nothing_of_the_record(tmp_path: Path, disk: Disk, room: int) -> None:
    with SegmentLog(tmp_path) as log:
        log.append([b"before"])
        end, size, segment = log.end, log.size_bytes, log.next_segment
        for _ in range(3):
            disk.room = room
            with pytest.raises(AppendError) as caught:
                log.append([b"a record", bytes(100)])
            assert str(caught.value) == (
                f"cannot append to {tmp_path}: No space left on device (ENOSPC); "
                "make room on its file system, appending then goes on by itself"
            )
            assert caught.value.errno == errno.ENOSPC
            assert (log.end, log.size_bytes, log.next_segment) == (end, size, segment)
            assert [path.stat().st_size for path in tmp_path.glob("*.segment")] == [size]
        disk.room = None
        assert log.append([b"after"]).start == end
        assert contents(log) == [b"before", b"after"]


@pytest.mark.parametrize("room", [0, 30, 64])
def test_a_segment_that_cannot_be_begun_leaves_no_file(tmp_path: Path, disk: Disk, room: int) -> None:
    with SegmentLog(tmp_path) as log:
        log.append([b"before"])
        log.roll()
        segment = log.next_segment
        disk.room = room
        for _ in range(2):
            with pytest.raises(AppendError):
                log.append([b"x"])
            assert log.next_segment == segment
            assert len(list(tmp_path.glob("*.segment"))) == (2 if room == 64 else 1)
        disk.room = None
        log.append([b"after"])
        assert contents(log) == [b"before", b"after"]
        assert [found.number for found in log.segments][-1] == segment
    with SegmentLog(tmp_path) as log:
        assert contents(log) == [b"before", b"after"]
        assert log.damage == []


def test_other_errors_advise_otherwise(tmp_path: Path, disk: Disk) -> None:
    with SegmentLog(tmp_path) as log:
        disk.room, disk.error = 0, errno.EIO
        with pytest.raises(AppendError, match=r"Input/output error \(EIO\); look after its file system, appending"):
            log.append([b"x"])


def test_a_log_opens_on_a_full_disk(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds can be consumed and dropped, which may make room."""

    def no_room(path: str, flags: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with SegmentLog(tmp_path) as log:
        first = log.append([b"before"]).start
    with monkeypatch.context() as patch:
        patch.setattr(directory_module, "_private", no_room)
        disk.room = 0
        with SegmentLog(tmp_path) as log:
            assert contents(log) == [b"before"]
            with pytest.raises(AppendError, match="No space left"):
                log.append([b"refused"])
            patch.undo()
            disk.room = None
            second = log.append([b"after"]).start
            assert contents(log) == [b"before", b"after"]
    # The number of the run was made durable after all: it is not given again even if its segments are lost.
    for file in tmp_path.glob("*.segment"):
        file.unlink()
    with SegmentLog(tmp_path) as log:
        assert first.segment >> 36 < second.segment >> 36 < log.next_segment >> 36


def no_room(fd: int, start: int, stop: int, path: Path) -> None:
    """Instead of a copy."""
    path.write_bytes(b"partly")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_segment_with_nothing_but_damage_stays_where_it_is_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SegmentLog(tmp_path) as log:
        log.append([b"before"])
        log.roll()
        log.append([b"damaged"])
    _, file = sorted(tmp_path.glob("*.segment"))
    damaged = file.read_bytes().replace(b"damaged", b"DAMAGED")
    file.write_bytes(damaged)
    with monkeypatch.context() as patch:
        patch.setattr(recovery_module, "_copy", no_room)
        with SegmentLog(tmp_path) as log:
            assert contents(log) == [b"before"]
            log.append([b"after"])
    assert file.read_bytes() == damaged
    with SegmentLog(tmp_path) as log:
        assert contents(log) == [b"before", b"after"]
        log.drop_through(log.end)
    assert [path.read_bytes() for path in tmp_path.glob("*.damaged")] == [damaged]


def test_a_damaged_end_stays_where_it_is_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SegmentLog(tmp_path) as log:
        log.append([b"before"])
    (file,) = tmp_path.glob("*.segment")
    with file.open("ab") as opened:
        opened.write(b"g" * 100)
    with monkeypatch.context() as patch:
        patch.setattr(recovery_module, "_copy", no_room)
        with SegmentLog(tmp_path) as log:
            assert contents(log) == [b"before"]
            assert "nor copied into a file of its own (No space left on device)" in str(log.damage[0])
    assert not list(tmp_path.glob("*.damaged"))
    with SegmentLog(tmp_path) as log:
        assert contents(log) == [b"before"]
    assert [path.read_bytes() for path in tmp_path.glob("*.damaged")] == [b"g" * 100]


def test_what_cannot_be_cut_off_is_overwritten(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with SegmentLog(tmp_path) as log:
        log.append([b"before"])
        with monkeypatch.context() as patch:
            patch.setattr(log_module.os, "ftruncate", fail)
            disk.room = 500
            with pytest.raises(AppendError):
                log.append([b"r" * 1000])
        disk.room = None
        log.append([b"after"])
        assert contents(log) == [b"before", b"after"]
        (file,) = tmp_path.glob("*.segment")
        assert file.stat().st_size > log.size_bytes
    with SegmentLog(tmp_path) as log:
        assert contents(log) == [b"before", b"after"]


LIMITED = """
import json, pathlib, resource, sys
from m3x.segments import AppendError, SegmentLog
with SegmentLog(pathlib.Path(sys.argv[1]), segment_bytes=1 << 30) as log:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    count, refused = 0, []
    while len(refused) < 3:
        try:
            log.append([b"%d" % count, bytes(7000)])
            count += 1
        except AppendError as error:
            refused.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.append([b"last"])
print(json.dumps([count, refused]))
"""


def test_a_real_limit(tmp_path: Path) -> None:
    """The system itself takes a part of a record and refuses the rest."""
    ran = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    count, refused = json.loads(ran.stdout)
    assert count == 14
    assert set(refused) == {
        f"cannot append to {tmp_path}: File too large (EFBIG); make room on its file system, appending then goes on by itself"
    }
    with SegmentLog(tmp_path) as log:
        assert contents(log) == [*(b"%d" % n + bytes(7000) for n in range(count)), b"last"]
        assert log.damage == []
