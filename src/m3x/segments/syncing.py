"""Makes what was appended durable, in a thread of its own: no fsync is ever made on the thread that appends.

What fsync refused once is no longer dirty for the kernel, and a second fsync would succeed without having written it. So after a failure
the bytes in question are read back, judged by their checksums and written once more before fsync is tried again; meanwhile the durable
position stands still, and whoever waits for it goes on waiting. If they cannot be read back the log has failed, and everyone is told.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from m3x import log as logs
from m3x.segments.errors import SegmentError
from m3x.segments.format import SegmentHeader, encode_header
from m3x.segments.scan import CHUNK_BYTES, Damage, Position, SegmentScan

__all__ = ["Syncer"]

_log = logs.logger(__name__)

_RETRY_S = 1.0


@dataclass
class _File:
    fd: int
    header: SegmentHeader
    size: int
    """Bytes that are to be durable."""
    synced: int = 0
    """Bytes that are."""
    complete: bool = False
    """Nothing more is written to it: it is closed once it is durable."""


class Syncer:
    """Syncs the segments of one log. Methods belong to the thread that appends, unless they say otherwise."""

    def __init__(
        self,
        sync_directory: Callable[[], None],
        durable: Position,
        interval_s: float,
        on_durable: Callable[[Position], None] | None,
    ) -> None:
        """Starts the thread. ``interval_s``: the least time from one fsync to the next. ``on_durable`` is called in the thread."""
        self.durable = durable
        self.trouble = ""
        self.failure: SegmentError | None = None
        self._sync_directory = sync_directory
        self._interval_s = interval_s
        self._on_durable = on_durable
        self._files: list[_File] = []
        self._begun = self._named = 0
        self._end = durable
        self._changed = threading.Condition()
        self._waiters: list[tuple[Position, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._idle = self._hurry = self._closing = False
        self._thread = threading.Thread(target=self._run, name="segments-sync", daemon=True)
        self._thread.start()

    def begin(self, fd: int, header: SegmentHeader) -> None:
        """A segment was made; its file is closed here when it is complete and durable."""
        with self._changed:
            self._files.append(_File(fd, header, 0))
            self._begun += 1

    def complete(self) -> None:
        """Nothing more is written to the segment that was begun last."""
        with self._changed:
            self._files[-1].complete = True
            self._changed.notify_all()

    def appended(self, end: Position) -> None:
        """The log now ends at ``end``, in the segment that was begun last."""
        with self._changed:
            self._files[-1].size = end.offset
            self._end = end
            if self._idle:
                self._changed.notify_all()

    async def wait(self, position: Position) -> None:
        """Returns when everything before ``position`` is durable. Raises the failure of the log."""
        loop = asyncio.get_running_loop()
        with self._changed:
            if self.failure is not None:
                raise self.failure
            if position <= self.durable:
                return
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((position, loop, future))
        await future

    def flush(self) -> None:
        """Blocks until all that was appended is durable. Raises ``SegmentError`` at the first fsync that fails."""
        with self._changed:
            if self.failure is not None:
                raise self.failure
            end = self._end
            self.trouble, self._hurry = "", True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.durable >= end or self.trouble)
            self._hurry = False
            if self.durable < end:
                raise self.failure or SegmentError(self.trouble)

    def close(self) -> None:
        """Ends the thread and closes the files, durable or not. Who still waits is told that it was in vain."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._fail(self.failure or SegmentError("the log was closed before that was durable"))
        for file in self._files:
            os.close(file.fd)
        self._files.clear()

    def _run(self) -> None:
        next_at = 0.0
        again = False
        while self._await_work(next_at):
            with self._changed:
                files = [(file, file.size) for file in self._files if file.synced < file.size]
                begun, end = self._begun, self._end
            started = time.monotonic()
            try:
                for file, size in files:
                    if again:
                        _write_again(file, size)
                    os.fdatasync(file.fd)
                if begun > self._named:
                    self._sync_directory()
                    self._named = begun
            except OSError as error:
                again = True
                next_at = started + max(self._interval_s, _RETRY_S)
                self._say(f"fsync failed: {error.strerror or error}; it is tried again every {_RETRY_S:g} s")
            except SegmentError as error:
                self._fail(error)
                return
            else:
                again = False
                next_at = started + self._interval_s
                self._advance(files, end)

    def _await_work(self, next_at: float) -> bool:
        """Returns when there is something to sync and its time has come; False: the end has come."""
        with self._changed:
            self._idle = True
            self._changed.wait_for(lambda: self._closing or self._is_due())
            self._idle = False
            while not (self._closing or self._hurry) and (left := next_at - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._closing

    def _is_due(self) -> bool:
        return self.durable < self._end or any(file.complete for file in self._files)

    def _say(self, trouble: str) -> None:
        with self._changed:
            self.trouble = trouble
            self._changed.notify_all()

    def _fail(self, error: SegmentError) -> None:
        with self._changed:
            self.failure, self.trouble = error, str(error)
            waiters, self._waiters = self._waiters, []
            self._changed.notify_all()
        for _, loop, future in waiters:
            _tell(loop, future, error)

    def _advance(self, files: list[tuple[_File, int]], end: Position) -> None:
        with self._changed:
            for file, size in files:
                file.synced = size
            done = [file for file in self._files if file.complete and file.synced == file.size]
            self._files = [file for file in self._files if file not in done]
            further = end > self.durable
            self.durable, self.trouble = end, ""
            reached = [waiter for waiter in self._waiters if waiter[0] <= end]
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > end]
            self._changed.notify_all()
        for file in done:
            os.close(file.fd)
        for _, loop, future in reached:
            _tell(loop, future, None)
        if further and self._on_durable is not None:
            try:
                self._on_durable(end)
            except Exception as error:
                # The fault of one call must not end the thread that everyone waits for.
                _log.error("the owner of a log failed to hear that it is durable", exception=error)


def _write_again(file: _File, size: int) -> None:
    """Makes the kernel hold what is not durable as not written yet. Raises ``SegmentError`` if it is not there any more, or ``OSError``."""
    damaged: list[Damage] = []
    scan = SegmentScan(file.fd, file.header, file.synced, on_damage=damaged.append)
    while scan.next(size) is not None:
        pass
    if scan.good != size or damaged:
        raise SegmentError(
            f"segment {file.header.number:016x} lost what was appended from offset {scan.good} on: it could not be "
            "written to the disk and cannot be read back; look after the disk, then start the process again"
        )
    if file.synced == 0:
        os.pwrite(file.fd, encode_header(file.header), 0)
    for offset in range(max(file.synced, file.header.size), size, CHUNK_BYTES):
        os.pwrite(file.fd, os.pread(file.fd, min(CHUNK_BYTES, size - offset), offset), offset)


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], error: SegmentError | None) -> None:
    def tell() -> None:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    with contextlib.suppress(RuntimeError):  # a loop that was closed waits for nothing any more
        loop.call_soon_threadsafe(tell)
