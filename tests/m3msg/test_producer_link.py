"""One connection of a producer: what is on the wire, what is sent again, and when it has to be made anew."""

import numpy as np
import pytest

from m3cluster.topic import ConsumptionType
from m3msg.frames import FrameError, Metadata, encode_ack
from m3msg.producer import Done
from m3msg.producer.options import MessageRetryOptions
from m3msg.rows import ACK_ROW
from m3x.config import Duration

SHARED, REPLICATED = ConsumptionType.SHARED, ConsumptionType.REPLICATED
ALL = range(4)
VALUES = [f"value-{i}".encode() for i in range(20)]
SHARDS = [i % 4 for i in range(20)]
RETRY = {"message_retry": MessageRetryOptions(initial_backoff=Duration(5 * 10**9), jitter=False)}


def test_connection_is_the_writer_modulo_the_number_of_connections(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, num_connections=3)
    pair.produce(batch_of(VALUES, SHARDS))
    for link in pair.core.links():
        data = pair.write(link)
        pair.consumers[link.lane.endpoint].received.clear()
        if data:
            pair.deliver(link, data)
        assert all(writer % 3 == link.index for writer, _, _ in pair.consumers[link.lane.endpoint].received)


def test_messages_larger_than_a_portion_of_output(joined, batch_of):
    pair = joined(SHARED, {"a": ALL})
    values = [b"small", b"L" * (1 << 20), b"x" * (300 << 10), b"end"]
    pair.produce(batch_of(values, [0, 1, 2, 3]))
    pair.step()
    assert pair.consumers["a"].values == {v: 1 for v in values}
    assert pair.done == [Done(None, 4, 0, 0)]


def test_unacked_messages_are_sent_again_after_the_retry_interval(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, writer=RETRY)
    pair.consumers["a"].acks = False
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    pair.advance(4.9)
    assert len(pair.consumers["a"].received) == 20
    pair.advance(0.2)
    assert pair.consumers["a"].values == {v: 2 for v in VALUES}
    assert len({(s, i) for s, i, _ in pair.consumers["a"].received}) == 20  # same ids, fresh stamp
    assert pair.consumers["a"].stamps[-1] == pair.now.wall_ns
    pair.advance(9.9)
    assert len(pair.consumers["a"].received) == 40
    pair.advance(0.2)
    assert len(pair.consumers["a"].received) == 60
    assert pair.figure("message-retry") == 40
    pair.release("a")
    assert pair.done == [Done(None, 20, 0, 0)]
    pair.advance(100)
    assert len(pair.consumers["a"].received) == 60


def test_partly_acked_messages_are_not_repeated(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, writer=RETRY)
    pair.consumers["a"].acks = False
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    ((link, batch),) = pair.consumers["a"].held
    mask = np.arange(20) < 15
    batch.ack(mask)
    link.on_received(pair.consumers["a"].cores[0].take_acks(), pair.now)
    pair.advance(6)
    assert sorted(pair.consumers["a"].values.values()) == [1] * 15 + [2] * 5


def test_returning_consumer_gets_its_backlog_at_once(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, num_connections=2, writer=RETRY)
    pair.consumers["a"].acks = False
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    for _ in range(5):
        pair.advance(100)
    pair.disconnect("a")
    pair.produce(batch_of([b"new"], [2]))
    pair.consumers["a"].received.clear()
    pair.consumers["a"].acks = True
    pair.connect("a")
    pair.step()
    assert pair.consumers["a"].values == {v: 1 for v in [*VALUES, b"new"]}
    assert sorted(d.acked for d in pair.done) == [1, 20]


def test_bytes_cut_off_by_a_disconnect_are_sent_again(joined, batch_of):
    pair = joined(SHARED, {"a": ALL})
    pair.produce(batch_of(VALUES, SHARDS))
    (link,) = pair.core.links()
    pair.deliver(link, pair.write(link, limit=100))
    pair.disconnect("a")
    pair.connect("a")
    pair.step()
    assert set(pair.consumers["a"].values) == set(VALUES)
    assert pair.done == [Done(None, 20, 0, 0)]


