"""Delivery against a model: sinks that take, refuse and fail, records that come and are dropped, and processes that end at any moment."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.coordinator.sinks.batches import LONG, SHORT, Row, batch_of, rows_of

from coordinator.sinks.delivery import Delivery, DeliveryOptions
from coordinator.sinks.intervals import Intervals
from coordinator.sinks.lanes import Batch, Record
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import Delivered, Parked, Refused, RefusedWhy
from coordinator.sinks.values import Values
from m3x.retry import Backoff

_SECOND = 1_000_000_000
_KINDS = ["taken", "parked", "later", "refused"]
_PARKED = 300
_LARGEST = 600 + 30 * 10 + 4 * 70
"""Memory of a record of ten rows with annotations."""


def _record(table: SeriesTable, first: int, series: list[int]) -> Record:
    """A value's time is its number; those of series that three divides have an annotation."""
    rows = [
        Row(b"series %d" % one, first + k, 0.0, SHORT if one % 2 else LONG, _annotation(one))
        for k, one in enumerate(series)
    ]
    return Record(first, first + len(rows), batch_of(table, rows))


def _annotation(series: int) -> bytes:
    return b"annotation %d" % series if series % 3 == 0 else b""


def _numbers(batch: Values) -> list[int]:
    return batch.time_ns.tolist()


@dataclass
class _Watcher:
    """Notes what it is told of one record."""

    first: int
    refusals: list[int] = field(default_factory=list)
    ended: str = ""
    answered: bool = False

    def refused(self, why: RefusedWhy, rows: np.ndarray, text: str) -> None:
        assert not self.ended
        self.refusals += (rows + self.first).tolist()

    def final(self) -> None:
        assert not self.ended
        self.ended = "final"

    def forgotten(self) -> None:
        assert not self.ended
        self.ended = "forgotten"


