"""Which values a sink is given next, and which it has. Pure: the time is an argument.

The values of a queue have numbers (``coordinator.sinks.records``). Each of them is in one of five states::

    on disk only ──loaded──► waits in a lane ──take──► in a batch ──settled──► done
         ▲                        │    (memory)          ▲ │ └─failed: again, after a pause
         └──────window full───────┘                      │ └─parked─┐
                                                         └──due─────┘

* **Window.** Records in memory take at most ``window_bytes``. An ordered sink is given everything oldest first: while something is only
  on disk, what is appended stays on disk as well, and is read when its turn comes.
* **Newest first.** To a sink that is not ordered newer values matter more: when the window is full its oldest records are left to the disk.
  From then on, until the disk has nothing that memory has not, it *lags*: its lanes are given the newest values, and every fourth batch is
  of the backlog, oldest first, which has a quarter of the window. Where nothing newer waits, everything is for the backlog. So of two
  values for one time the older one may come last.
* **Lanes.** A series is always in the same lane, by the hash of its id. A lane has one batch, which is tried until it is settled. One that
  is not settled holds its own lane; the others once records that it has rows of fill the window.
* **Again.** A batch may have arrived before if an attempt of it failed (but for one that reached nobody), or if a value of it was in the
  queue when this process began.
* **Parked.** A sink may say of single rows of a batch *not yet*, and when to ask again. All others are settled, the lane goes on, and these
  come when they are due in a lane of their own, the last one, in no order to others. A batch of them that fails is parked once more: it
  holds nobody. They stay in memory, in the least that holds them, and count in the window: when that is
  full of them, the sink holds. So that they do not keep the disk occupied, ``parked_before`` and ``moved`` let the shell write them to the
  end of the queue.
* **Done** is a record when all of its rows are final. What is done is kept as intervals; the cursor is these, up to a bound.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.sinks.intervals import Intervals
from coordinator.sinks.lanes import Batch, Lane, Piece, Record, compose
from coordinator.sinks.parking import Group, Parking
from coordinator.sinks.sink import Delivered, Parked, RefusedWhy
from coordinator.sinks.values import Values
from m3x.retry import Backoff

__all__ = ["Counts", "Delivery", "DeliveryOptions", "ParkedNow"]

_SECOND = 1_000_000_000
_BACKOFF = Backoff(initial_s=0.5, max_s=30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryOptions:
    """How a sink is to be treated."""

    ordered: bool = True
    lanes: int = 1
    batch_rows: int = 10_000
    window_bytes: int = 64 << 20
    """Memory for records that wait."""
    backoff: Backoff = _BACKOFF
    """Between attempts of a batch, where the sink does not say how long."""


@dataclass(slots=True)
class Counts:
    """Values since the process began."""

    delivered: int = 0
    refused: dict[RefusedWhy, int] = field(default_factory=dict)
    refused_after_answer: int = 0
    """Of those refused, with ``already-there`` left out: who wrote them had been answered."""
    dropped: int = 0
    """Thrown away to make room for newer ones."""
    unreadable: int = 0
    """Lost to damage of the queue."""


@dataclass(frozen=True, slots=True)
class ParkedNow:
    """What is parked."""

    values: int
    since_ns: int
    """When the one was parked that has been for longest."""
    text: str
    """Why it was parked last."""


class Delivery:
    """One sink. ``done``: the numbers that were done before; ``end``: how many the queue has had; ``available``: the first it still has.

    ``damaged``: what is not done before ``available`` is lost to damage; else it was dropped before the process began.
    """

    def __init__(
        self, options: DeliveryOptions, done: Intervals, end: int, available: int = 0, *, damaged: bool = False
    ) -> None:
        self.options = options
        self.counts = Counts()
        self.lanes = [Lane(options.batch_rows) for _ in range(options.lanes + 1)]
        """The last one is for what is parked."""
        self._parking = Parking()
        self._end = end
        self._available = 0
        self._again_before = end
        self._done = done.gaps(0, end).gaps(0, end)
        self._disk = self._done.gaps(0, end)
        self._memory = 0
        self._backlog = 0
        self._backlog_records = 0
        self._partly = 0
        """Rows that are final, of records that are not done."""
        self._untouched: OrderedDict[int, Record] = OrderedDict()
        """Live records of which nothing was taken, by first number."""
        self._only_parked: dict[int, Record] = {}
        """Records of which nothing waits but what is parked, by first number."""
        self._passed = 0
        """Before it everything is done, or of such records."""
        if damaged:
            self._available = available
            self.unreadable(0, available)
        else:
            self.drop(available)

    @property
    def end(self) -> int:
        """The number of the next value."""
        return self._end

    @property
    def waiting(self) -> int:
        """How many values are not final yet."""
        return self._end - self._done.total - self._partly

    @property
    def first(self) -> int:
        """The lowest number that is not done."""
        return self._done.first[1] if 0 in self._done else 0

    @property
    def first_unparked(self) -> int:
        """The lowest number that is not done, leaving out records of which nothing waits but what is parked."""
        at = max(self._passed, self.first)
        while True:
            record = self._only_parked.get(at)
            after = self._done.end_of(at) if record is None else record.stop
            if after == at:
                self._passed = at
                return at
            at = after

    @property
    def memory_bytes(self) -> int:
        """Of records that wait or are under way."""
        return self._memory + self._backlog

    @property
    def lags(self) -> bool:
        """Whether not everything is in memory."""
        return bool(self._disk) or self._backlog_records > 0

    @property
    def on_disk(self) -> int:
        """How many values are on disk only."""
        return self._disk.total

    def cursor(self, most: int = 64) -> list[tuple[int, int]]:
        """The numbers that are done, as at most so many intervals; those left out are given again after a restart."""
        done = list(self._done)
        if len(done) > most:
            largest = sorted(done[1:], key=lambda one: one[0] - one[1])[: most - 1]
            done = [done[0], *sorted(largest)]
        return done

    def append(self, record: Record) -> None:
        """A record is in the queue now, behind all others."""
        self._end = record.stop
        if self._keep(record):
            self._enter(record)
        else:
            self._leave_to_disk(record)

    def wanted(self) -> tuple[int, int] | None:
        """The numbers that are to be read from disk next, if any: ``[start, stop)``."""
        whole = self.options.window_bytes if self.options.ordered else self._backlog_share
        return self._disk.first if self._disk and 2 * self._read_room() >= whole else None

    def loaded(self, record: Record) -> None:
        """A record was read from disk. What is not wanted any more is left out."""
        if not self._disk.remove(record.first, record.stop):
            return
        record.again = record.first < self._again_before
        lost = record.stop - record.first - len(record.values)
        self.counts.unreadable += lost
        if lost == record.stop - record.first:
            self._done.add(record.first, record.stop)
            return
        self._partly += lost
        record.backlog = not self.options.ordered
        self._enter(record)

    def unreadable(self, start: int, stop: int) -> int:
        """The values ``[start, stop)`` cannot be read from disk; returns how many of them were wanted."""
        lost = self._give_up(start, stop)
        self.counts.unreadable += lost
        return lost

    def drop(self, before: int) -> int:
        """The queue has nothing before that number any more; returns how many values are lost now: those in memory are not yet."""
        if before <= self._available:
            return 0
        self._available = before
        lost = self._give_up(0, before)
        self.counts.dropped += lost
        return lost

    def gathers(self, number: int) -> bool:
        """Whether a lane has values that do not fill a batch yet."""
        lane = self.lanes[number]
        return lane.batch is None and 0 < lane.rows < self.options.batch_rows

    def take(self, number: int, now_ns: int) -> Batch | None:
        """A batch for a lane, which has it then until ``settled`` or ``failed``; None: nothing waits, or its time has not come."""
        lane = self.lanes[number]
        if lane.batch is not None:
            if lane.due_ns is None or now_ns < lane.due_ns:
                return None
            lane.due_ns = None
            return lane.batch
        if number == self.options.lanes:
            batch = self._parking.take(now_ns, self.options.batch_rows)
        else:
            batch = lane.next(newest_first=self.lags and not self.options.ordered)
        if batch is not None:
            for piece in batch.pieces:
                self._untouched.pop(piece.record.first, None)
            lane.batch = batch
        return batch

    def due_ns(self, number: int) -> int | None:
        """When a lane in which nothing is under way has something to do, beside what comes; None: not by itself."""
        lane = self.lanes[number]
        return self._parking.due_ns if number == self.options.lanes and lane.batch is None else lane.due_ns

    def parked(self) -> ParkedNow | None:
        """What is, beside what is under way; None: nothing."""
        oldest = min(self._parking, key=lambda group: group.since_ns, default=None)
        return None if oldest is None else ParkedNow(self._parking.rows, oldest.since_ns, oldest.text)

    def parked_before(self, number: int) -> list[tuple[Values, bool]]:
        """The parked values of records that begin before a number: for each table once those that nobody waits for, and once the others."""
        kinds: dict[tuple[int, bool], list[Piece]] = {}
        for group in self._parking:
            for piece in group.pieces:
                if piece.record.first < number:
                    answered = piece.record.answered or piece.record.watcher is not None
                    kinds.setdefault((id(piece.record.values.table), answered), []).append(piece)
        return [(compose(pieces), answered) for (_, answered), pieces in kinds.items()]

    def moved(self, before: int, records: Sequence[Record]) -> None:
        """``parked_before(before)`` stands as these records at the end of the queue now, and is done where it was."""
        since_ns = None
        for piece in self._parking.remove(before):
            record = piece.record
            known = record.parked_since_ns
            since_ns = known if since_ns is None or known is None else min(since_ns, known)
            if record.watcher is not None:
                record.watcher.forgotten()
                record.watcher, record.answered = None, True
            self._unpark(piece)
            self._final(record, piece.stop)
        for record in records:
            record.again, record.parked_since_ns = True, since_ns
            self.append(record)

    def settled(self, number: int, result: Delivered, now_ns: int) -> None:
        """The lane's batch is final, but for what is parked."""
        lane = self.lanes[number]
        batch = lane.batch
        assert batch is not None
        if lane.failure:
            # The sink is back: nobody else has to wait for the end of a pause, unless the sink has asked for it.
            for other in self.lanes:
                if other.due_ns is not None and not other.asked:
                    other.due_ns = 0
        lane.batch, lane.failure, lane.held = None, "", False
        parked = self._park(batch, result.parked, now_ns)
        refused = 0
        for one in result.refused:
            refused += len(one.rows)
            self.counts.refused[one.why] = self.counts.refused.get(one.why, 0) + len(one.rows)
            for record, rows in batch.rows_of(one.rows):
                answered = record.answered if record.watcher is None else record.watcher.answered
                if answered and one.why is not RefusedWhy.ALREADY_THERE:
                    self.counts.refused_after_answer += len(rows)
                if record.watcher is not None:
                    record.watcher.refused(one.why, record.as_written(rows), one.text)
        self.counts.delivered += len(batch.values) - refused - parked
        for piece in batch.pieces:
            if piece.own is not None:
                self._unpark(piece)
            self._final(piece.record, piece.stop - piece.start)

    def failed(
        self,
        number: int,
        now_ns: int,
        text: str,
        *,
        retry_after_s: float | None = None,
        held: bool = False,
        arrived: bool = True,
    ) -> None:
        """The lane's batch has to be tried again. ``arrived``: parts of it may be there."""
        lane = self.lanes[number]
        assert lane.batch is not None
        if lane.batch.parks:
            everything = Parked(np.arange(len(lane.batch.values)), retry_after_s, text)
            self.settled(number, Delivered(parked=[everything]), now_ns)
            return
        lane.batch.again |= arrived
        lane.batch.attempts += 1
        pause_s = self.options.backoff.delay(lane.batch.attempts) if retry_after_s is None else retry_after_s
        lane.due_ns = now_ns + round(pause_s * _SECOND)
        lane.failure, lane.held, lane.asked = text, held, retry_after_s is not None

    def _park(self, batch: Batch, parked: Sequence[Parked], now_ns: int) -> int:
        """Parks rows of a batch; how many."""
        total = 0
        parks = batch.parks + 1
        for one in parked:
            pause_s = self.options.backoff.delay(parks) if one.due_in_s is None else one.due_in_s
            pieces, since_ns = [], now_ns
            for record, rows in batch.rows_of(one.rows):
                if record.parked_since_ns is None:
                    record.parked_since_ns = now_ns
                since_ns = min(since_ns, record.parked_since_ns)
                before = record.size_bytes
                pieces.append(record.park(rows))
                self._resized(record, before)
                # They are taken away with all other rows of the batch.
                record.left += len(rows)
                self._partly -= len(rows)
            if pieces:
                due_ns = now_ns + round(pause_s * _SECOND)
                self._parking.add(Group(pieces, due_ns, since_ns, parks, one.text))
            total += len(one.rows)
        return total

    def _unpark(self, piece: Piece) -> None:
        assert piece.own is not None
        before = piece.record.size_bytes
        piece.record.unpark(piece.own)
        self._resized(piece.record, before)

    def _final(self, record: Record, rows: int) -> None:
        """So many more rows of a record need no delivery any more."""
        record.left -= rows
        self._partly += rows
        if record.left == 0:
            self._finish(record)
        elif record.parked and record.left == sum(map(len, record.parked)):
            before = record.size_bytes
            record.shrink()
            self._resized(record, before)
            self._only_parked[record.first] = record

    def _resized(self, record: Record, before: int) -> None:
        if record.backlog:
            self._backlog += record.size_bytes - before
        else:
            self._memory += record.size_bytes - before

    def _give_up(self, start: int, stop: int) -> int:
        within = [(max(a, start), min(b, stop)) for a, b in self._disk if a < stop and b > start]
        for one in within:
            self._disk.remove(*one)
            self._done.add(*one)
        return sum(b - a for a, b in within)

    def _finish(self, record: Record) -> None:
        self._partly -= record.stop - record.first
        self._done.add(record.first, record.stop)
        self._only_parked.pop(record.first, None)
        if record.backlog:
            self._backlog -= record.size_bytes
            self._backlog_records -= 1
        else:
            self._memory -= record.size_bytes
        if record.watcher is not None:
            record.watcher.final()

    def _enter(self, record: Record) -> None:
        if record.backlog:
            self._backlog += record.size_bytes
            self._backlog_records += 1
        else:
            self._memory += record.size_bytes
            self._untouched[record.first] = record
        for lane, piece in record.split(self.options.lanes):
            self.lanes[lane].add(piece, backlog=record.backlog)

    def _keep(self, record: Record) -> bool:
        """Whether there is room for a new record in memory, which is made if that is right."""
        size, room = record.size_bytes, self.options.window_bytes
        if self.options.ordered:
            return not self._disk and (self._memory + size <= room or not self._memory)
        if self.lags:
            room -= self._backlog_share
        while self._memory and self._memory + size > room:
            if not self._untouched:
                return False
            _, oldest = self._untouched.popitem(last=False)
            self._memory -= oldest.size_bytes
            oldest.leave()
            for lane in oldest.lanes:
                self.lanes[lane].forget()
            self._leave_to_disk(oldest)
        return True

    def _leave_to_disk(self, record: Record) -> None:
        if record.first < self._available:
            # The disk does not have it either any more.
            self.counts.dropped += record.stop - record.first
            self._done.add(record.first, record.stop)
        else:
            self._disk.add(record.first, record.stop)
        if record.watcher is not None:
            record.watcher.forgotten()

    @property
    def _backlog_share(self) -> int:
        return self.options.window_bytes // 4

    def _read_room(self) -> int:
        """Bytes that may be read from disk."""
        if self.options.ordered:
            return self.options.window_bytes - self._memory
        return self._backlog_share - self._backlog
