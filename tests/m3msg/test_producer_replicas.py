"""Which replicas have what was forwarded: a batch that is done may be on its way to one that was away."""

import pytest
from tests.m3msg.producer_pair import Joined, make_batch

from m3cluster.topic import ConsumptionType
from m3msg.producer import Done, Mark, ProducerOptions
from m3msg.producer.options import BufferOptions, WriterOptions

ALL = range(4)
OPTIONS = ProducerOptions(
    writer=WriterOptions(topic_name="t"),
    buffer=BufferOptions(max_buffer_size=1 << 16, max_message_size=1 << 12, forwarded_buffer_size=4096),
)


def replicas(kind: ConsumptionType = ConsumptionType.REPLICATED) -> Joined:
    pair = Joined(OPTIONS, 4)
    pair.topic(pair.service(kind))
    pair.place({"a": ALL, "b": ALL})
    pair.connect("a", "b")
    return pair


def forward(pair: Joined, *, forwarded: bool = True, size: int = 5) -> Mark:
    """A batch that is done; the mark behind it."""
    pair.produce(make_batch([b"x" * size] * 4, ALL, token="t"), fenced=True, forwarded=forwarded)
    pair.advance(0.1)
    assert isinstance(pair.done[-1], Done)
    return pair.core.mark(pair.now)


def have(pair: Joined, mark: Mark) -> bool:
    return pair.core.have(mark, pair.now)


def test_a_replica_has_what_it_has_acked() -> None:
    pair = replicas()
    assert have(pair, forward(pair))
    pair.disconnect("b")
    mark = forward(pair)
    assert not have(pair, mark)
    later = forward(pair)
    pair.consumers["b"].acks = False
    pair.connect("b")
    pair.step()
    assert not have(pair, mark), "it is back, and has not acked its backlog"
    pair.release("b")
    assert have(pair, mark)
    assert have(pair, later)


def test_what_came_since_a_replica_is_back_does_not_count() -> None:
    pair = replicas()
    pair.disconnect("b")
    mark = forward(pair)
    pair.connect("b")
    pair.step()
    pair.consumers["a"].acks = pair.consumers["b"].acks = False
    pair.produce(make_batch([b"y"], [0]), forwarded=True)
    pair.step()
    assert have(pair, mark)


@pytest.mark.parametrize(("away_s", "expected"), [(50, False), (70, True)])
def test_a_replica_that_is_away_for_more_than_a_minute_is_not_waited_for(away_s: float, expected: bool) -> None:
    pair = replicas()
    pair.disconnect("b")
    mark = forward(pair)
    for _ in range(10):
        pair.advance(away_s / 10)
    assert have(pair, mark) is expected
    assert have(pair, forward(pair)) is expected
    pair.connect("b")
    pair.step()
    assert have(pair, mark), "it got it all the same"


def test_what_its_queue_has_lost_is_not_waited_for() -> None:
    pair = replicas()
    pair.disconnect("b")
    mark = forward(pair)
    assert not have(pair, mark)
    for _ in range(20):
        last = forward(pair, size=200)
    assert pair.figure("message-dropped", "reason=buffer-full")
    assert have(pair, mark)
    assert not have(pair, last)


def test_only_what_is_forwarded_to_replicas_counts() -> None:
    pair = replicas()
    pair.disconnect("b")
    assert have(pair, forward(pair, forwarded=False))
    shared = replicas(ConsumptionType.SHARED)
    shared.disconnect("b")
    assert have(shared, forward(shared))


def test_what_was_thrown_away_with_the_lead_nobody_has() -> None:
    pair = replicas()
    pair.disconnect("b")
    mark = forward(pair)
    pair.core.drop_unsent_fenced()
    assert not have(pair, mark)
    assert pair.core.mark(pair.now).drops > mark.drops
