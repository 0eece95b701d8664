"""Memory that all write processes share: who is in use, how many connections each has, and which requests each remembers.

**Whose turn it is.** Of the processes that live some are *in use*, as many as have work enough (``use``): those that have been longest, so
that one that was away comes behind those that took its place. The first of them says how many. A connection that waits is seen by all
processes, and stays where it lands for as long as its sender keeps it. So a process that is not in use leaves it to those that are, one in
use that has more connections than another one leaves it to that for a moment, and both take it if nobody does. One in use that has two more
than another, as when that one has just come into use, ends one connection after its answer: it comes again, to the other one; one that is
not in use any more ends all of its connections so, one after the other. A process that has not said for a while that it lives does not
count.

**Who remembers a request.** Each process writes the keys of requests that may come again (``coordinator.write.repeats``) into a table of
its own, and looks into those of the others. There is one writer for each table and no lock: a look-up that meets a key that is just being
written has come before it.

The memory begins with a page for each process: u64 connections, u64 when it has said last that it lives (ns of the monotonic clock; 0: it
does not take connections), u64 how many keys it has written, u64 how busy it is (thousandths), u64 since when it is in use (ns; 0: it is
not). Then there is a page for all: u64 how many are in use. Behind these pages there is a table for each process: ``_BUCKETS`` buckets of
``_WAYS`` keys of 16 bytes, of which the first two bytes choose the bucket; zeros are no key.
"""

import mmap
import os
from collections.abc import Callable

from coordinator.writers.use import Use
from m3x.clock import monotonic_ns
from m3x.process import CpuShare

__all__ = ["KEY_BYTES", "Board", "Place"]

KEY_BYTES = 16
_PAGE = mmap.PAGESIZE
_WORDS = _PAGE // 8
_BUCKETS = 4096
_WAYS = 16
_BUCKET_BYTES = _WAYS * KEY_BYTES
_TABLE_BYTES = _BUCKETS * _BUCKET_BYTES
_NO_KEY = bytes(KEY_BYTES)
_CONNECTIONS, _ALIVE, _KEYS, _BUSY, _SINCE, _BEGAN = range(6)
_PER_WHOLE = 1000
_NEVER = 1 << 64
_LEAVE_S = 0.03
_SPARE_S = 0.3
"""A process that is not in use leaves a connection so long to those that are, which may be in the middle of large requests."""
_DEAD_NS = 2_000_000_000
_TOO_MANY = 2
_FULL_NS = 3_000_000_000
_SHED_NS = 100_000_000
"""A connection that was ended needs so long to be counted elsewhere."""


class Board:
    """Of ``processes``; ``descriptor`` names the memory, and is closed with it."""

    def __init__(self, descriptor: int, processes: int, now_ns: Callable[[], int] = monotonic_ns) -> None:
        self.descriptor = descriptor
        self.processes = processes
        self.now_ns = now_ns
        self._tables_at = (processes + 1) * _PAGE
        self._memory = mmap.mmap(descriptor, _size(processes))
        self._words = memoryview(self._memory)[: self._tables_at].cast("Q")

    @classmethod
    def made(cls, processes: int, in_use: int) -> "Board":
        """A new one."""
        descriptor = os.memfd_create("m3coordinator", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _size(processes))
        board = cls(descriptor, processes)
        board.use(in_use)
        return board

    def close(self) -> None:
        """Gives the memory back."""
        self._words.release()
        self._memory.close()
        os.close(self.descriptor)

    # --- connections

    def alive(self, process: int) -> bool:
        """Whether it has said lately that it takes connections."""
        return self.now_ns() - self._words[process * _WORDS + _ALIVE] < _DEAD_NS

    def connections(self, process: int) -> int:
        """How many it has."""
        return self._words[process * _WORDS + _CONNECTIONS]

    def have(self, process: int, connections: int) -> None:
        """It has so many."""
        self._words[process * _WORDS + _CONNECTIONS] = connections

    def live(self, process: int, busy: float = 0.0, *, takes: bool = True) -> None:
        """It takes connections, or does not any more; ``busy``: see ``busy``."""
        if not self.alive(process):
            self._words[process * _WORDS + _BEGAN] = self.now_ns()
        self._words[process * _WORDS + _BUSY] = round(busy * _PER_WHOLE)
        self._words[process * _WORDS + _ALIVE] = self.now_ns() if takes else 0

    def living(self) -> list[int]:
        """Those that take connections: those in use first, longest first, then those that have been there longest."""
        living = [process for process in range(self.processes) if self.alive(process)]
        return sorted(living, key=self._order)

    def _order(self, process: int) -> tuple[int, int]:
        at = process * _WORDS
        return self._words[at + _SINCE] or _NEVER, self._words[at + _BEGAN]

    def busy(self, process: int) -> float:
        """Which part it has said last that it uses of what it can: of a core, or of its buffer."""
        return self._words[process * _WORDS + _BUSY] / _PER_WHOLE

    @property
    def in_use(self) -> int:
        """How many of those that live are in use, where there are so many."""
        return self._words[self.processes * _WORDS]

    def use(self, processes: int) -> None:
        """So many of those that live are in use from now on."""
        self._words[self.processes * _WORDS] = processes
        used = self.used()
        for process in range(self.processes):
            at = process * _WORDS + _SINCE
            if process not in used:
                self._words[at] = 0
            elif not self._words[at]:
                self._words[at] = self.now_ns()

    def used(self) -> list[int]:
        """Those in use."""
        return self.living()[: self.in_use]

    # --- requests

    def write(self, process: int, key: bytes) -> None:
        """It remembers the request with this key. Where too many are there already, nobody hears of it."""
        at = self._at(process, key)
        bucket = self._memory[at : at + _BUCKET_BYTES]
        if _find(bucket, key) < 0 and (free := _find(bucket, _NO_KEY)) >= 0:
            self._memory[at + free : at + free + KEY_BYTES] = key
            self._words[process * _WORDS + _KEYS] += 1

    def erase(self, process: int, key: bytes) -> None:
        """It does not any more."""
        at = self._at(process, key)
        if (found := _find(self._memory[at : at + _BUCKET_BYTES], key)) >= 0:
            self._memory[at + found : at + found + KEY_BYTES] = _NO_KEY
            self._words[process * _WORDS + _KEYS] -= 1

    def any_but(self, process: int) -> bool:
        """Whether any other process remembers anything."""
        return any(self._words[one * _WORDS + _KEYS] for one in range(self.processes) if one != process)

    def owner(self, key: bytes, but: int) -> int | None:
        """Another process that remembers the request with this key."""
        for process in range(self.processes):
            if process != but and self._words[process * _WORDS + _KEYS]:
                at = self._at(process, key)
                if _find(self._memory[at : at + _BUCKET_BYTES], key) >= 0:
                    return process
        return None

    def clear(self, process: int) -> None:
        """It is dead, and so is all that it knew."""
        for word in (_CONNECTIONS, _ALIVE, _KEYS, _BUSY, _SINCE, _BEGAN):
            self._words[process * _WORDS + word] = 0
        at = self._tables_at + process * _TABLE_BYTES
        self._memory[at : at + _TABLE_BYTES] = bytes(_TABLE_BYTES)

    def _at(self, process: int, key: bytes) -> int:
        bucket = int.from_bytes(key[:2], "little") % _BUCKETS
        return self._tables_at + process * _TABLE_BYTES + bucket * _BUCKET_BYTES


