"""Snapshots by a forked child: the worker goes on, and shares its memory until it changes it.

The child is a copy of this process at one moment, with this one thread. It touches neither sockets nor the log, writes the snapshot,
deletes what is in it from the journal, and ends without a word to anything else. Its memory is what is changed meanwhile, and pieces of
columns.

With 1,000,000 series the fork takes 6 to 8 ms of CPU, and a page that is changed for the first time while there is a child 3 us: a message
takes 300 to 400 ns instead of 200 until all pages of entries and records have been, some 30,000. What is longer than that in a pause is
waiting for a processor (``scripts/bench pauses``). To delete a gigabyte of journal takes a quarter of a second, so that is no work for the
worker. The child has the worker's priority: with less (``nice`` 5 and 10, ``SCHED_BATCH``) it lives two to four times as long on a
busy machine, keeps more of what is changed meanwhile, and pauses are no shorter.
"""

import contextlib
import gc
import os
import signal
from collections.abc import Callable
from typing import NoReturn

import msgspec

from aggregator.engine import Engine
from aggregator.journal import Journal
from aggregator.journal.snapshots import Head
from m3x.clock import monotonic_ns
from m3x.log import logger
from m3x.process import die_with_parent
from m3x.segments import SegmentError

__all__ = ["Snapshots"]

_log = logger(__name__)

_LOOK_NS = 50_000_000
"""Whether the child has ended."""
_LOOK_IF_DUE_NS = 250_000_000
_AGAIN_NS = 10_000_000_000


class Snapshots:
    """Begins snapshots when they are due, one at a time."""

    def __init__(self, engine: Engine, journal: Journal, now_ns: Callable[[], int]) -> None:
        """``now_ns``: the newest stamp."""
        self._engine = engine
        self._journal = journal
        self._now_ns = now_ns
        self._child = 0
        self._head: Head | None = None
        self._began_ns = 0
        self._look_ns = 0
        self._paused_ns = 0
        """For how long the worker stood still when the last one began."""
        self.count = 0
        """How many were written."""
        self.pause_ns = 0
        """For how long it stood still for the last one that was written, at most at a time."""

    def step(self) -> None:
        """To be called in every turn."""
        now = monotonic_ns()
        if now < self._look_ns:
            return
        if self._child:
            pid, status = os.waitpid(self._child, os.WNOHANG)
            if pid:
                self._child = 0
                self._ended(os.waitstatus_to_exitcode(status))
        elif self._journal.snapshot_due(self._engine.saved_bytes()):
            self._begin()
        self._look_ns = max(self._look_ns, now + (_LOOK_NS if self._child else _LOOK_IF_DUE_NS))

    def _begin(self) -> None:
        self._began_ns = monotonic_ns()
        try:
            self._head = head = self._journal.begin_snapshot(self._now_ns(), self._engine.saved_bytes())
            parent = os.getpid()
            self._child = os.fork()
        except (OSError, SegmentError) as error:
            _log.error_limited("no snapshot of the journal could be begun", error=str(error))
            self._look_ns = monotonic_ns() + _AGAIN_NS
            return
        if self._child == 0:
            _write(self._engine, self._journal, head, parent)
        self._paused_ns = monotonic_ns() - self._began_ns

    def _ended(self, code: int) -> None:
        ended_ns = monotonic_ns()
        assert self._head is not None
        if code:
            _log.error_limited("a snapshot of the journal failed; the journal is kept instead", code=code)
            self._look_ns = monotonic_ns() + _AGAIN_NS
            return
        self.count += 1
        try:
            self._journal.snapshot_written(self._head)
        except (OSError, SegmentError) as error:
            _log.error_limited("what is in a snapshot could not be deleted from the journal", error=str(error))
        self.pause_ns = max(self._paused_ns, monotonic_ns() - ended_ns)
        took_s = (ended_ns - self._began_ns) / 1e9
        _log.debug("snapshot of the journal", seconds=round(took_s, 2), paused_ms=self.pause_ns // 1_000_000)

    def close(self) -> None:
        """Ends what is under way."""
        if self._child:
            with contextlib.suppress(OSError):
                os.kill(self._child, signal.SIGKILL)
                os.waitpid(self._child, 0)


def _write(engine: Engine, journal: Journal, head: Head, parent: int) -> NoReturn:
    """In the child."""
    code = 1
    try:
        gc.disable()
        die_with_parent(parent)
        once, tables = engine.save(consuming=True)
        journal.write_snapshot(msgspec.structs.replace(head, once=once), tables)
        code = 0
        # What cannot be deleted here the worker tries again, and says why.
        with contextlib.suppress(OSError):
            journal.delete_unneeded()
    finally:
        os._exit(code)
