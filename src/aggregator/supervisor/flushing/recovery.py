"""After a replay, and in a new term: rollups are not flushed before what feeds them has been flushed again, and has arrived. Pure.

A worker that replayed its journal holds windows whose output may not have arrived before it died; a new leader holds windows whose output
may not have arrived everywhere before the leader before it was gone. Each list is *open* then until a flush of it has been given once more
and its forwarded parts are done. As long as a list is open on any worker, no list of rollups that are one hop further or more is flushed:
its sources would come too late. Nor is any list of rollups while a worker *replays*, from the death of the one before: which lists it will
have is not known. Both end after ``PATIENCE_NS`` at the latest.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from aggregator.lists import ListId

__all__ = ["PATIENCE_NS", "Recovery"]

PATIENCE_NS = 60_000_000_000


@dataclass(slots=True)
class _Flush:
    worker: int
    list_id: ListId
    parts: set[int] = field(default_factory=set)
    """Forwarded ones that are not done."""
    ended: bool = False


class Recovery:
    """See the module."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, ListId], int] = {}
        """Until when it is waited for."""
        self._flushes: dict[int, _Flush] = {}
        self._replaying: dict[int, int | None] = {}
        """Workers that replay, and until when it is waited for them; None: since it is asked."""

    def __bool__(self) -> bool:
        return bool(self._open)

    def replays(self, worker: int) -> None:
        """A worker replays its journal, or soon will; told again of one that dies while it does, it changes nothing."""
        self._replaying.setdefault(worker, None)

    def begin(self, worker: int, lists: set[ListId], now_ns: int) -> None:
        """A worker has replayed its journal, and has these lists."""
        self._replaying.pop(worker, None)
        self._open |= {(worker, list_id): now_ns + PATIENCE_NS for list_id in lists}

    def lead(self, lists: Iterable[tuple[int, ListId]], now_ns: int) -> list[ListId]:
        """A term begins, in which workers have these lists; returns those that are to be flushed at once: what feeds others."""
        self._flushes.clear()
        lists = list(lists)
        furthest = max((list_id.times_forwarded for _, list_id in lists), default=0)
        feeders = [key for key in lists if key[1].times_forwarded < furthest]
        self._open = dict.fromkeys([*self._open, *feeders], now_ns + PATIENCE_NS)
        return sorted({list_id for _, list_id in self._open})

    def gone(self, worker: int) -> None:
        """A worker has ended."""
        self._open = {key: until for key, until in self._open.items() if key[0] != worker}
        self._flushes = {number: flush for number, flush in self._flushes.items() if flush.worker != worker}

    def holds(self, list_id: ListId, now_ns: int) -> bool:
        """Whether a list must not be flushed yet."""
        if list_id.times_forwarded and self._awaits_replays(now_ns):
            return True
        if not self._open:
            return False
        self._open = {key: until for key, until in self._open.items() if until > now_ns}
        return any(feeder.times_forwarded < list_id.times_forwarded for _, feeder in self._open)

    def _awaits_replays(self, now_ns: int) -> bool:
        for worker, until in self._replaying.items():
            if until is None:
                self._replaying[worker] = now_ns + PATIENCE_NS
        return any(until is None or until > now_ns for until in self._replaying.values())

    def given(self, worker: int, list_id: ListId, flush_id: int) -> None:
        """A flush that emits was given."""
        if (worker, list_id) in self._open:
            self._flushes[flush_id] = _Flush(worker, list_id)

    def part(self, flush_id: int, number: int) -> None:
        """A forwarded part of a flush came."""
        if (flush := self._flushes.get(flush_id)) is not None:
            flush.parts.add(number)

    def done(self, flush_id: int, number: int) -> None:
        """A part is done."""
        if (flush := self._flushes.get(flush_id)) is not None:
            flush.parts.discard(number)
            self._look(flush_id, flush)

    def last(self, flush_id: int) -> None:
        """All parts of a flush came."""
        if (flush := self._flushes.get(flush_id)) is not None:
            flush.ended = True
            self._look(flush_id, flush)

    def refused(self, flush_id: int) -> None:
        """A flush was not done."""
        self._flushes.pop(flush_id, None)

    def _look(self, flush_id: int, flush: _Flush) -> None:
        if flush.ended and not flush.parts:
            del self._flushes[flush_id]
            key = flush.worker, flush.list_id
            if not any((other.worker, other.list_id) == key for other in self._flushes.values()):
                self._open.pop(key, None)
