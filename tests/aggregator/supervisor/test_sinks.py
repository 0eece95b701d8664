"""Producers as sinks: when they are given a batch."""

from typing import Any, Literal

import pytest

from aggregator.supervisor.sinks import ProducerSink
from m3msg.producer.options import BufferOptions


class FakeProducer:
    def __init__(self, room: int) -> None:
        self.left = room
        self.on_done: Any = None

    def room(self, *, forwarded: bool) -> int:
        assert isinstance(forwarded, bool)
        return self.left


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
    assert ProducerSink(producer, lambda *_: None, buffer, forwarded=True).room(200)
    assert not ProducerSink(producer, lambda *_: None, buffer, forwarded=False).room(200)