def _size(processes: int) -> int:
    return (processes + 1) * _PAGE + processes * _TABLE_BYTES


def _find(bucket: bytes, key: bytes) -> int:
    """Where a key is in its bucket; -1: it is not there."""
    found = bucket.find(key)
    while found >= 0 and found % KEY_BYTES:
        found = bucket.find(key, found + 1)
    return found


class Place:
    """What one process does at the board (``m3x.web.Sharing``). ``next_at``: see ``Use``; 0: how many are in use does not change."""

    def __init__(self, board: Board, process: int, next_at: float = 0.0) -> None:
        self._board = board
        self._process = process
        self._use = Use(next_at) if next_at else None
        self._decides = False
        self._full_until_ns = 0
        self._share: CpuShare | None = None
        """None: it has not said yet that it lives. What its start costs says nothing about its work."""
        self._shed_ns = 0

    def pause_s(self, connections: int) -> float:
        """See ``Sharing``."""
        used = self._board.used()
        if used and self._process not in used:
            return _SPARE_S
        fewest = self._fewest_of_others(used)
        return 0.0 if fewest is None or connections <= fewest else _LEAVE_S

    def have(self, connections: int) -> None:
        """See ``Sharing``."""
        self._board.have(self._process, connections)

    def cannot_take(self) -> None:
        """See ``Sharing``."""
        self._full_until_ns = self._board.now_ns() + _FULL_NS

    def live(self, full: float = 0.0, *, takes: bool = True) -> None:
        """This process takes connections, or does not any more; ``full``: which part of its buffer is taken. The first process in use says
        how many are."""
        board, now_ns = self._board, self._board.now_ns()
        busy, self._share = (0.0, CpuShare()) if self._share is None else (self._share.since_last(), self._share)
        board.live(self._process, max(busy, full, float(now_ns < self._full_until_ns)), takes=takes)
        living = board.living()
        decided, self._decides = self._decides, bool(living) and living[0] == self._process
        if not self._decides:
            return
        if self._use is None:
            board.use(board.in_use)
            return
        if not decided:
            self._use.begin(now_ns)
        board.use(self._use.of(board.in_use, [board.busy(one) for one in living], now_ns))

    def has_too_many(self) -> bool:
        """Whether the connection that is being answered should go to another process."""
        board = self._board
        now_ns = board.now_ns()
        if now_ns - self._shed_ns < _SHED_NS:
            return False
        used = board.used()
        fewest = self._fewest_of_others(used)
        if fewest is None:
            return False
        if self._process in used and board.connections(self._process) < fewest + _TOO_MANY:
            return False
        self._shed_ns = now_ns
        return True

    def _fewest_of_others(self, used: list[int]) -> int | None:
        """The fewest connections that another one of these processes has; None: there is no other one."""
        return min((self._board.connections(one) for one in used if one != self._process), default=None)
