import pytest

from m3cluster.kv import MemoryServer
from m3cluster.placement import (
    CutoverTimes,
    Instance,
    NoPlacementError,
    Placement,
    PlacementError,
    PlacementExistsError,
    PlacementOptions,
    PlacementService,
    VersionNotKeptError,
    encode_staged_placement,
)
from m3cluster.proto import DecodeError

STAGED = PlacementOptions(is_mirrored=True, is_staged=True, times=CutoverTimes(7, 60, 60))
ONE = [Instance("a1", "a", "embedded", 1, "a1:6000", hostname="a1", port=6000)]


@pytest.fixture
async def store():
    client = MemoryServer().client()
    yield client
    await client.close()


def service(store, options=STAGED, **fields):
    return PlacementService(store, "env", "m3aggregator" if options.is_staged else "m3db", options, **fields)


async def test_init_stores_version_1_and_answers_version_0(store):
    placements = service(store)
    made = await placements.init(ONE, 4, 1)
    assert (made.version, made.cutover_time_ns) == (0, 0)
    stored = await placements.placement()
    assert (stored.version, stored.instances, stored.cutover_time_ns) == (1, made.instances, 0)
    assert placements.key == "/placement/env/m3aggregator"
    assert (await store.get(placements.key)).data == encode_staged_placement(made)
    with pytest.raises(PlacementExistsError, match="^key already has a value$"):
        await placements.init(ONE, 4, 1)


async def test_a_plain_placement_keeps_its_cutover_time(store):
    placements = service(store, PlacementOptions(times=CutoverTimes(7, 60, 60)))
    assert (await placements.init(ONE, 4, 1)).cutover_time_ns == 7
    assert (await placements.placement()).cutover_time_ns == 7


async def test_a_dry_run_writes_nothing(store):
    placements = service(store, dry_run=True)
    assert len((await placements.init(ONE, 4, 1)).instances) == 1
    with pytest.raises(NoPlacementError):
        await placements.placement()
    await service(store).init(ONE, 4, 1)
    assert (await placements.init(ONE, 8, 1)).num_shards == 8


@pytest.mark.parametrize(
    ("num_shards", "replica_factor", "message"),
    [(-1, 0, "invalid numShards -1"), (4, 0, "invalid replica factor 0"), (4, -2, "invalid replica factor -2")],
)
async def test_impossible_numbers_are_refused(store, num_shards, replica_factor, message):
    with pytest.raises(PlacementError, match=f"^could not build initial placement, {message}$"):
        await service(store).init(ONE, num_shards, replica_factor)


async def test_versions(store):
    placements = service(store)
    with pytest.raises(NoPlacementError):
        await placements.placement_for_version(1)
    await placements.init(ONE, 4, 1)
    data = (await store.get(placements.key)).data
    await store.set(placements.key, data)
    assert (await placements.placement_for_version(2)).version == 2
    assert (await placements.placement_for_version(1)).version == 1
    for version, message in ((0, "could not find version 0"), (3, "invalid number of placements returned: 0")):
        with pytest.raises(PlacementError, match=message):
            await placements.placement_for_version(version)


async def test_a_store_without_history_has_the_last_version_only(store):
    class Forgetful:
        get, set, check_and_set = store.get, store.set, store.check_and_set

    placements = service(Forgetful())
    await store.set(placements.key, encode_staged_placement(Placement((), 4, 1)))
    await store.set(placements.key, encode_staged_placement(Placement((), 4, 1)))
    assert (await placements.placement_for_version(2)).version == 2
    with pytest.raises(VersionNotKeptError, match="current version is 2"):
        await placements.placement_for_version(1)


async def test_a_stored_value_that_is_no_placement_is_an_error(store):
    await store.set("/placement/env/m3aggregator", b"\xff\xff")
    with pytest.raises(DecodeError):
        await service(store).placement()
