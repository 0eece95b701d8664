"""The queue of one consumer instance: its bounds, what they cost, and what leaves it unsent."""

from m3cluster.topic import ConsumptionType
from m3msg.producer import Done

SHARED, REPLICATED = ConsumptionType.SHARED, ConsumptionType.REPLICATED
ALL = range(4)
VALUES = [f"value-{i}".encode() for i in range(20)]
SHARDS = [i % 4 for i in range(20)]


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
