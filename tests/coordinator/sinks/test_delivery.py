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
from coordinator.sinks.sink import Delivered, Refused, RefusedWhy
from coordinator.sinks.values import Values
from m3x.retry import Backoff

_SECOND = 1_000_000_000
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
        self.log[first] = series
        self.series += series
        dropped = self.core.counts.dropped
        self.core.append(record)
        # What the disk has not any more goes for good when the memory is full.
        gone = {one for one in range(self.available) if one in self.core._done} - self.final
        assert self.core.counts.dropped - dropped == len(gone)
        self.final |= gone
        self.lost |= gone

    @rule()
    def leave_the_table(self) -> None:
        self.table = SeriesTable()

    @rule(number=st.integers(0, 2))
    def take(self, number: int) -> None:
        if number >= self.options.lanes:
            return
        lane = self.core.lanes[number]
        was_due = lane.due_ns is not None and lane.due_ns <= self.now_ns
        batch = self.core.take(number, self.now_ns)
        if batch is None:
            assert lane.batch is None or not was_due
            return
        if was_due:
            assert batch is self.under_way[number]
            assert batch.again == (number in self.arrived or self._before(_numbers(batch.values)))
            return
        assert number not in self.under_way
        self.under_way[number] = batch
        self.arrived.discard(number)
        numbers = _numbers(batch.values)
        assert 0 < len(numbers) <= self.options.batch_rows
        others = [one for k, b in self.under_way.items() if k != number for one in _numbers(b.values)]
        assert not set(numbers) & (self.final | set(others)), "given again without a reason"
        assert batch.again == self._before(numbers)
        self._check_rows(batch.values)
        for k, one in enumerate(numbers):
            earlier = {m for m in range(one) if self.series[m] == self.series[one]} - self.final
            assert not self.ordered or earlier <= set(numbers[:k]), "overtook an earlier value of its series"

    def _before(self, numbers: list[int]) -> bool:
        return any(one < self.again_before for one in numbers)

    def _check_rows(self, values: Values) -> None:
        for row in rows_of(values):
            one = self.series[row.time_ns]
            assert row.id == b"series %d" % one
            assert row.destination == (SHORT if one % 2 else LONG)
            assert row.annotation == _annotation(one)

    @rule(number=st.integers(0, 2), refused=st.sets(st.integers(0, 11)))
    def settle(self, number: int, refused: set[int]) -> None:
        if number not in self.under_way or self.core.lanes[number].due_ns is not None:
            return
        numbers = _numbers(self.under_way.pop(number).values)
        rows = np.array(sorted(k for k in refused if k < len(numbers)), np.int64)
        result = Delivered([Refused(RefusedWhy.BAD_REQUEST, rows, "bad")] if len(rows) else [])
        self.core.settled(number, result)
        self.final |= set(numbers)
        self.refused |= {numbers[k] for k in rows.tolist()}
        self.delivered |= set(numbers) - {numbers[k] for k in rows.tolist()}
        self.attempts.pop(number, None)

    @rule(number=st.integers(0, 2), retry_after_s=st.sampled_from([None, None, 7.0]), arrived=st.booleans())
    def fail(self, number: int, retry_after_s: float | None, arrived: bool) -> None:
        lane = self.core.lanes[number] if number in self.under_way else None
        if lane is None or lane.due_ns is not None:
            return
        self.core.failed(number, self.now_ns, "no", retry_after_s=retry_after_s, arrived=arrived)
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

    @rule()
    def crash(self) -> None:
        """The memory is gone; the log and the last cursor are there."""
        saved = {one for a, b in self.saved for one in range(a, b)}
        gone = set(range(self.available)) - saved
        self.lost |= gone - self.delivered - self.refused
        self.final = saved | gone
        self.again_before = len(self.series)
        self.under_way, self.attempts, self.watchers = {}, {}, []
        self.core = Delivery(self.options, Intervals(self.saved), len(self.series), self.available)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.core.end == len(self.series)
        assert self.core.waiting == len(self.series) - len(self.final)
        assert self.core.first <= min(set(range(len(self.series))) - self.final, default=len(self.series))
        # Beyond the window: one record, and what is read at once.
        assert self.core.memory_bytes <= self.options.window_bytes + 6 * _LARGEST

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
            self.now_ns += 10 * _SECOND
            self.load(4)
            for number in range(self.options.lanes):
                self.take(number)
                self.settle(number, set())
            self.nothing_is_forgotten()
        assert self.core.waiting == 0
        assert not self.core.lags
        assert self.core.memory_bytes == 0
        assert self.delivered | self.refused | self.lost == set(range(len(self.series)))
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
    core.settled(0, Delivered())
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
    core.settled(0, Delivered())
    assert core.cursor() == [(0, 100)]


def test_a_cursor_is_bounded() -> None:
    core = Delivery(DeliveryOptions(), Intervals([(10 * k, 10 * k + 1 + (k == 50)) for k in range(100)]), 1000)
    assert core.cursor(3) == [(0, 1), (10, 11), (500, 502)]
