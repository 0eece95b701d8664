"""Changes that M3 refuses, with its texts: what its own library answers to the same operation on the same placement."""

import random

import pytest
from msgspec.structs import replace

from m3cluster.kv import MemoryServer
from m3cluster.placement import (
    CutoverTimes,
    Instance,
    InvalidPlacementError,
    Placement,
    PlacementError,
    PlacementOptions,
    PlacementService,
    Shard,
    ShardState,
    encode_placement,
)

MINUTE = 60 * 10**9
NOW = 1_700_000_000 * 10**9
LATER = NOW + 5 * MINUTE
NEW, A, L = ShardState.INITIALIZING, ShardState.AVAILABLE, ShardState.LEAVING

MIRRORED = PlacementOptions(is_mirrored=True, times=CutoverTimes.aggregator(NOW))
SHARDED = PlacementOptions()
WHOLE = PlacementOptions(allow_partial_replace=False)
COORDINATORS = PlacementOptions(is_sharded=False)


def instance(name, *shards, group=None, weight=1, port=1, shard_set=0, host=None):
    return Instance(
        name, group or f"g{name}", "embedded", weight, f"{name}:1", tuple(shards), shard_set, host or name, port
    )


def mirrored(*instances, num_shards=2, replica_factor=2):
    largest = max(i.shard_set_id for i in instances)
    return Placement(instances, num_shards, replica_factor, True, True, max_shard_set_id=largest)


def sharded(*instances, num_shards=2, replica_factor=1):
    return Placement(instances, num_shards, replica_factor, True)


BOTH = (Shard(0, A), Shard(1, A))
PAIR = mirrored(instance("a", *BOTH, shard_set=1), instance("b", *BOTH, shard_set=1))


def replacing(cutover_ns):
    """The pair of which ``b`` is being replaced by ``c``."""
    leaving = tuple(Shard(n, L, cutoff_ns=cutover_ns) for n in (0, 1))
    coming = tuple(Shard(n, NEW, "b", cutover_ns) for n in (0, 1))
    return mirrored(
        instance("a", *BOTH, shard_set=1), instance("b", *leaving, shard_set=1), instance("c", *coming, shard_set=1)
    )


def starting(cutover_ns):
    """The first placement of a pair."""
    coming = tuple(Shard(n, NEW, cutover_ns=cutover_ns) for n in (0, 1))
    return mirrored(instance("a", *coming, shard_set=1), instance("b", *coming, shard_set=1))


async def refusal(options, placement, operation, *arguments, **more):
    store = MemoryServer().client()
    service = PlacementService(store, "e", "s", options, rng=random.Random(1))
    await store.set(service.key, encode_placement(placement))
    try:
        with pytest.raises((PlacementError, InvalidPlacementError)) as raised:
            await getattr(service, operation)(*arguments, **more)
        assert (await store.get(service.key)).version == 1
    finally:
        await store.close()
    return str(raised.value)


