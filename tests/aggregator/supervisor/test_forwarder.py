"""Parts of flushes on their way to the sinks: credit, order, done."""

import numpy as np
import pytest

from aggregator.ipc import Flushed
from aggregator.supervisor.forwarder import Blackhole, Ended, Forwarder, LoggingSink, Nowhere, Part, batch_of
from m3msg.batch import MessageBatch
from m3x.instrument import Registry


class Frame:
    def __init__(self, array: np.ndarray) -> None:
        self.buffer = memoryview(array.tobytes())


class FakeSink:
    def __init__(self) -> None:
        self.open = True
        self.taken: list[MessageBatch] = []

    def room(self, _nbytes: int) -> bool:
        return self.open

    def deliver(self, batch: MessageBatch) -> None:
        self.taken.append(batch)


class Rig:
    def __init__(self) -> None:
        self.done: list[tuple[int, Ended]] = []
        self.credit: list[tuple[int, int, int]] = []
        self.registry = Registry()
        self.forwarder = Forwarder(
            lambda flush_id, result: self.done.append((flush_id, result)),
            lambda *credit: self.credit.append(credit),
            self.registry.scope("out"),
        )

    def part(self, flush_id: int, size: int = 10, worker: int = 0) -> Part:
        batch = MessageBatch(np.zeros(size, np.uint8), np.array([0, size]), np.zeros(1, np.uint32))
        return Part(worker, 1, flush_id, batch)


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
    rig.forwarder.ended(part, Ended(1))
    assert rig.done == []
    rig.forwarder.ended(part, Ended(0, lost=1))
    assert rig.done == [(5, Ended(0, lost=1))]
    assert rig.registry.counter("out_lost", output="final") == 1


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
    assert (sink.taken, rig.credit, rig.done) == ([], [(0, 1, 10)], [])


def test_static_backends_are_done_at_once() -> None:
    rig, seen = Rig(), []
    rig.forwarder.sinks += [
        Blackhole(rig.forwarder.ended),
        LoggingSink(rig.forwarder.ended, lambda data: seen.append(data) or {}),
    ]
    rig.forwarder.offer(rig.part(1, 3))
    assert rig.done == [(1, Ended(1))]
    assert seen == [b"\0\0\0"]


def test_output_that_has_nowhere_to_go_is_lost_aloud_and_holds_nothing_up() -> None:
    rig, told = Rig(), []
    rig.forwarder.sinks.append(Nowhere(rig.forwarder.ended, lambda: told.append(1)))
    rig.forwarder.offer(rig.part(1))
    assert (rig.done, rig.credit, told) == ([(1, Ended(0, lost=1))], [(0, 1, 10)], [1])
    assert rig.registry.counter("out_lost", output="final") == 1


def test_frames_become_a_batch() -> None:
    header = Flushed(1, True, 2, False, ["10s:2d"])
    frames = [
        Frame(np.arange(5, dtype=np.uint8)), Frame(np.array([0, 2, 5], np.int64)), Frame(np.array([7, 8], np.uint32)),
        Frame(np.array([0, 0], np.uint16)),
    ]  # fmt: skip
    batch = batch_of(header, frames)
    assert (len(batch), batch.size_bytes, batch.policy_names) == (2, 5, ("10s:2d",))
    assert batch.shards.tolist() == [7, 8]
    with pytest.raises(ValueError, match="offsets"):
        batch_of(Flushed(1, True, 3, False, []), frames)
