"""Consumer services: which instance takes which shard, and what becomes of queues when that changes."""

import pytest

from m3cluster.topic import ConsumptionType, ServiceID
from m3msg.producer import Done, PlacementError

SHARED, REPLICATED = ConsumptionType.SHARED, ConsumptionType.REPLICATED
ALL = range(4)
VALUES = [f"value-{i}".encode() for i in range(20)]
SHARDS = [i % 4 for i in range(20)]


def test_replicas_all_get_everything_under_their_own_writers(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL})
    pair.produce(batch_of(VALUES, SHARDS, token="t"))
    pair.step()
    for endpoint, replica in (("a", 0), ("b", 1)):
        consumer = pair.consumers[endpoint]
        assert consumer.values == {v: 1 for v in VALUES}
        assert {w for w, _, _ in consumer.received} == {replica * 4 + s for s in ALL}
    assert pair.done == [Done("t", 20, 0, 0)]


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
    assert pair.done == [Done(None, 0, 0, 0, closed=20)]
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
