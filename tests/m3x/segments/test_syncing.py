"""When appended records count as durable, and who waits for what."""

import asyncio
import errno
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.waiting import until, wait_until
from tests.m3x.segments.open_files import open_segments

from m3x.segments import SegmentError, SegmentLog
from m3x.segments import syncing as syncing_module


class Fsync:
    """Takes the place of both fsyncs: records them, and waits or fails as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, float, int]] = []
        """Which one, when, and in which thread."""
        self.open = threading.Event()
        self.open.set()
        self.error = 0
        self._real = os.fsync
        monkeypatch.setattr(syncing_module.os, "fdatasync", lambda fd: self._sync("data", fd))
        monkeypatch.setattr(syncing_module.os, "fsync", lambda fd: self._sync("names", fd))

    def count(self, which: str = "data") -> int:
        return [call[0] for call in self.calls].count(which)

    def _sync(self, which: str, fd: int) -> None:
        self.calls.append((which, time.monotonic(), threading.get_ident()))
        if threading.current_thread() is not threading.main_thread():
            self.open.wait()
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self._real(fd)


@pytest.fixture
def fsync(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fsync]:
    monkeypatch.setattr(syncing_module, "_RETRY_S", 0.01)
    fake = Fsync(monkeypatch)
    yield fake
    fake.open.set()


def segment_of(log: SegmentLog) -> Path:
    (file,) = log.path.glob("*.segment")
    return file


async def test_os_waits_for_nothing(tmp_path: Path, fsync: Fsync) -> None:
    with SegmentLog(tmp_path) as log:
        fsync.calls.clear()
        end = log.append([b"x"]).end
        assert log.durable == end
        await log.wait_durable(end)
        log.flush()
        log.roll()
        log.append([b"y"])
        assert fsync.calls == []


async def test_always_is_durable_only_after_both_fsyncs_and_off_this_thread(tmp_path: Path, fsync: Fsync) -> None:
    with SegmentLog(tmp_path, sync="always") as log:
        fsync.calls.clear()
        fsync.open.clear()
        before = log.durable
        end = log.append([b"x"]).end
        waiting = asyncio.create_task(log.wait_durable(end))
        await until(lambda: fsync.calls)
        assert log.durable == before < end
        assert not waiting.done()
        fsync.open.set()
        await waiting
        assert log.durable == end
        assert [call[0] for call in fsync.calls] == ["data", "names"]
        assert threading.get_ident() not in {call[2] for call in fsync.calls}
        await log.wait_durable(log.append([b"y"]).end)
        assert [call[0] for call in fsync.calls] == ["data", "names", "data"]


async def test_one_fsync_serves_all_that_was_appended_before_it(tmp_path: Path, fsync: Fsync) -> None:
    with SegmentLog(tmp_path, sync="always", segment_bytes=300) as log:
        fsync.calls.clear()
        fsync.open.clear()
        log.append([b"first"])
        await until(lambda: fsync.count() == 1)
        ends = [log.append([bytes(100)]).end for _ in range(10)]
        waiting = [asyncio.create_task(log.wait_durable(end)) for end in ends]
        fsync.open.set()
        await asyncio.gather(*waiting)
        # The first file again, and each new one once.
        assert fsync.count() == 1 + len(log.segments)
        assert fsync.count("names") == 2


async def test_files_are_closed_once_they_are_durable(tmp_path: Path, fsync: Fsync) -> None:
    with SegmentLog(tmp_path, sync="always", segment_bytes=300) as log:
        for _ in range(10):
            end = log.append([bytes(100)]).end
        await log.wait_durable(end)
        log.roll()
        await until(lambda: not open_segments(tmp_path))


def test_the_interval_is_kept(tmp_path: Path, fsync: Fsync) -> None:
    told = []
    with SegmentLog(tmp_path, sync="interval", interval_s=0.05, on_durable=told.append) as log:
        fsync.calls.clear()
        ends = []
        while fsync.count() < 5:
            ends.append(log.append([b"x"]).end)
        wait_until("everything durable", lambda: log.durable == ends[-1])
        wait_until("told", lambda: told[-1:] == ends[-1:])
    times = [at for which, at, _ in fsync.calls if which == "data"]
    # The last one is that of the end, which does not wait. From when on the interval counts is noted before fsync is called, and another
    # thread may have its turn in between: of each single distance, though not of all together.
    assert sorted(after - before for before, after in itertools.pairwise(times[:5]))[1] >= 0.05
    assert times[4] - times[0] >= 3 * 0.05
    assert told == sorted(set(told))
    assert set(told) <= set(ends)


def test_flush_does_not_wait_for_the_interval(tmp_path: Path, fsync: Fsync) -> None:
    with SegmentLog(tmp_path, sync="interval", interval_s=3600) as log:
        for _ in range(3):
            end = log.append([b"x"]).end
            log.flush()
            assert log.durable == end


async def test_what_fsync_refused_is_written_again(
    tmp_path: Path, fsync: Fsync, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, int]] = []
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            written.append((offset, len(data)))
        return real(fd, data, offset)

    monkeypatch.setattr(syncing_module.os, "pwrite", pwrite)
    with SegmentLog(tmp_path, sync="always") as log:
        durable = log.append([b"durable"]).end
        await log.wait_durable(durable)
        fsync.error = errno.EIO
        end = log.append([b"x" * 50]).end
        waiting = asyncio.create_task(log.wait_durable(end))
        await until(lambda: fsync.count() >= 4)
        assert "fsync failed: Input/output error" in log.trouble
        assert log.durable == durable
        assert not waiting.done()
        with pytest.raises(SegmentError, match="fsync failed"):
            log.flush()
        fsync.error = 0
        await waiting
        assert log.trouble == ""
        assert set(written) == {(durable.offset, end.offset - durable.offset)}
        log.append([b"goes on"])
        log.flush()
    with SegmentLog(tmp_path) as log:
        assert [bytes(record.data) for record in log.reader()] == [b"durable", b"x" * 50, b"goes on"]


async def test_the_header_is_written_again_with_the_first_record(tmp_path: Path, fsync: Fsync) -> None:
    with SegmentLog(tmp_path, sync="always", preamble=lambda: b"who") as log:
        fsync.error = errno.EIO
        end = log.append([b"x"]).end
        await until(lambda: fsync.count() >= 3)
        file = segment_of(log)
        fsync.error = 0
        await log.wait_durable(end)
        assert file.stat().st_size == end.offset
    with SegmentLog(tmp_path) as log:
        assert [record.header.preamble for record in log.reader()] == [b"who"]


async def test_what_cannot_be_read_back_fails_the_log(tmp_path: Path, fsync: Fsync) -> None:
    with SegmentLog(tmp_path, sync="always") as log:
        await log.wait_durable(log.append([b"durable"]).end)
        fsync.error = errno.EIO
        end = log.append([b"x" * 50]).end
        waiting = asyncio.create_task(log.wait_durable(end))
        file = segment_of(log)
        with file.open("rb+") as opened:
            opened.seek(-20, os.SEEK_END)
            opened.write(b"y")
        with pytest.raises(SegmentError, match="lost what was appended from offset .* start the process again"):
            await waiting
        for call in (lambda: log.append([b"z"]), log.flush):
            with pytest.raises(SegmentError, match="lost what was appended"):
                call()
        with pytest.raises(SegmentError, match="lost what was appended"):
            await log.wait_durable(end)
        assert "lost what was appended" in log.trouble
        # There is nothing left to try.
        await until(lambda: "segments-sync" not in {thread.name for thread in threading.enumerate()})


async def test_who_waits_when_the_log_is_closed_is_told(tmp_path: Path, fsync: Fsync) -> None:
    log = SegmentLog(tmp_path, sync="always")
    fsync.error = errno.EIO
    waiting = asyncio.create_task(log.wait_durable(log.append([b"x"]).end))
    await until(lambda: log.trouble)
    log.close()
    with pytest.raises(SegmentError, match="the log was closed before that was durable"):
        await waiting


def test_an_owner_that_fails_to_listen_does_no_harm(
    tmp_path: Path, fsync: Fsync, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(position: object) -> None:
        raise RuntimeError("not listening")

    with SegmentLog(tmp_path, sync="always", on_durable=fail) as log:
        for _ in range(3):
            end = log.append([b"x"]).end
            log.flush()
            assert log.durable == end
    assert "RuntimeError: not listening" in capsys.readouterr().err


async def test_who_does_not_wait_any_more_is_forgotten(tmp_path: Path, fsync: Fsync) -> None:
    with SegmentLog(tmp_path, sync="always") as log:
        fsync.open.clear()
        end = log.append([b"x"]).end
        gone = asyncio.create_task(log.wait_durable(end))
        stays = asyncio.create_task(log.wait_durable(end))
        await until(lambda: fsync.count() == 1)
        gone.cancel()
        fsync.open.set()
        await stays
        assert gone.cancelled()