def test_window_bounds_what_is_on_the_wire(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, window_size=2000)
    pair.consumers["a"].acks = False
    pair.produce(batch_of([b"x" * 100] * 100, [0] * 100))
    pair.step()
    assert len(pair.consumers["a"].received) == 20
    pair.consumers["a"].acks = True
    pair.release("a")
    pair.step()
    assert len(pair.consumers["a"].received) == 100
    assert pair.done == [Done(None, 100, 0, 0)]


def test_messages_that_are_never_acked_do_not_close_the_window_for_others(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, window_size=1000, writer=RETRY)
    pair.consumers["a"].acks = False
    pair.produce(batch_of([b"poison" * 50] * 5, [0] * 5))
    pair.step()
    pair.consumers["a"].acks = True
    pair.produce(batch_of(VALUES, SHARDS, token="good"))
    pair.step()
    assert pair.done == []
    pair.consumers["a"].acks = True
    pair.advance(6)
    assert Done("good", 20, 0, 0) in pair.done


def test_half_written_fenced_output_resets_the_connection(joined, batch_of):
    pair = joined(SHARED, {"a": ALL})
    pair.produce(batch_of(VALUES, SHARDS), fenced=True)
    (link,) = pair.core.links()
    pair.write(link, limit=10)
    assert link.out_fenced
    pair.core.drop_unsent_fenced()
    assert link.reset_reason
    assert link in pair.core.dirty
    pair.disconnect("a")
    pair.connect("a")
    pair.step()
    assert pair.consumers["a"].received == []
    assert not link.reset_reason


def test_acks_come_in_any_order_twice_and_for_strangers(joined, batch_of):
    pair = joined(SHARED, {"a": ALL})
    pair.consumers["a"].acks = False
    for i in range(3):
        pair.produce(batch_of(VALUES, SHARDS, token=i))
        pair.step()
    core = pair.consumers["a"].cores[0]
    for link, batch in reversed(pair.consumers["a"].held):
        batch.ack()
        batch.ack()
        link.on_received(encode_ack([]) + core.take_acks(), pair.now)
    pair.collect()
    assert sorted(d.token for d in pair.done) == [0, 1, 2]
    link.on_received(encode_ack([Metadata(77, 1, 0), Metadata(0, 10**6, 0)]), pair.now)
    assert pair.figure("ack-ignored") > 0


def test_garbage_instead_of_acks_is_an_error(joined):
    pair = joined(SHARED, {"a": ALL})
    (link,) = pair.core.links()
    with pytest.raises(FrameError):
        link.on_received(b"\x00\x00\x00\x02\x08\x01", pair.now)
    with pytest.raises(FrameError):
        link.on_received(b"\xff\xff\xff\xff", pair.now)


def test_more_acks_than_are_looked_at_together(joined, batch_of):
    pair = joined(SHARED, {"a": ALL})
    pair.consumers["a"].acks = False
    (link,) = pair.core.links()
    link._acks = np.empty(8, ACK_ROW)
    for i in range(3):
        pair.produce(batch_of(VALUES, SHARDS, token=i))
        pair.step()
    metadatas = [Metadata(shard, ident, 0) for shard, ident, _ in pair.consumers["a"].received]
    # Frames of five, then one of the rest, which is more than there is room for; all in one read.
    frames = b"".join(encode_ack(metadatas[at : at + 5]) for at in range(0, 40, 5)) + encode_ack(metadatas[40:])
    link.on_received(frames, pair.now)
    pair.collect()
    assert sorted(d.token for d in pair.done) == [0, 1, 2]
    assert pair.figure("message-acked") == 60
    assert pair.figure("ack-ignored") == 0


def test_what_took_several_outputs_is_sent_again_as_a_whole(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, writer=RETRY)
    pair.consumers["a"].acks = False
    values = [bytes([65 + i]) * (100 << 10) for i in range(9)]
    pair.produce(batch_of(values, [0] * 9))
    pair.step()
    assert pair.consumers["a"].values == {v: 1 for v in values}
    pair.advance(4.9)
    assert pair.consumers["a"].values == {v: 1 for v in values}
    pair.advance(0.2)
    assert pair.consumers["a"].values == {v: 2 for v in values}
