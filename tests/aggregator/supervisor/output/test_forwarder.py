"""Parts of flushes on their way to the sinks: credit, order, done."""

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from aggregator.ipc import Flushed
from aggregator.supervisor.output.forwarder import Blackhole, Ended, Forwarder, LoggingSink, Nowhere, Part, batch_of
from m3msg.batch import MessageBatch
from m3x.instrument import Registry


class Frame:
    def __init__(self, array: np.ndarray) -> None:
        self.buffer = memoryview(array.tobytes())


class FakeSink:
    def __init__(self) -> None:
        self.open = True
        self.taken: list[MessageBatch] = []

    away = False
    saturated = False

    def room(self, _nbytes: int) -> bool:
        return self.open

    def deliver(self, batch: MessageBatch) -> None:
        self.taken.append(batch)

    def look(self) -> bool:
        return False


class Rig:
    def __init__(self) -> None:
        self.settled: list[tuple[int, int, frozenset[int]]] = []
        self.fenced = 0
        self.credit: list[tuple[int, int, int]] = []
        self.registry = Registry()
        self.forwarder = Forwarder(
            lambda *settled: self.settled.append(settled),
            self.fence,
            lambda *credit: self.credit.append(credit),
            self.registry.scope("out"),
        )

    def fence(self) -> None:
        self.fenced += 1

    def part(self, flush_id: int, size: int = 10, worker: int = 0) -> Part:
        batch = MessageBatch(np.zeros(size, np.uint8), np.array([0, size]), np.zeros(1, np.uint32))
        return Part(worker, 1, flush_id, 10 * flush_id, batch)


@pytest.fixture
def without_search_for_cycles() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_parts_wait_while_every_sink_has_enough_to_do() -> None:
    rig, one, two = Rig(), FakeSink(), FakeSink()
    rig.forwarder.sinks += [one, two]
    one.saturated = True
    rig.forwarder.offer(rig.part(1))
    assert (len(one.taken), len(two.taken)) == (1, 1), "two would have waited for one"
    two.saturated = True
    rig.forwarder.offer(rig.part(2))
    assert (len(two.taken), rig.forwarder.waiting_bytes, rig.forwarder.held_up.is_set()) == (1, 10, True)
    # One that is away takes nothing, whatever it has in hand.
    one.away, one.saturated = True, False
    rig.forwarder.pump()
    assert len(two.taken) == 1
    two.saturated = False
    rig.forwarder.pump()
    assert (len(two.taken), rig.forwarder.waiting_bytes) == (2, 0)


def test_a_part_that_was_handed_on_holds_no_messages(without_search_for_cycles: None) -> None:
    rig, sink = Rig(), FakeSink()
    rig.forwarder.sinks.append(sink)
    part = rig.part(1)
    rig.forwarder.offer(part)
    payload = weakref.ref(sink.taken[0].payload)
    assert sink.taken.pop().token is part
    assert payload() is None
    with pytest.raises(LookupError):
        part.take()


def test_credit_goes_back_when_the_sinks_have_taken_a_part() -> None:
    rig, sink = Rig(), FakeSink()
    rig.forwarder.sinks.append(sink)
    sink.open = False
    rig.forwarder.offer(rig.part(1))
    rig.forwarder.offer(rig.part(2, 20, worker=1))
    assert (rig.credit, rig.forwarder.waiting_bytes) == ([], 30)
    sink.open = True
    rig.forwarder.pump()
    assert rig.credit == [(0, 1, 10), (1, 1, 20)]
    assert [b.token.flush_id for b in sink.taken] == [1, 2]
    assert rig.registry.counter("out_messages", output="final") == 2


def test_a_part_is_done_when_all_sinks_are() -> None:
    rig, one, two = Rig(), FakeSink(), FakeSink()
    rig.forwarder.sinks += [one, two]
    part = rig.part(5)
    rig.forwarder.offer(part)
    rig.forwarder.ended(one, part, Ended(1))
    assert rig.settled == []
    rig.forwarder.ended(two, part, Ended(0, lost=1))
    assert rig.settled == [(5, 50, frozenset())]
    assert rig.registry.counter("out_lost", output="final") == 1


