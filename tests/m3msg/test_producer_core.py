"""The producer core joined in memory with consumers: delivery, retries, bounds, ends of batches."""

import numpy as np
import pytest

from m3cluster.topic import ConsumptionType, Filters, ServiceID
from m3msg.frames import FrameError, encode_ack
from m3msg.producer import Done, PlacementError, ShardSetFilter, TopicError
from m3msg.producer.options import MessageRetryOptions
from m3x.config import Duration

SHARED, REPLICATED = ConsumptionType.SHARED, ConsumptionType.REPLICATED
ALL = range(4)
VALUES = [f"value-{i}".encode() for i in range(20)]
SHARDS = [i % 4 for i in range(20)]
RETRY = {"message_retry": MessageRetryOptions(initial_backoff=Duration(5 * 10**9), jitter=False)}


def test_delivers_once_and_ends_the_batch(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, num_connections=3)
    assert pair.produce(batch_of(VALUES, SHARDS, token="t"))
    assert pair.done == []
    pair.step()
    assert pair.consumers["a"].values == {v: 1 for v in VALUES}
    assert pair.done == [Done("t", acked=20, lost=0, filtered=0)]
    assert pair.core.pending == 0
    assert pair.core.room() == 100 << 20


def test_ids_increase_from_one_per_shard_and_sent_at_is_now(joined, batch_of):
    pair = joined(SHARED, {"a": ALL})
    for _ in range(3):
        pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    for shard in ALL:
        assert [i for s, i, _ in pair.consumers["a"].received if s == shard] == list(range(1, 16))
    assert set(pair.consumers["a"].stamps) == {pair.now.wall_ns}


def test_connection_is_the_writer_modulo_the_number_of_connections(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, num_connections=3)
    pair.produce(batch_of(VALUES, SHARDS))
    for link in pair.core.links():
        data = pair.write(link)
        pair.consumers[link.lane.endpoint].received.clear()
        if data:
            pair.deliver(link, data)
        assert all(writer % 3 == link.index for writer, _, _ in pair.consumers[link.lane.endpoint].received)


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


def test_messages_expire_after_the_ttl_of_the_topic(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, ttl_s=300, connect=False)
    pair.produce(batch_of(VALUES, SHARDS, token="old"))
    pair.advance(299)
    assert pair.done == []
    pair.produce(batch_of(VALUES[:3], SHARDS[:3], token="new"))
    pair.advance(2)
    assert pair.done == [Done("old", 0, 20, 0)]
    assert pair.figure("message-dropped", "reason=ttl-expire") == 20
    pair.topic(pair.service(SHARED, ttl_s=1))  # a new TTL counts for queued messages as well
    pair.advance(0)
    assert pair.done[1:] == [Done("new", 0, 3, 0)]


def test_replicas_all_get_everything_under_their_own_writers(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL})
    pair.produce(batch_of(VALUES, SHARDS, token="t"))
    pair.step()
    for endpoint, replica in (("a", 0), ("b", 1)):
        consumer = pair.consumers[endpoint]
        assert consumer.values == {v: 1 for v in VALUES}
        assert {w for w, _, _ in consumer.received} == {replica * 4 + s for s in ALL}
    assert pair.done == [Done("t", 20, 0, 0)]


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


def test_full_buffer_drops_the_oldest_of_that_instance_only(joined, batch_of):
    limit = 64 << 10
    pair = joined(
        REPLICATED, {"a": ALL, "b": ALL}, connect=False, buffer={"max_buffer_size": limit, "max_message_size": 4096}
    )
    pair.connect("a")
    values = [b"%04d" % i * 100 for i in range(1000)]
    for i in range(0, 1000, 10):
        pair.produce(batch_of(values[i : i + 10], [0] * 10, token=i))
        pair.step()
    lane = next(link.lane for link in pair.links("b"))
    assert 0 < sum(lane.held) <= limit
    assert lane.dropped > 800
    assert pair.figure("message-dropped", "reason=buffer-full") == lane.dropped
    assert pair.consumers["a"].values == {v: 1 for v in values}
    assert all(d.acked == 10 for d in pair.done)
    pair.connect("b")
    pair.step()
    assert list(pair.consumers["b"].values) == values[lane.dropped :]
    assert pair.core.pending == 0


def test_drop_oldest_without_any_replica_counts_as_lost(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, connect=False, buffer={"max_buffer_size": 16 << 10, "max_message_size": 4096})
    for i in range(50):
        assert pair.produce(batch_of([b"x" * 1000], [0], token=i))
    assert [d.token for d in pair.done] == list(range(len(pair.done)))
    assert len(pair.done) > 30
    assert all(d.lost == 1 for d in pair.done)


