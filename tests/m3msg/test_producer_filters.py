"""Which messages a consumer service gets."""

import numpy as np

from m3cluster.topic import ConsumptionType, Filters, ServiceID
from m3msg.producer import Done, ShardSetFilter

SHARED = ConsumptionType.SHARED
ALL = range(4)
VALUES = [f"value-{i}".encode() for i in range(20)]
SHARDS = [i % 4 for i in range(20)]


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