def test_what_is_awaited_is_what_any_sink_awaits() -> None:
    rig, one, two = Rig(), FakeSink(), FakeSink()
    rig.forwarder.sinks += [one, two]
    part = rig.part(5)
    rig.forwarder.offer(part)
    rig.forwarder.awaits(one, part, frozenset([1, 2]))
    assert rig.settled == [], "of the other sink nothing is known"
    rig.forwarder.awaits(two, part, frozenset([3]))
    rig.forwarder.awaits(one, part, frozenset([2]))
    rig.forwarder.ended(two, part, Ended(1))
    rig.forwarder.awaits(two, part, frozenset([3]))
    rig.forwarder.ended(one, part, Ended(1))
    assert [awaited for _, _, awaited in rig.settled] == [{1, 2, 3}, {2, 3}, {2}, set()]


def test_messages_that_were_fenced_end_the_term_and_are_not_flushed() -> None:
    rig, sink = Rig(), FakeSink()
    rig.forwarder.sinks.append(sink)
    part = rig.part(5)
    rig.forwarder.offer(part)
    rig.forwarder.ended(sink, part, Ended(0, fenced=1))
    assert (rig.settled, rig.fenced) == ([], 1)


def test_a_sink_that_is_away_holds_no_other_up() -> None:
    rig, one, two = Rig(), FakeSink(), FakeSink()
    rig.forwarder.sinks += [one, two]
    two.open = False
    rig.forwarder.offer(rig.part(1))
    assert one.taken == [], "it is only slow"
    two.away = True
    rig.forwarder.pump()
    assert len(one.taken) == len(two.taken) == 1
    one.open, one.away = False, True
    rig.forwarder.offer(rig.part(2))
    assert len(one.taken) == 1, "where all are away, output waits"


def test_without_a_sink_parts_wait() -> None:
    rig = Rig()
    rig.forwarder.offer(rig.part(1))
    assert rig.credit == []


def test_what_waits_when_the_lead_is_lost_is_not_sent() -> None:
    rig, sink = Rig(), FakeSink()
    rig.forwarder.sinks.append(sink)
    sink.open = False
    rig.forwarder.offer(rig.part(1))
    rig.forwarder.drop()
    sink.open = True
    rig.forwarder.pump()
    assert (sink.taken, rig.credit, rig.settled) == ([], [(0, 1, 10)], [])


def test_static_backends_are_done_at_once() -> None:
    rig, seen = Rig(), []
    rig.forwarder.sinks += [
        Blackhole(rig.forwarder.ended),
        LoggingSink(rig.forwarder.ended, lambda data: seen.append(data) or {}),
    ]
    rig.forwarder.offer(rig.part(1, 3))
    assert rig.settled == [(1, 10, frozenset())]
    assert seen == [b"\0\0\0"]


def test_output_that_has_nowhere_to_go_is_lost_aloud_and_holds_nothing_up() -> None:
    rig, told = Rig(), []
    rig.forwarder.sinks.append(Nowhere(rig.forwarder.ended, lambda: told.append(1)))
    rig.forwarder.offer(rig.part(1))
    assert (rig.settled, rig.credit, told) == ([(1, 10, frozenset())], [(0, 1, 10)], [1])
    assert rig.registry.counter("out_lost", output="final") == 1


def test_frames_become_a_batch() -> None:
    header = Flushed(1, True, 2, False, ["10s:2d"])
    frames = [
        Frame(np.arange(5, dtype=np.uint8)), Frame(np.array([0, 2, 5], np.int64)), Frame(np.array([7, 8], np.uint32)),
        Frame(np.array([0, 0], np.uint16)), Frame(np.array([3, 4], np.uint32)),
    ]  # fmt: skip
    batch = batch_of(header, frames)
    assert (len(batch), batch.size_bytes, batch.policy_names) == (2, 5, ("10s:2d",))
    assert (batch.shards.tolist(), batch.origins.tolist()) == ([7, 8], [3, 4])
    with pytest.raises(ValueError, match="offsets"):
        batch_of(Flushed(1, True, 3, False, []), frames)
    with pytest.raises(ValueError, match="origins"):
        batch_of(header, [*frames[:4], Frame(np.array([3], np.uint32))])
