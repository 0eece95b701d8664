"""Producers as sinks: when they are given a batch."""

from typing import Any, Literal

import numpy as np
import pytest

from aggregator.supervisor.output.forwarder import Ended, Part
from aggregator.supervisor.output.sinks import ProducerSink
from m3msg.batch import MessageBatch
from m3msg.producer import Awaited, Done, Mark
from m3msg.producer.options import BufferOptions


class FakeProducer:
    def __init__(self, room: int) -> None:
        self.left = room
        self.num_shards = 4
        self.on_done: Any = None
        self.on_awaited: Any = None
        self.away = False
        self.saturated = False

    def room(self, *, forwarded: bool) -> int:
        assert isinstance(forwarded, bool)
        return self.left

    def produce(self, batch: MessageBatch, *, fenced: bool, forwarded: bool) -> bool:
        assert fenced, "only a leader's output comes here"
        return self.num_shards > 0

    drops = 0
    got = True
    """Whether all replicas have everything."""

    def mark(self) -> Mark:
        return Mark(0, self.drops)

    def have(self, mark: Mark) -> bool:
        return self.got and mark.drops == self.drops


class FakeForwarder:
    def __init__(self) -> None:
        self.heard: list[tuple[Any, Any]] = []

    def ended(self, sink: ProducerSink, part: Any, end: Ended) -> None:
        self.heard.append((part, end))

    def arrived(self, part: Any) -> None:
        self.heard.append((part, "arrived"))

    def fenced(self) -> None:
        self.heard.append((None, "fenced"))

    def awaits(self, sink: ProducerSink, part: Any, shards: frozenset[int]) -> None:
        self.heard.append((part, set(shards)))


def sink_of(producer: Any, buffer: BufferOptions, forwarder: Any = None, *, forwarded: bool = False) -> ProducerSink:
    return ProducerSink(producer, forwarder or FakeForwarder(), buffer, topic="t", forwarded=forwarded)


@pytest.mark.parametrize("strategy", ["dropOldest", "returnError"])
@pytest.mark.parametrize(
    ("room", "nbytes", "expected"),
    [(150, 100, True), (149, 100, False), (999, 5000, False), (1000, 5000, True), (0, 1, False)],
)
def test_a_batch_waits_until_nothing_older_is_given_up_for_it(
    strategy: Literal["dropOldest", "returnError"], room: int, nbytes: int, expected: bool
) -> None:
    producer: Any = FakeProducer(room)
    buffer = BufferOptions(on_full_strategy=strategy, max_buffer_size=1000, max_message_size=100)
    assert sink_of(producer, buffer).room(nbytes) is expected


def test_rollups_have_their_own_buffer() -> None:
    producer: Any = FakeProducer(50)
    buffer = BufferOptions(
        on_full_strategy="returnError", max_buffer_size=1000, max_message_size=100, forwarded_buffer_size=50
    )
    sink = sink_of(producer, buffer, forwarded=True)
    assert not sink.room(1), "the producer has not been started"
    sink.started = True
    assert sink.room(200)
    assert not sink_of(producer, buffer).room(200)


def test_rollups_do_not_wait_for_a_topic_that_is_not_there() -> None:
    producer: Any = FakeProducer(0)
    producer.num_shards = 0
    forwarder = FakeForwarder()
    sink = sink_of(producer, BufferOptions(max_buffer_size=1 << 20), forwarder, forwarded=True)
    assert not sink.room(1)
    sink.started = True
    assert sink.room(1)
    sink.deliver(MessageBatch(np.zeros(4, np.uint8), np.array([0, 2, 4]), np.zeros(2, np.uint32), token="part"))
    ((part, end),) = forwarder.heard
    assert (part, end.lost, end.example["reason"], end.example["topic"]) == ("part", 2, "the topic does not exist", "t")
    assert sink.pending == 0


def test_a_batch_of_which_nothing_is_awaited_any_more_is_not_pending() -> None:
    producer: Any = FakeProducer(1000)
    forwarder = FakeForwarder()
    sink = sink_of(producer, BufferOptions(), forwarder)
    sink.deliver(MessageBatch(np.zeros(4, np.uint8), np.array([0, 2, 4]), np.zeros(2, np.uint32), token="part"))
    assert sink.pending == 1
    pending = []
    for origins in ({1, 2}, {2}, set(), {2}):
        producer.on_awaited(Awaited("part", frozenset(origins)))
        pending.append(sink.pending)
    assert pending == [1, 1, 0, 1]
    producer.on_done(Done("part", acked=2, lost=0, filtered=0))
    assert sink.pending == 0
    assert forwarder.heard == [("part", {1, 2}), ("part", {2}), ("part", set()), ("part", {2}), ("part", Ended(2))]


@pytest.mark.parametrize(("started", "away"), [(False, False), (True, True)])
def test_a_sink_is_away_once_its_topic_has_been_waited_for(started: bool, away: bool) -> None:
    producer: Any = FakeProducer(0)
    producer.away = True
    sink = sink_of(producer, BufferOptions())
    sink.started = started
    assert sink.away is away


def owing(producer: Any, forwarder: FakeForwarder, count: int = 2) -> tuple[ProducerSink, list[Part]]:
    """A sink that is done with some parts, which a replica lacks."""
    producer.got = False
    sink = sink_of(producer, BufferOptions(), forwarder, forwarded=True)
    parts = []
    for number in range(count):
        offsets, shards = np.array([0, 2, 4]), np.zeros(2, np.uint32)
        origins = np.array([number, 3], np.uint32)
        parts.append(Part(0, 1, 7, number, MessageBatch(np.zeros(4, np.uint8), offsets, shards, origins=origins)))
        sink.deliver(parts[-1].take())
        producer.on_done(Done(parts[-1], acked=2, lost=0, filtered=0))
    return sink, parts


def test_what_a_replica_lacks_is_owed_from_the_shards_that_it_comes_from() -> None:
    producer: Any = FakeProducer(1000)
    forwarder = FakeForwarder()
    sink, (one, two) = owing(producer, forwarder)
    assert (one.owed, two.owed) == ({0, 3}, {1, 3})
    assert sink.pending == 0, "it is done all the same"
    assert sink.look()
    producer.got = True
    assert not sink.look()
    assert forwarder.heard == [(one, Ended(2)), (two, Ended(2)), (one, "arrived"), (two, "arrived")]
    assert not sink.look()


def test_a_replica_gets_nothing_more_from_who_has_lost_the_lead() -> None:
    producer: Any = FakeProducer(1000)
    forwarder = FakeForwarder()
    sink, _ = owing(producer, forwarder)
    producer.drops += 1
    assert not sink.look()
    assert forwarder.heard[2:] == [(None, "fenced")]
    sink, _ = owing(producer, forwarder)
    sink.forget()
    producer.got = True
    assert not sink.look()


def test_final_output_is_owed_to_nobody() -> None:
    producer: Any = FakeProducer(1000)
    producer.got = False
    sink = sink_of(producer, BufferOptions())
    part = Part(0, 1, 7, 1, MessageBatch(np.zeros(4, np.uint8), np.array([0, 2, 4]), np.zeros(2, np.uint32)))
    sink.deliver(part.take())
    producer.on_done(Done(part, acked=2, lost=0, filtered=0))
    assert not part.owed
    assert not sink.look()