class _Machine(RuleBasedStateMachine):
    """The model: the log as lists of series by record, and which numbers are final in the eyes of this process."""

    ordered = True

    @initialize(lanes=st.integers(1, 3), batch_rows=st.integers(1, 12), window=st.sampled_from([1, 2_000, 8_000]))
    def begin(self, lanes: int, batch_rows: int, window: int) -> None:
        self.options = DeliveryOptions(
            ordered=self.ordered, lanes=lanes, batch_rows=batch_rows, window_bytes=window,
            backoff=Backoff(initial_s=1.0, max_s=4.0, jitter=False),
        )  # fmt: skip
        self.table = SeriesTable()
        self.log: dict[int, list[int]] = {}
        self.series: list[int] = []
        self.final: set[int] = set()
        self.saved: list[tuple[int, int]] = []
        self.lost: set[int] = set()
        self.delivered: set[int] = set()
        self.refused: set[int] = set()
        self.available = 0
        self.again_before = 0
        self.parked: dict[int, int] = {}
        """When those that are parked are due."""
        self.parks: dict[int, int] = {}
        """How often those were that are not final."""
        self.moved_on: set[int] = set()
        """Those that stand in the queue once more, with another number; and their new numbers."""
        self.moved_here: set[int] = set()
        self.record_of: list[int] = []
        self.arrived: set[int] = set()
        """Lanes whose batch has failed in a way that leaves open whether it arrived."""
        self.now_ns = 0
        self.core = Delivery(self.options, Intervals(), 0)
        self.under_way: dict[int, Batch] = {}
        self.attempts: dict[int, int] = {}
        self.watchers: list[_Watcher] = []

    @rule(series=st.lists(st.integers(0, 6), min_size=1, max_size=10), watched=st.booleans())
    def append(self, series: list[int], watched: bool) -> None:
        first = len(self.series)
        record = _record(self.table, first, series)
        if watched:
            record.watcher = _Watcher(first)
            self.watchers.append(record.watcher)
        dropped = self.core.counts.dropped
        self._note(first, series)
        self.core.append(record)
        self._note_dropped(dropped)

    def _note(self, first: int, series: list[int]) -> None:
        self.log[first] = series
        self.series += series
        self.record_of += [first] * len(series)

    def _note_dropped(self, dropped: int) -> None:
        # What the disk has not any more goes for good when the memory is full.
        gone = {one for one in range(self.available) if one in self.core._done} - self.final
        assert self.core.counts.dropped - dropped == len(gone)
        self.final |= gone
        self.lost |= gone

    @rule()
    def leave_the_table(self) -> None:
        self.table = SeriesTable()

    @rule(which=st.integers(0, 3))
    def take(self, which: int) -> None:
        number = which % len(self.core.lanes)
        lane = self.core.lanes[number]
        was_due = lane.due_ns is not None and lane.due_ns <= self.now_ns
        batch = self.core.take(number, self.now_ns)
        if batch is None:
            assert lane.batch is None or not was_due
            return
        if was_due:
            assert batch is self.under_way[number]
            if not self.moved_here & set(_numbers(batch.values)):
                assert batch.again == (number in self.arrived or self._before(_numbers(batch.values)))
            return
        assert number not in self.under_way
        self.under_way[number] = batch
        self.arrived.discard(number)
        numbers = _numbers(batch.values)
        if number_parks := {self.parks.get(one, 0) for one in numbers} - {0}:
            assert batch.parks == max(number_parks)
            assert all(self.parked.pop(one) <= self.now_ns for one in numbers), "came before it was due"
        assert 0 < len(numbers) <= self.options.batch_rows
        others = [one for k, b in self.under_way.items() if k != number for one in _numbers(b.values)]
        assert not set(numbers) & (self.final | set(others)), "given again without a reason"
        if not self.moved_here & set(numbers):
            assert batch.again == (self._before(numbers) or batch.parks > 0)
        self._check_rows(batch.values)
        for k, one in enumerate(numbers):
            earlier = {m for m in range(one) if self.series[m] == self.series[one]} - self.final - set(self.parks)
            assert (number == self.options.lanes) == (batch.parks > 0)
            assert batch.parks or not self.ordered or earlier <= set(numbers[:k]), (
                "overtook an earlier value of its series"
            )

    def _before(self, numbers: list[int]) -> bool:
        return any(one < self.again_before for one in numbers)

    def _check_rows(self, values: Values) -> None:
        for row in rows_of(values):
            one = self.series[row.time_ns]
            assert row.id == b"series %d" % one
            assert row.destination == (SHORT if one % 2 else LONG)
            assert row.annotation == _annotation(one)

    def _asked(self) -> list[int]:
        """Lanes whose batch the sink has."""
        return [number for number in self.under_way if self.core.lanes[number].due_ns is None]

    @precondition(lambda self: self._asked())
    @rule(
        which=st.integers(0, 3), fates=st.integers(0, (1 << 24) - 1), due_in_s=st.sampled_from([None, 0.0, 3.0, 1000.0])
    )
    def settle(self, which: int, fates: int, due_in_s: float | None) -> None:
        """``fates``: what becomes of the rows of the batch, two bits for each."""
        number = self._asked()[which % len(self._asked())]
        batch = self.under_way.pop(number)
        numbers = _numbers(batch.values)
        rows = {
            fate: np.array([k for k in range(len(numbers)) if _KINDS[fates >> 2 * k & 3] == fate], np.int64)
            for fate in _KINDS
        }
        result = Delivered()
        if len(rows["refused"]):
            result.refused.append(Refused(RefusedWhy.BAD_REQUEST, rows["refused"], "bad"))
        for fate, due in (("parked", due_in_s), ("later", 2.0)):
            if len(rows[fate]):
                result.parked.append(Parked(rows[fate], due, "not yet"))
                self._park([numbers[k] for k in rows[fate].tolist()], batch, due)
        self.core.settled(number, result, self.now_ns)
        final = set(numbers) - set(self.parked)
        self.final |= final
        self.refused |= {numbers[k] for k in rows["refused"].tolist()}
        self.delivered |= {numbers[k] for k in rows["taken"].tolist()}
        self.attempts.pop(number, None)
        for one in final:
            self.parks.pop(one, None)

    @rule(which=st.integers(0, 3), fates=st.integers(0, (1 << 24) - 1), due_in_s=st.sampled_from([None, 0.0, 3.0]))
    def deliver(self, which: int, fates: int, due_in_s: float | None) -> None:
        """At once."""
        self.take(which)
        if self._asked():
            self.settle(which, fates, due_in_s)

    def _park(self, numbers: list[int], batch: Batch, due_in_s: float | None) -> None:
        pause_s = min(2**batch.parks, 4.0) if due_in_s is None else due_in_s
        for one in numbers:
            self.parks[one] = batch.parks + 1
            self.parked[one] = self.now_ns + round(pause_s * _SECOND)

    @precondition(lambda self: self._asked())
    @rule(which=st.integers(0, 3), retry_after_s=st.sampled_from([None, None, 7.0]), arrived=st.booleans())
    def fail(self, which: int, retry_after_s: float | None, arrived: bool) -> None:
        number = self._asked()[which % len(self._asked())]
        lane = self.core.lanes[number]
        self.core.failed(number, self.now_ns, "no", retry_after_s=retry_after_s, arrived=arrived)
        batch = self.under_way[number]
        if batch.parks:
            # The lane goes on.
            del self.under_way[number]
            self._park(_numbers(batch.values), batch, retry_after_s)
            assert lane.batch is None
            return
        if arrived:
            self.arrived.add(number)
        attempts = self.attempts[number] = self.attempts.get(number, 0) + 1
        pause_s = min(2 ** (attempts - 1), 4.0) if retry_after_s is None else retry_after_s
        assert lane.due_ns == self.now_ns + pause_s * _SECOND

    @rule(seconds=st.integers(1, 5))
    def wait(self, seconds: int) -> None:
        self.now_ns += seconds * _SECOND

    @rule(most=st.integers(1, 4))
    def load(self, most: int) -> None:
        if (wanted := self.core.wanted()) is None:
            return
        start, stop = wanted
        for first, series in list(self.log.items()):
            if start <= first < stop and most:
                most -= 1
                self.core.loaded(_record(self.table, first, series))

    @rule()
    def save(self) -> None:
        self.saved = self.core.cursor()
        saved = {one for a, b in self.saved for one in range(a, b)}
        assert saved <= self.final
        if len(self.saved) < 64:
            whole = {
                n for a, s in self.log.items() if set(range(a, a + len(s))) <= self.final for n in range(a, a + len(s))
            }
            assert whole - saved == set()

    @precondition(lambda self: self.series)
    @rule(share=st.floats(0, 1))
    def drop(self, share: float) -> None:
        # What is dropped from disk and still in memory is delivered.
        before = max((first for first in [*self.log, len(self.series)] if first <= share * len(self.series)), default=0)
        on_disk = {one for a, b in self.core._disk for one in range(a, min(b, before))}
        assert self.core.drop(before) == len(on_disk)
        self.available = max(self.available, before)
        self.log = {first: series for first, series in self.log.items() if first >= before}
        self.final |= on_disk
        self.lost |= on_disk

    @precondition(lambda self: self.parked)
    @rule(share=st.floats(0, 1))
    def move(self, share: float) -> None:
        """The shell writes what is parked to the end of the queue."""
        before = round(share * len(self.series))
        moving = {one for one in self.parked if self.record_of[one] < before}
        records, dropped = [], self.core.counts.dropped
        for values, answered in self.core.parked_before(before):
            self._check_rows(values)
            numbers, first = _numbers(values), len(self.series)
            assert set(numbers) <= moving
            assert not answered or self.watchers
            self.moved_on |= set(numbers)
            self._note(first, [self.series[one] for one in numbers])
            self.moved_here |= set(range(first, len(self.series)))
            values.time_ns[:] = np.arange(first, len(self.series))
            records.append(Record(first, len(self.series), values, answered=answered))
        assert moving <= self.moved_on
        self.core.moved(before, records)
        self.final |= moving
        for one in moving:
            del self.parked[one], self.parks[one]
        self._note_dropped(dropped)

    @rule()
    def crash(self) -> None:
        """The memory is gone; the log and the last cursor are there."""
        saved = {one for a, b in self.saved for one in range(a, b)}
        gone = set(range(self.available)) - saved
        self.lost |= gone - self.delivered - self.refused - self.moved_on
        self.final = saved | gone
        self.again_before = len(self.series)
        self.under_way, self.attempts, self.watchers, self.parked, self.parks = {}, {}, [], {}, {}
        self.core = Delivery(self.options, Intervals(self.saved), len(self.series), self.available)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.core.end == len(self.series)
        assert self.core.waiting == len(self.series) - len(self.final)
        assert self.core.first <= min(set(range(len(self.series))) - self.final, default=len(self.series))
        # Beyond the window: one record, and what is read at once; and what pieces have beside their rows.
        assert self.core.memory_bytes <= self.options.window_bytes + 6 * _LARGEST + _PARKED * len(self.parks)

    @invariant()
    def what_is_parked_is_known(self) -> None:
        parked = self.core.parked()
        assert (0 if parked is None else parked.values) == len(self.parked)
        assert parked is None or 0 <= parked.since_ns <= self.now_ns
        waits = set(range(len(self.series))) - self.final - set(self.parks)
        assert self.core.first_unparked <= min(waits, default=len(self.series))
        if not self.under_way and not waits:
            assert self.core.first_unparked == len(self.series)

    @invariant()
    def watchers_know(self) -> None:
        for one in self.watchers:
            if one.ended == "final":
                assert set(one.refusals) <= self.refused

    def teardown(self) -> None:
        """In the end the sink takes everything."""
        if not hasattr(self, "core"):
            return
        for _ in range(20 * len(self.series) + 20):
            self.now_ns += 1000 * _SECOND
            self.load(4)
            for number in range(len(self.core.lanes)):
                self.take(number)
            while self._asked():
                self.settle(0, 0, None)
            self.nothing_is_forgotten()
        assert self.core.waiting == 0
        assert not self.core.lags
        assert self.core.memory_bytes == 0
        assert all(lane.rows == 0 for lane in self.core.lanes)
        assert self.core.parked() is None
        assert self.delivered | self.refused | self.lost | self.moved_on == set(range(len(self.series)))
        assert all(one.ended for one in self.watchers)
        assert self.core.cursor() == ([(0, len(self.series))] if self.series else [])