REFUSED = {
    "reverting the first placement: its shards come from nowhere": (
        MIRRORED, starting(LATER), "remove", (["a", "b"],),
        "there are 2 initializing shards could not be returned for instance a",
    ),
    "removing before the cutover is no revert if others come as well": (
        MIRRORED, starting(LATER), "remove", (["a"],),
        "could not mark shard 0 available before cutover time 2023-11-14 22:18:20 +0000 UTC",
    ),
    "replacing the replacement by a third one before the cutover": (
        MIRRORED, replacing(LATER), "replace", (["c"], [instance("d", group="gd")]),
        "could not mark shards available of instance c: could not mark shard 0 available before cutover time "
        "2023-11-14 22:18:20 +0000 UTC",
    ),
    "reverting at the cutover: the source serves for another window": (
        MIRRORED, replacing(NOW), "replace", (["c"], [instance("b")]),
        "could not mark shards available of instance c: could not return leaving shard 0 with cutoff time "
        "2023-11-14 22:13:20 +0000 UTC, max aggregation window 1m0s",
    ),
    "replacing nobody": (
        MIRRORED, PAIR, "replace", ([], [instance("d")]), "could not find instances with weight 0 in the candidate list",
    ),
    "replacing twice the same": (
        MIRRORED, PAIR, "replace", (["a", "a"], [instance("d")]),
        "failed to find 1 replacement instances to replace 2 leaving instances",
    ),
    "replacing instances of two hosts at once": (
        MIRRORED,
        mirrored(*(replace(i, port=port, isolation_group=group) for i, port, group in zip(PAIR.instances, (1, 2), "gg", strict=True))),
        "replace", (["a", "b"], [instance("d", port=1), instance("d2", port=2, host="d", group="gd")]),
        "programming error: failed to find leaving instance for host a in group",
    ),
    "shard sets of unequal instances": (
        MIRRORED, mirrored(instance("a", *BOTH, shard_set=1), instance("b", *BOTH, shard_set=1, weight=2)), "remove", (["a", "b"],),
        "found different weights: 1 and 2, for shardset id 1",
    ),
    "shard sets in different states": (
        MIRRORED, mirrored(instance("a", *BOTH, shard_set=1), instance("b", Shard(0, NEW), Shard(1, A), shard_set=1)), "balance", (),
        "found different shards: [Initializing=[], Available=[0 1], Leaving=[]] and [Initializing=[0], Available=[1], Leaving=[]], "
        "for shardset id 1",
    ),
    "a source that is an instance, not a shard set": (
        MIRRORED, mirrored(instance("a", Shard(0, NEW, "b"), shard_set=1), instance("b", Shard(0, L), shard_set=2), num_shards=1,
                           replica_factor=1), "balance", (), "could not convert source id b to shard set id",
    ),
    "a pair for a placement that has no replicas": (
        MIRRORED, Placement((), 0, 0, True, True), "add", ([instance("d"), instance("e")],),
        "a placement with a replica factor of 0 has no groups of hosts",
    ),
    "an instance for which there are no shards left": (
        SHARDED, sharded(instance("a", Shard(0, A), weight=100), num_shards=1), "add", ([instance("b")],),
        "unable to find added instance [b] in new placement",
    ),
    "a replacement by itself": (
        WHOLE, sharded(instance("a", Shard(0, L)), instance("b", Shard(0, NEW, "a"), group="ga"), num_shards=1), "replace",
        (["a"], [instance("a")]), "the adding instance is already in the placement",
    ),
    "less weight than leaves": (
        WHOLE, sharded(instance("a", *BOTH, weight=3)), "replace", (["a"], [instance("b", group="ga")]),
        "could not find enough instances to replace [Instance[ID=a, IsolationGroup=ga, Zone=embedded, Weight=3, Endpoint=a:1, Hostname=a, "
        "Port=1, ShardSetID=0, Shards=[Initializing=[], Available=[0 1], Leaving=[]], Metadata={DebugPort:0}]], "
        "2 weight could not be replaced",
    ),
    "a candidate twice": (
        SHARDED, sharded(instance("a", *BOTH, weight=2)), "replace",
        (["a"], [instance("b"), instance("b")]), "the adding instance is already in the placement",
    ),
    "a coordinator that is there": (
        COORDINATORS, Placement((instance("a"),), replica_factor=1), "replace", (["x"], [instance("b")]),
        "could not remove or replace a instance that does not exist",
    ),
    "a coordinator's shards": (
        COORDINATORS, Placement((instance("a"),), replica_factor=1), "mark_instance_available", ("x",),
        "could not find instance x in placement",
    ),
    "no coordinators' placement": (
        COORDINATORS, sharded(instance("a", *BOTH)), "remove", (["a"],), "could not apply non-sharded algo on the placement",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in REFUSED.items()])
async def test_changes_that_m3_refuses(case):
    options, placement, operation, arguments, text = case
    assert (await refusal(options, placement, operation, *arguments)).startswith(text)


async def test_replacing_as_it_is_wants_instances():
    """Without selection an empty replacement is none."""
    text = await refusal(MIRRORED, PAIR, "replace", [], [], select=False)
    assert text == "replaced instances must have all their shards available"


async def changed(options, placement, operation, *arguments):
    store = MemoryServer().client()
    service = PlacementService(store, "e", "s", options, rng=random.Random(1))
    await store.set(service.key, encode_placement(placement))
    try:
        return await getattr(service, operation)(*arguments)
    finally:
        await store.close()


async def test_removing_nobody_changes_nothing_but_the_version():
    kept = replace(PAIR, cutover_time_ns=5)
    assert await changed(MIRRORED, kept, "remove", []) == replace(kept, version=2)


async def test_a_replacement_is_reverted_before_its_cutover():
    placement = await changed(MIRRORED, replacing(LATER), "replace", ["c"], [instance("b")])
    assert placement.instances == PAIR.instances


async def test_of_coordinators_with_one_id_the_last_one_counts():
    there = Placement((instance("a"),), replica_factor=1)
    options = PlacementOptions(is_sharded=False, add_all_candidates=True)
    placement = await changed(options, there, "add", [instance("b", weight=1), instance("b", weight=7)])
    assert [(i.id, i.weight) for i in placement.instances] == [("a", 1), ("b", 7)]
    assert [i.id for i in (await changed(options, placement, "remove", ["b", "b"])).instances] == ["a"]
