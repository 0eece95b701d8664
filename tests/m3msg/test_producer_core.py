"""The producer core joined in memory with consumers: what is delivered, and how batches end."""

import pytest

from m3cluster.topic import ConsumptionType, ServiceID
from m3msg.producer import Done, TopicError

SHARED, REPLICATED = ConsumptionType.SHARED, ConsumptionType.REPLICATED
ALL = range(4)
VALUES = [f"value-{i}".encode() for i in range(20)]
SHARDS = [i % 4 for i in range(20)]


def test_delivers_once_and_ends_the_batch(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, num_connections=3)
    assert pair.produce(batch_of(VALUES, SHARDS, token="t"))
    assert pair.done == []
    pair.step()
    assert pair.consumers["a"].values == {v: 1 for v in VALUES}
    assert pair.done == [Done("t", acked=20, lost=0, filtered=0)]
    assert pair.core.pending == 0
    assert pair.core.room() == 100 << 20


@pytest.mark.parametrize("kind", [SHARED, REPLICATED])
@pytest.mark.parametrize("last_id", [0, 1_000_000])
def test_ids_increase_per_shard_and_sent_at_is_now(joined, batch_of, kind, last_id):
    pair = joined(kind, {"a": ALL}, last_id=last_id)
    for _ in range(3):
        pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    for shard in ALL:
        ids = [i for s, i, _ in pair.consumers["a"].received if s == shard]
        assert ids == list(range(last_id + 1, last_id + 16))
    assert set(pair.consumers["a"].stamps) == {pair.now.wall_ns}


def test_a_batch_may_bring_its_ids(joined, batch_of):
    """Those of a shard follow one another from there on, however it is cut; all others go on as if it had not been."""
    pair = joined(SHARED, {"a": ALL}, buffer={"max_buffer_size": 64 << 10, "max_message_size": 4096})
    first_id = (7 << 23) + 1
    values = [b"x" * 300] * 100
    for _ in range(2):
        pair.produce(batch_of(VALUES, SHARDS))
        batch = batch_of(values, [i % 4 for i in range(100)], token="t")
        batch.first_id = first_id
        pair.produce(batch)
        pair.step()
    assert pair.done.count(Done("t", 100, 0, 0)) == 2
    assert pair.core.pending == 0
    for shard in ALL:
        ids = [i for s, i, _ in pair.consumers["a"].received if s == shard]
        own = [i for i in ids if i >= first_id]
        assert [i for i in ids if i < first_id] == list(range(1, 11))
        assert own[:25] == own[25:] == sorted(set(own))
        assert own[0] == first_id
        assert own[-1] < first_id + 100


def test_small_batches_are_joined_and_end_one_by_one(joined, batch_of):
    pair = joined(SHARED, {"a": ALL})
    for i in range(5):
        pair.produce(batch_of(VALUES[i : i + 2], SHARDS[:2], token=i), flush=False)
    assert pair.core.pending == 0
    assert pair.core.has_unsealed
    assert pair.core.room() < 100 << 20
    pair.core.flush(pair.now)
    pair.step()
    assert pair.done == [Done(i, 2, 0, 0) for i in range(5)]


def test_batch_of_zero_messages_ends_at_once(joined, batch_of):
    pair = joined(SHARED, {"a": ALL})
    pair.produce(batch_of([], [], token="empty"))
    assert pair.done == [Done("empty", 0, 0, 0)]


def test_large_batch_is_cut_and_ends_once(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, buffer={"max_buffer_size": 64 << 10, "max_message_size": 4096})
    pair.produce(batch_of([b"x" * 300] * 100, [0] * 100, token="large"))
    pair.step()
    assert pair.done == [Done("large", 100, 0, 0)]
    assert len(pair.consumers["a"].received) == 100


def test_batch_waits_for_every_reachable_replica(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL})
    pair.consumers["b"].acks = False
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    assert pair.done == []
    pair.release("b")
    assert pair.done == [Done(None, 20, 0, 0)]


def test_batch_does_not_wait_for_a_replica_that_cannot_be_reached(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, connect=False)
    pair.connect("a")
    pair.produce(batch_of(VALUES, SHARDS, token=1))
    pair.step()
    assert pair.done == [Done(1, 20, 0, 0)]
    pair.connect("b")  # it still gets everything
    pair.step()
    assert pair.consumers["b"].values == {v: 1 for v in VALUES}
    pair.consumers["b"].acks = False
    pair.produce(batch_of(VALUES, SHARDS, token=2))
    pair.step()
    assert len(pair.done) == 1
    pair.disconnect("b")  # goes away before it acks
    assert pair.done[1:] == [Done(2, 20, 0, 0)]


def test_no_replica_reachable_means_not_done(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, connect=False, ttl_s=60)
    pair.produce(batch_of(VALUES, SHARDS))
    pair.advance(59)
    assert pair.done == []
    pair.connect("a")
    pair.consumers["a"].acks = False
    pair.step()
    pair.disconnect("a")
    assert pair.done == []
    pair.advance(2)
    assert pair.done == [Done(None, 0, 20, 0)]


def test_a_replica_that_answers_nothing_is_not_waited_for_but_keeps_its_queue(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, stall_ns=10 * 10**9)
    pair.consumers["b"].acks = False
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    pair.advance(9)
    assert pair.done == []
    pair.advance(2)
    assert pair.done == [Done(None, 20, 0, 0)]
    (lane,) = [lane for lane in pair.core.services[next(iter(pair.core.services))].all_lanes() if lane.endpoint == "b"]
    assert lane.stalled
    assert not lane.reachable
    assert lane.pending == 20
    pair.release("b")
    assert lane.reachable
    assert lane.pending == 0


def test_bad_messages_are_counted_and_the_others_go(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, buffer={"max_message_size": 100})
    pair.produce(batch_of([b"good", b"x" * 101, b"y" * 100, b"strange"], [0, 1, 2, 9]))
    pair.step()
    assert set(pair.consumers["a"].values) == {b"good", b"y" * 100}
    assert pair.done == [Done(None, 2, 2, 0)]
    assert pair.figure("message-too-large") == 1
    assert pair.figure("invalid-shard-write", "reason=invalid-shard") == 1


def test_topic_that_cannot_be_used_changes_nothing(joined, batch_of):
    pair = joined(SHARED, {"a": ALL})
    pair.shards = 8
    with pytest.raises(TopicError, match="8 shards"):
        pair.topic(pair.service(SHARED))
    pair.shards = 4
    with pytest.raises(TopicError, match="twice"):
        pair.topic(pair.service(SHARED), pair.service(REPLICATED))
    problems = pair.topic(pair.service(REPLICATED), pair.service(ConsumptionType.UNKNOWN, name=ServiceID("new")))
    assert len(problems) == 2
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    assert pair.done == [Done(None, 20, 0, 0)]


def test_close_ends_every_batch_and_calls_nothing_delivered(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, connect=False)
    pair.produce(batch_of(VALUES, SHARDS, token=1))
    pair.produce(batch_of(VALUES, SHARDS, token=2), fenced=True)
    pair.produce(batch_of(VALUES, SHARDS, token=3), flush=False)
    pair.produce(batch_of(VALUES, SHARDS, token=4), flush=False, fenced=True)
    pair.core.close()
    pair.collect()
    assert {d.token: (d.lost, d.fenced) for d in pair.done} == {1: (20, 0), 2: (0, 20), 3: (20, 0), 4: (0, 20)}
    assert pair.core.pending == 0
