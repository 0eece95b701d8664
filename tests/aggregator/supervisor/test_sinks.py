"""Producers as sinks: when they are given a batch."""

from typing import Any, Literal

import numpy as np
import pytest

from aggregator.supervisor.forwarder import Ended
from aggregator.supervisor.sinks import ProducerSink
from m3msg.batch import MessageBatch
from m3msg.producer.options import BufferOptions


class FakeProducer:
    def __init__(self, room: int) -> None:
        self.left = room
        self.num_shards = 4
        self.on_done: Any = None

    def room(self, *, forwarded: bool) -> int:
        assert isinstance(forwarded, bool)
        return self.left

    def produce(self, batch: MessageBatch, *, fenced: bool, forwarded: bool) -> bool:
        assert fenced, "only a leader's output comes here"
        return self.num_shards > 0


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
    assert ProducerSink(producer, lambda *_: None, buffer, forwarded=False).room(nbytes) is expected


def test_rollups_have_their_own_buffer() -> None:
    producer: Any = FakeProducer(50)
    buffer = BufferOptions(
        on_full_strategy="returnError", max_buffer_size=1000, max_message_size=100, forwarded_buffer_size=50
    )
    sink = ProducerSink(producer, lambda *_: None, buffer, forwarded=True)
    assert not sink.room(1), "the producer has not been started"
    sink.started = True
    assert sink.room(200)
    assert not ProducerSink(producer, lambda *_: None, buffer, forwarded=False).room(200)


def test_rollups_do_not_wait_for_a_topic_that_is_not_there() -> None:
    producer: Any = FakeProducer(0)
    producer.num_shards = 0
    ended: list[tuple[Any, Ended]] = []
    sink = ProducerSink(
        producer, lambda token, end: ended.append((token, end)), BufferOptions(max_buffer_size=1 << 20), forwarded=True
    )
    assert not sink.room(1)
    sink.started = True
    assert sink.room(1)
    sink.deliver(MessageBatch(np.zeros(4, np.uint8), np.array([0, 2, 4]), np.zeros(2, np.uint32), token="part"))
    assert ended == [("part", Ended(0, lost=2))]
    assert sink.pending == 0