def test_return_error_refuses_only_where_no_replica_accepts(joined, batch_of):
    settings = {"max_buffer_size": 16 << 10, "max_message_size": 4096, "on_full_strategy": "returnError"}
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, connect=False, buffer=settings)
    pair.connect("a")
    for _ in range(50):
        assert pair.produce(batch_of([b"x" * 1000], [0]))
        pair.step()
    lane = next(link.lane for link in pair.links("b"))
    assert lane.dropped > 30
    pair.disconnect("a")
    results = [pair.produce(batch_of([b"y" * 1000], [0], token=i)) for i in range(30)]
    assert results == sorted(results, reverse=True)
    assert not results[-1]
    assert pair.core.room() < 1000
    assert pair.figure("buffer-full") == results.count(False)
    pair.connect("a")
    pair.step()
    assert pair.core.room() > 10_000
    assert pair.produce(batch_of([b"z"], [0]))


TINY = {"max_buffer_size": 16 << 10, "max_message_size": 4096, "forwarded_buffer_size": 8 << 10}


def test_forwarded_messages_have_a_budget_of_their_own(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL}, buffer=TINY)
    pair.consumers["a"].acks = False
    while pair.core.room() > 2000:
        pair.produce(batch_of([b"x" * 1000], [0]))
    assert pair.core.room(forwarded=True) == 8 << 10
    while pair.core.room(forwarded=True) > 2000:
        pair.produce(batch_of([b"f" * 1000], [0]), forwarded=True)
    assert (pair.figure("buffer-message-dropped"), pair.done) == (0, [])
    pair.step()
    pair.release("a")
    assert pair.core.room() == 16 << 10
    assert pair.core.room(forwarded=True) == 8 << 10
    assert pair.consumers["a"].values[b"x" * 1000] > 10
    assert 3 < pair.consumers["a"].values[b"f" * 1000] < 9


def test_a_dead_instance_loses_its_oldest_forwarded_messages_and_holds_none_of_the_others_back(joined, batch_of):
    pair = joined(REPLICATED, {"a": [0, 1], "b": [2, 3]}, buffer=TINY)
    pair.disconnect("b")
    values = [b"%04d" % i * 250 for i in range(100)]
    for i, value in enumerate(values):
        assert pair.core.room(forwarded=True) > 4096
        pair.produce(batch_of([value, value], [0, 3], token=i), forwarded=True)
        pair.step()
    dropped = next(link.lane for link in pair.links("b")).dropped
    assert 90 < dropped < 100
    assert pair.consumers["a"].values == dict.fromkeys(values, 1)
    assert [d.lost for d in pair.done] == [1] * dropped
    pair.connect("b")
    pair.step()
    assert list(pair.consumers["b"].values) == values[dropped:]
    assert [(d.acked, d.lost) for d in pair.done[dropped:]] == [(2, 0)] * (100 - dropped)


def test_forwarded_messages_to_ourselves_are_neither_held_back_nor_dropped(joined, batch_of):
    buffer = {**TINY, "on_full_strategy": "returnError"}
    pair = joined(REPLICATED, {"self": ALL, "b": ALL}, buffer=buffer, local=frozenset(["self"]))
    pair.disconnect("self", "b")
    values = [b"%04d" % i * 250 for i in range(300)]
    for i, value in enumerate(values):
        assert pair.core.room(forwarded=True) > 1 << 40
        assert pair.produce(batch_of([value], [i % 4], token=i), forwarded=True)
    assert pair.done == []
    pair.connect("self")
    pair.step()
    # The other replica is away: its oldest are gone, and nobody waits for it.
    assert pair.consumers["self"].values == dict.fromkeys(values, 1)
    assert [d.token for d in pair.done] == list(range(300))
    assert all((d.acked, d.lost) == (1, 0) for d in pair.done)
    # Final output has no such privilege.
    pair.consumers["self"].acks = False
    results = [pair.produce(batch_of([b"x" * 1000], [0])) for _ in range(30)]
    assert results == sorted(results, reverse=True)
    assert not results[-1]