class _Unordered(_Machine):
    ordered = False


TestOrdered = _Machine.TestCase
TestOrdered.settings = settings(max_examples=60, stateful_step_count=60)
TestUnordered = _Unordered.TestCase
TestUnordered.settings = settings(max_examples=60, stateful_step_count=60)


@pytest.mark.parametrize("asked", [False, True])
def test_when_one_lane_has_success_the_others_do_not_wait_for_the_end_of_a_pause(asked: bool) -> None:
    core = Delivery(DeliveryOptions(lanes=2, backoff=Backoff(initial_s=60.0)), Intervals(), 0)
    core.append(_record(SeriesTable(), 0, list(range(20))))
    for lane in (0, 1):
        assert core.take(lane, 0) is not None
        core.failed(lane, 0, "503", retry_after_s=60.0 if asked else None)
        assert core.take(lane, _SECOND) is None
    assert core.take(0, 61 * _SECOND) is not None
    assert core.take(1, 61 * _SECOND) is not None
    core.failed(1, 61 * _SECOND, "503", retry_after_s=60.0 if asked else None)
    core.settled(0, Delivered(), 0)
    assert (core.take(1, 62 * _SECOND) is None) == asked


def test_what_the_queue_has_lost_is_counted_when_it_is_opened() -> None:
    core = Delivery(DeliveryOptions(), Intervals([(0, 10), (20, 30)]), 100, available=50)
    assert (core.counts.dropped, core.waiting, core.first) == (30, 50, 50)


def test_what_cannot_be_read_is_counted() -> None:
    core = Delivery(DeliveryOptions(), Intervals(), 100)
    assert core.wanted() == (0, 100)
    assert core.unreadable(0, 30) == 30
    assert core.unreadable(20, 40) == 10
    record = _record(SeriesTable(), 40, [1] * 5)
    record.stop = 60
    core.loaded(record)
    assert (core.counts.unreadable, core.waiting, core.wanted()) == (55, 45, (60, 100))
    empty = _record(SeriesTable(), 60, [])
    empty.stop = 100
    core.loaded(empty)
    assert (core.counts.unreadable, core.waiting) == (95, 5)
    assert core.take(0, 0) is not None
    core.settled(0, Delivered(), 0)
    assert core.cursor() == [(0, 100)]


def test_a_cursor_is_bounded() -> None:
    core = Delivery(DeliveryOptions(), Intervals([(10 * k, 10 * k + 1 + (k == 50)) for k in range(100)]), 1000)
    assert core.cursor(3) == [(0, 1), (10, 11), (500, 502)]
