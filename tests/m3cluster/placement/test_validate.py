"""One placement per rule of M3 (docs/m3/cluster.md, validation)."""

import pytest
from msgspec.structs import replace

from m3cluster.placement import Instance, InvalidPlacementError, Placement, Shard, ShardState, validate

NEW, A, L = ShardState.INITIALIZING, ShardState.AVAILABLE, ShardState.LEAVING


def instance(name, *shards, **fields):
    made = tuple(s if isinstance(s, Shard) else Shard(s, A) for s in shards)
    return Instance(name, endpoint=f"{name}:6000", shards=made, **fields)


def placement(*instances, num_shards=2, replica_factor=1, **fields):
    return Placement(instances, num_shards, replica_factor, **{"is_sharded": True, **fields})


VALID = placement(instance("a", 0, 1))


def test_usual_placements_are_valid():
    validate(VALID)
    validate(Placement((instance("c"),), replica_factor=1))
    validate(Placement(replica_factor=1, is_sharded=True, is_mirrored=True))
    moving = placement(
        instance("a", Shard(0, A), Shard(1, L, cutoff_ns=9)), instance("b", Shard(1, NEW, "a", 9)), max_shard_set_id=2
    )
    validate(moving)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (replace(VALID, is_sharded=False, is_mirrored=True), "invalid placement, mirrored placement must be sharded"),
        (replace(VALID, is_sharded=False, is_subclustered=True), "subclustered placement must be sharded"),
        (placement(replace(instance("a", 0, 1), endpoint="")), "does not contain valid endpoint"),
        (placement(instance("a", 0, 1), instance("b")), "contains no shard in a sharded placement"),
        (replace(VALID, is_sharded=False), "contains shards in a non-sharded placement"),
        (replace(VALID, is_subclustered=True), "has uninitialized subcluster id in a subclustered placement"),
        (placement(instance("a", 0, 1, subcluster_id=4)), "has subcluster id 4 in a non-subclustered placement"),
        (placement(instance("a", 0, 1, shard_set_id=1)), "shard set id 1 is larger than max shard set id 0"),
        (placement(instance("a", 0, 2)), "there are unexpected shard ids on instance"),
        (
            placement(instance("a", Shard(0, NEW, "zz"), 1)),
            "instance a has initializing shard 0 with source ID zz but no such instance in placement",
        ),
        (placement(instance("a", Shard(0, NEW, "b"), 1), instance("b", 1)), "leaving instance has no such shard"),
        (
            placement(instance("a", Shard(0, NEW, "b"), 1), instance("b", 0), replica_factor=2),
            "instance a has initializing shard 0 with source ID b but leaving instance has shard with state Available",
        ),
        (
            placement(
                instance("i1", Shard(1, L), 0),
                instance("i2", Shard(1, NEW, "i1")),
                instance("i3", Shard(1, NEW, "i1")),
            ),
            "instance i3 has initializing shard 1 with source ID i1 but leaving instance has shard already matched by i2",
        ),
        (
            placement(
                instance("a", 0, shard_set_id=1), instance("b", 0, 1, shard_set_id=1), max_shard_set_id=1
            ),
            "same shard set id 1",
        ),
        (placement(instance("a", Shard(0, L), 1)), "1 shards in Leaving state, more than 0 in Initializing state"),
        (
            placement(instance("a", Shard(0, L)), instance("b", Shard(0, NEW), Shard(1, NEW))),
            "1 shards in Leaving state, not equal 0 in Initializing state with source id",
        ),
        (
            placement(instance("a", 0, 1), instance("b", 1), replica_factor=2),
            "invalid placement, the total available shards in the placement is 3, expecting 4",
        ),
        (placement(instance("a", 0), instance("b", 0)), "invalid shard count for shard 0: expected 1, actual 2"),
    ],
)  # fmt: skip
def test_each_rule_has_its_message(broken, message):
    with pytest.raises(InvalidPlacementError) as raised:
        validate(broken)
    assert message in str(raised.value)


def subclustered(*instances, per_subcluster=2, **fields):
    return placement(*instances, is_subclustered=True, instances_per_subcluster=per_subcluster, **fields)


def test_subclusters():
    validate(subclustered(instance("a", 0, subcluster_id=1), instance("b", 1, subcluster_id=1)))
    with pytest.raises(InvalidPlacementError, match="^invalid subcluster 1, expected at most 1 instances, actual 2$"):
        validate(subclustered(instance("a", 0, subcluster_id=1), instance("b", 1, subcluster_id=1), per_subcluster=1))
    with pytest.raises(InvalidPlacementError, match="^invalid placement, more than one partial subcluster found: 2$"):
        validate(subclustered(instance("a", 0, subcluster_id=1), instance("b", 1, subcluster_id=2)))
    with pytest.raises(InvalidPlacementError, match="^invalid shard 0, expected 2 isolation groups, actual 1$"):
        validate(
            subclustered(instance("a", 0, 1, subcluster_id=1), instance("b", 0, 1, subcluster_id=1), replica_factor=2)
        )