def test_even_to_ourselves_memory_is_bounded(joined, batch_of):
    buffer = {**TINY, "loopback_buffer_size": 64 << 10}
    pair = joined(REPLICATED, {"self": ALL}, connect=False, buffer=buffer, local=frozenset(["self"]))
    for i in range(100):
        assert pair.produce(batch_of([b"f" * 1000], [0], token=i), forwarded=True)
    lane = next(link.lane for link in pair.links("self"))
    assert sum(lane.held) <= 64 << 10
    assert 35 < lane.dropped < 60
    assert [d.token for d in pair.done] == list(range(lane.dropped))
    assert all(d.lost == 1 for d in pair.done)


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


def test_shared_service_without_instances_queues(joined, batch_of):
    pair = joined(SHARED)
    pair.produce(batch_of(VALUES, SHARDS))
    assert pair.core.pending == 20
    pair.place({"a": [0, 1], "b": [2, 3]})
    pair.connect("a", "b")
    pair.step()
    assert pair.consumers["a"].values == {v: 1 for v, s in zip(VALUES, SHARDS, strict=True) if s < 2}
    assert pair.consumers["b"].values == {v: 1 for v, s in zip(VALUES, SHARDS, strict=True) if s >= 2}
    assert pair.done == [Done(None, 20, 0, 0)]


def test_shared_placement_without_shards_spreads_over_all_instances(joined, batch_of, placement_of):
    pair = joined(SHARED)
    pair.core.set_placement(next(iter(pair.core.services)), placement_of({"a": [], "b": []}, sharded=False), pair.now)
    pair.connect("a", "b")
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    assert pair.consumers["a"].values + pair.consumers["b"].values == {v: 1 for v in VALUES}
    assert len(pair.consumers["a"].received) == len(pair.consumers["b"].received) == 10


def test_shared_backlog_moves_to_instances_that_can_be_reached(joined, batch_of):
    pair = joined(SHARED, {"a": ALL, "b": ALL}, stall_ns=10 * 10**9)
    pair.consumers["b"].acks = False
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    assert pair.done == []
    pair.disconnect("b")
    pair.step()
    assert pair.consumers["a"].values == {v: 1 for v in VALUES}
    assert pair.done == [Done(None, 20, 0, 0)]
    pair.connect("b")
    pair.produce(batch_of(VALUES, SHARDS, token="stuck"))
    pair.step()
    pair.advance(11)  # connected, but silent
    assert pair.done[1:] == [Done("stuck", 20, 0, 0)]


def test_acks_of_moved_messages_are_accepted_from_the_former_instance(joined, batch_of):
    pair = joined(SHARED, {"a": ALL, "b": ALL}, stall_ns=10 * 10**9)
    pair.consumers["a"].acks = pair.consumers["b"].acks = False
    pair.produce(batch_of(VALUES, [1] * 20))
    pair.step()
    (first,) = [name for name, consumer in pair.consumers.items() if consumer.received]
    other = {"a": "b", "b": "a"}[first]
    pair.disconnect(other)
    pair.connect(other)
    pair.advance(11)
    assert pair.consumers[other].values == {v: 1 for v in VALUES}
    pair.release(first)
    assert pair.done == [Done(None, 20, 0, 0)]


def test_instances_that_leave_a_shared_service_hand_their_queue_on(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, connect=False)
    pair.produce(batch_of(VALUES, SHARDS))
    pair.place({"b": [0, 1], "c": [2, 3]})
    pair.connect("b", "c")
    pair.step()
    assert pair.consumers["b"].values + pair.consumers["c"].values == {v: 1 for v in VALUES}
    pair.produce(batch_of([b"later"], [0]))
    pair.step()
    assert [i for s, i, v in pair.consumers["b"].received if v == b"later"] == [6]  # ids go on


def test_cutover_and_cutoff_refuse_for_replicated_services(joined, batch_of):
    pair = joined(REPLICATED)
    now = pair.now.wall_ns
    pair.place({"a": ALL}, cutover_ns=now + 100 * 10**9, cutoff_ns=now + 200 * 10**9)
    pair.connect("a")
    pair.advance(50)
    pair.produce(batch_of(VALUES, SHARDS, token="early"))
    assert pair.figure("invalid-write", "reason=before-cutover") == 20
    pair.advance(50)
    pair.produce(batch_of(VALUES, SHARDS, token="right"))
    pair.step()
    pair.advance(100)
    pair.produce(batch_of(VALUES, SHARDS, token="late"))
    assert pair.figure("invalid-write", "reason=after-cutoff") == 20
    assert pair.done == [Done("early", 0, 20, 0), Done("right", 20, 0, 0), Done("late", 0, 20, 0)]
    assert [i for s, i, _ in pair.consumers["a"].received if s == 0] == [1, 2, 3, 4, 5]


