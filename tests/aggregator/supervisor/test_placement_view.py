"""What a placement means for one instance."""

from hypothesis import given
from hypothesis import strategies as st

from aggregator.supervisor.placement import assign, nearest_ids, view
from m3cluster.placement.model import Instance, Placement, Shard, ShardState


def placement() -> Placement:
    shards = tuple(Shard(i, ShardState.INITIALIZING, cutover_ns=100 + i) for i in range(4))
    return Placement(
        (
            Instance(id="m3aggregator01:6000", shards=shards, shard_set_id=1),
            Instance(id="m3aggregator02:6000", shards=shards, shard_set_id=1),
            Instance(id="other", shard_set_id=2),
        ),
        num_shards=4,
    )


def test_our_part_of_the_placement() -> None:
    one = view(placement(), "m3aggregator01:6000")
    assert list(one.owned) == [0, 1, 2, 3]
    assert one.states[0] == "INITIALIZING"
    assert one.peers() == {"m3aggregator01:6000", "m3aggregator02:6000"}
    assert (one.cutover_left_ns(50), one.cutover_left_ns(103), one.cutover_left_ns(500)) == (53, 0, 0)


def test_an_instance_that_is_not_named_learns_which_ids_come_nearest() -> None:
    one = view(placement(), "m3aggregator1:6000")
    assert one.instance is None
    assert one.owned == {}
    assert one.peers() == set()
    assert nearest_ids(placement(), "m3aggregator1:6000")[:2] == ["m3aggregator01:6000", "m3aggregator02:6000"]


def test_shards_go_to_workers_in_contiguous_ranges() -> None:
    assert assign(range(8), 3) == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 2, 7: 2}
    assert assign([], 3) == {}


@given(st.sets(st.integers(0, 200)), st.sets(st.integers(0, 200)), st.integers(1, 8))
def test_a_shard_that_stays_keeps_its_worker(before: set[int], after: set[int], workers: int) -> None:
    first = assign(sorted(before), workers)
    assert sorted(first) == sorted(before)
    sizes = [list(first.values()).count(w) for w in range(workers)]
    assert max(sizes) - min(sizes) <= 1
    second = assign(sorted(after), workers, first)
    assert second.keys() == after
    assert all(second[shard] == first[shard] for shard in before & after)
    assert all(0 <= worker < workers for worker in second.values())