def test_cutover_can_be_ignored_and_does_not_count_for_shared(joined, batch_of):
    for kind, writer in ((REPLICATED, {"ignore_cutoff_cutover": True}), (SHARED, {})):
        pair = joined(kind, writer=writer)
        pair.place({"a": ALL}, cutover_ns=pair.now.wall_ns + 10**12)
        pair.connect("a")
        pair.produce(batch_of(VALUES, SHARDS))
        pair.step()
        assert pair.done == [Done(None, 20, 0, 0)]


def test_replicated_without_placement_refuses(joined, batch_of):
    pair = joined(REPLICATED)
    pair.produce(batch_of(VALUES, SHARDS))
    assert pair.done == [Done(None, 0, 20, 0)]
    assert pair.figure("write-error", "error-type=no-writers") == 20
    pair.place({"a": [0, 1]})
    pair.connect("a")
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    assert pair.done[1:] == [Done(None, 10, 10, 0)]


def test_replicated_refuses_a_placement_without_shards(joined, placement_of):
    pair = joined(REPLICATED, {"a": ALL})
    service = next(iter(pair.core.services))
    with pytest.raises(PlacementError, match="sharded"):
        pair.core.set_placement(service, placement_of({"b": []}, sharded=False), pair.now)
    assert [link.lane.endpoint for link in pair.core.links()] == ["a"]


def writers_of(pair, shard: int) -> dict[str, int]:
    found = {}
    for link in pair.core.links():
        writer = int(link.lane.table["writer"][shard])
        if writer != 0xFFFFFFFF:
            found[link.lane.endpoint] = writer
    return found


def test_replicated_shard_ids_as_pinned_by_m3(joined):
    """docs/m3/m3msg.md, replicated services: 1 and 201; shrunk to one and grown to three the new ones are 401 and 601."""
    pair = joined(REPLICATED, {"i1": [1], "i2": [1]}, shards=200)
    assert writers_of(pair, 1) == {"i1": 1, "i2": 201}
    pair.place({"i1": [1]})
    assert writers_of(pair, 1) == {"i1": 1}
    pair.place({"i1": [1], "i2": [1], "i3": [1]})
    assert writers_of(pair, 1) == {"i1": 1, "i2": 401, "i3": 601}


def test_replaced_endpoint_takes_over_queue_ids_and_writer(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, connect=False)
    pair.connect("a")
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    pair.place({"a": ALL, "c": ALL})
    assert writers_of(pair, 2) == {"a": 2, "c": 6}
    pair.connect("c")
    pair.produce(batch_of([b"next"], [2]))
    pair.step()
    assert pair.consumers["c"].values == {v: 1 for v in [*VALUES, b"next"]}
    assert [i for s, i, _ in pair.consumers["c"].received if s == 6] == [1, 2, 3, 4, 5, 6]


def test_replaced_shard_by_shard(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL}, connect=False)
    pair.produce(batch_of(VALUES, SHARDS))
    pair.place({"b": [0, 1], "c": [2], "a": [3]})
    pair.connect("a", "b", "c")
    pair.step()
    split = {e: {SHARDS[VALUES.index(v)] for v in c.values} for e, c in pair.consumers.items()}
    assert split == {"a": {3}, "b": {0, 1}, "c": {2}}
    assert pair.done == [Done(None, 20, 0, 0)]


def test_removed_replica_is_not_waited_for(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL})
    pair.consumers["b"].acks = False
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    links = pair.links("b")
    pair.place({"a": ALL})
    assert pair.done == [Done(None, 20, 0, 0)]
    assert all(link.closed for link in links)
    assert pair.core.pending == 0


def test_service_removed_from_the_topic(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, connect=False)
    pair.produce(batch_of(VALUES, SHARDS))
    pair.topic()
    pair.collect()
    assert pair.done == [Done(None, 0, 0, 20)]
    assert pair.core.links() == []
    pair.produce(batch_of(VALUES, SHARDS))
    assert pair.done[1:] == [Done(None, 0, 0, 20)]  # nobody wants them: M3 counts them as consumed


def test_several_services_all_have_to_ack(joined, batch_of):
    other = ServiceID("other", "env", "zone")
    pair = joined(SHARED, {"a": ALL})
    pair.topic(pair.service(SHARED), pair.service(REPLICATED, name=other, ttl_s=10))
    pair.place({"x": ALL}, other)
    pair.produce(batch_of(VALUES, SHARDS, token=1))
    pair.step()
    assert pair.consumers["a"].values == {v: 1 for v in VALUES}
    assert pair.done == []
    pair.connect("x")
    pair.step()
    assert pair.done == [Done(1, 20, 0, 0)]
    pair.disconnect("x")
    pair.produce(batch_of(VALUES, SHARDS, token=2))
    pair.advance(11)
    assert pair.done[1:] == [Done(2, 0, 20, 0)]


def test_bad_messages_are_counted_and_the_others_go(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, buffer={"max_message_size": 100})
    pair.produce(batch_of([b"good", b"x" * 101, b"y" * 100, b"strange"], [0, 1, 2, 9]))
    pair.step()
    assert set(pair.consumers["a"].values) == {b"good", b"y" * 100}
    assert pair.done == [Done(None, 2, 2, 0)]
    assert pair.figure("message-too-large") == 1
    assert pair.figure("invalid-shard-write", "reason=invalid-shard") == 1


def test_dynamic_filters_by_shard_and_policy(joined, batch_of):
    filters = Filters(shard_set="1..2", storage_policies=("1m:40d",))
    pair = joined(SHARED, {"a": ALL}, filters=filters)
    names = ("10s:2d", "1m@1s:40d")
    policies = np.array([i % 2 for i in range(20)], np.uint16)
    pair.produce(batch_of(VALUES, SHARDS, policies=policies, policy_names=names), flush=False)
    pair.produce(batch_of([b"plain"], [1]), flush=False)
    pair.produce(batch_of([b"other numbers"], [2], policies=np.zeros(1, np.uint16), policy_names=("1m:40d",)))
    pair.step()
    expected = {v for v, s, p in zip(VALUES, SHARDS, policies, strict=True) if s in (1, 2) and p == 1}
    assert set(pair.consumers["a"].values) == expected | {b"plain", b"other numbers"}
    assert [d.filtered for d in pair.done] == [20 - len(expected), 0, 0]
    assert pair.figure("filter-not-accepted") == 20 - len(expected)


def test_percentage_filter(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, filters=Filters(percentage=0.25))
    pair.produce(batch_of([b"x"] * 4000, [0] * 4000))
    pair.step()
    (done,) = pair.done
    assert 800 < done.acked < 1200
    assert done.acked + done.filtered == 4000


def test_static_filters_apply_until_the_topic_has_its_own(joined, batch_of):
    service = ServiceID("svc", "env", "zone")
    pair = joined(SHARED, {"a": ALL}, static_filters={service: [ShardSetFilter(frozenset([3]))]})
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    assert pair.done == [Done(None, 5, 0, 15)]
    pair.topic(pair.service(SHARED, filters=Filters()))
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    assert pair.done[1:] == [Done(None, 20, 0, 0)]
    problems = pair.topic(pair.service(SHARED, filters=Filters(shard_set="5..1")))
    assert "ends before it begins" in problems[0]
    pair.produce(batch_of(VALUES, SHARDS))
    pair.step()
    assert pair.done[2:] == [Done(None, 20, 0, 0)]  # the former filters stay


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


def test_fenced_messages_leave_at_once_and_others_stay(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, connect=False)
    pair.connect("a")
    pair.consumers["a"].acks = False
    pair.produce(batch_of(VALUES, SHARDS, token="leader"), fenced=True)
    pair.produce(batch_of([b"free"], [0], token="free"))
    pair.step()
    pair.produce(batch_of([b"unsealed"], [0], token="unsealed"), fenced=True, flush=False)
    pair.core.drop_unsent_fenced()
    pair.collect()
    assert pair.done == [Done("unsealed", 0, 0, 0, fenced=1), Done("leader", 0, 0, 0, fenced=20)]
    pair.connect("b")
    pair.step()
    assert pair.consumers["b"].values == {b"free": 1}
    assert not pair.core.holds_fenced


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
    link.on_received(encode_ack([(77, 1, 0), (0, 10**6, 0)]), pair.now)
    assert pair.figure("ack-ignored") > 0


def test_garbage_instead_of_acks_is_an_error(joined):
    pair = joined(SHARED, {"a": ALL})
    (link,) = pair.core.links()
    with pytest.raises(FrameError):
        link.on_received(b"\x00\x00\x00\x02\x08\x01", pair.now)
    with pytest.raises(FrameError):
        link.on_received(b"\xff\xff\xff\xff", pair.now)


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
