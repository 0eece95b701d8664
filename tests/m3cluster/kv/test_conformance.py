"""What every KV backend must do alike (docs/m3/cluster.md, KV store)."""

import asyncio

import pytest
from lab.waiting import until
from tests.m3cluster.kv.waiting import LONG_S, next_of

from m3cluster.kv import ConditionFailedError, KeyNotFoundError, KVError, Value, VersionMismatchError
from m3x.clock import boot_ns


async def missing(store, key):
    try:
        await store.get(key)
    except KeyNotFoundError:
        return True
    return False


async def test_a_missing_key_is_an_error_that_names_it(store):
    with pytest.raises(KeyNotFoundError, match="/topic/e/t"):
        await store.get("/topic/e/t")


async def test_versions_count_the_writes_of_a_key_and_restart_after_deletion(store):
    assert [await store.set("a", b"1"), await store.set("a", b"2")] == [1, 2]
    value = await store.get("a")
    assert (value.data, value.version) == (b"2", 2)
    assert value.mod_revision > value.create_revision
    assert await store.delete("a") == value
    with pytest.raises(KeyNotFoundError):
        await store.delete("a")
    assert await store.set_if_not_exists("a", b"3") == 1
    assert (await store.get("a")).create_revision > value.mod_revision


async def test_revisions_grow_over_all_keys(store):
    await store.set("a", b"")
    await store.set("b", b"")
    await store.set("a", b"")
    a, b = await store.get("a"), await store.get("b")
    assert a.create_revision < b.create_revision < a.mod_revision


async def test_an_empty_value_is_a_value(store):
    await store.set("_kv/env//namespaces", b"")
    value = await store.get("_kv/env//namespaces")
    assert (value.data, value.version) == (b"", 1)


async def test_set_if_not_exists_refuses_an_existing_key(store):
    await store.set_if_not_exists("a", b"1")
    with pytest.raises(VersionMismatchError):
        await store.set_if_not_exists("a", b"2")
    assert (await store.get("a")).data == b"1"


async def test_check_and_set_writes_only_at_the_expected_version(store):
    with pytest.raises(VersionMismatchError):
        await store.check_and_set("a", 1, b"x")
    assert await store.check_and_set("a", 0, b"1") == 1
    assert await store.check_and_set("a", 1, b"2") == 2
    with pytest.raises(VersionMismatchError):
        await store.check_and_set("a", 1, b"3")
    assert (await store.get("a")).data == b"2"


async def test_of_concurrent_conditional_writes_one_wins(connect):
    stores = [await connect() for _ in range(4)]

    async def attempt(store, name):
        try:
            return await store.check_and_set("a", 0, name)
        except VersionMismatchError:
            return 0

    won = await asyncio.gather(*(attempt(s, b"%d" % i) for i, s in enumerate(stores)))
    assert sorted(won) == [0, 0, 0, 1]
    assert (await stores[0].get("a")).data == b"%d" % won.index(1)


async def test_put_if_depends_on_another_keys_create_revision(store):
    with pytest.raises(ConditionFailedError):
        await store.put_if("flush", b"1", "lock", 0)
    await store.set("lock", b"me")
    revision = (await store.get("lock")).create_revision
    assert await store.put_if("flush", b"1", "lock", revision) == 1
    await store.set("lock", b"still me")
    assert await store.put_if("flush", b"2", "lock", revision) == 2
    await store.delete("lock")
    await store.set("lock", b"other")
    with pytest.raises(ConditionFailedError):
        await store.put_if("flush", b"3", "lock", revision)
    assert (await store.get("flush")).data == b"2"


async def test_delete_if_deletes_only_the_key_it_means(store):
    await store.set("a", b"")
    first = await store.get("a")
    await store.delete("a")
    await store.set("a", b"")
    assert not await store.delete_if("a", first.create_revision)
    assert await store.delete_if("a", (await store.get("a")).create_revision)
    assert not await store.delete_if("a", first.create_revision)


async def test_keys_lists_a_prefix_in_order_of_creation(store):
    for key in ("p/b", "p/a", "p", "q/a", "p/é", "P/c"):
        await store.set(key, key.encode())
    await store.set("p/b", b"again")
    found = await store.keys("p/")
    assert [key for key, _ in found] == ["p/b", "p/a", "p/é"]
    assert found[0][1] == await store.get("p/b")
    assert [key for key, _ in await store.keys("p")] == ["p/b", "p/a", "p", "p/é"]
    assert await store.keys("none/") == []
    assert len(await store.keys("")) == 6


async def test_a_listing_is_the_keys_as_they_are_now(store, connect):
    listing, other = store.listing("p/"), await connect()
    assert await listing.keys() == []
    await store.set("p/a", b"1")
    assert await listing.keys() == await store.keys("p/")
    await other.set("p/b", b"2")
    await other.set("q", b"2")

    async def seen():
        return await listing.keys() == await other.keys("p/")

    await until(seen)
    assert [key for key, _ in await listing.keys()] == ["p/a", "p/b"]
    await other.delete("p/a")
    await until(seen)
    listing.close()


async def test_a_wildcard_in_a_prefix_means_itself(store):
    await store.set("a%b", b"")
    await store.set("axb", b"")
    assert [key for key, _ in await store.keys("a%")] == ["a%b"]


async def test_a_watch_begins_with_the_value_that_is_there(connect):
    writer, reader = await connect(), await connect()
    await writer.set("a", b"1")
    assert (await next_of(reader.watch("a"))).data == b"1"


async def test_a_watch_sees_writes_deletion_and_a_new_life_of_the_key(connect):
    writer, reader = await connect(), await connect()
    watch = reader.watch("a")
    await writer.set("a", b"1")
    assert (await next_of(watch)).data == b"1"
    await writer.set("a", b"2")
    assert (await next_of(watch)).data == b"2"
    await writer.delete("a")
    assert await next_of(watch) is None
    await writer.set("a", b"2")
    value = await next_of(watch)
    assert (value.data, value.version) == (b"2", 1)


async def test_a_watch_of_a_missing_key_says_nothing_until_it_appears(store):
    watch = store.watch("a")
    await store.set("other", b"")
    # A second watch has been served, so the first one has been looked after too.
    await next_of(store.watch("other"))
    waiting = asyncio.ensure_future(next_of(watch))
    await asyncio.sleep(0)
    assert not waiting.done()
    await store.set("a", b"1")
    assert (await waiting).data == b"1"


async def test_a_slow_reader_gets_the_newest_value(connect):
    writer, reader = await connect(), await connect()
    watch = reader.watch("a")
    for number in range(50):
        await writer.set("a", b"%d" % number)
    async with asyncio.timeout(LONG_S):
        async for value in watch:
            assert isinstance(value, Value)
            if value.data == b"49":
                break
    assert value.version == 50


async def test_several_watches_of_one_key_are_all_served(store):
    watches = [store.watch("a") for _ in range(3)]
    await store.set("a", b"1")
    assert [(await next_of(w)).data for w in watches] == [b"1"] * 3
    late = store.watch("a")
    assert (await next_of(late)).data == b"1"
    await watches[0].close()
    await store.set("a", b"2")
    assert [(await next_of(w)).data for w in (*watches[1:], late)] == [b"2"] * 3


async def test_closing_a_watch_ends_its_iteration(store):
    watch = store.watch("a")
    reading = asyncio.ensure_future(anext(watch, "ended"))
    await watch.close()
    await watch.close()
    assert await reading == "ended"


async def test_keys_of_a_lease_vanish_when_it_is_revoked(connect):
    owner, other = await connect(), await connect()
    lease = await owner.grant(30)
    assert lease.ttl_ns == 30 * 10**9
    assert boot_ns() < lease.deadline_ns() <= boot_ns() + lease.ttl_ns
    value = await owner.put_with_lease("_ld/a", b"me", lease)
    assert (value.data, value.version) == (b"me", 1)
    watch = other.watch("_ld/a")
    assert (await next_of(watch)).data == b"me"
    await lease.revoke()
    assert await next_of(watch) is None
    await asyncio.wait_for(lease.lost(), LONG_S)
    assert lease.deadline_ns() <= boot_ns()
    with pytest.raises(KVError, match="lease"):
        await owner.put_with_lease("_ld/a", b"me", lease)


async def test_put_with_lease_returns_the_older_value(connect):
    one, two = await connect(), await connect()
    first = await one.put_with_lease("k", b"one", await one.grant(30))
    assert await two.put_with_lease("k", b"two", await two.grant(30)) == first


async def test_a_lease_is_kept_alive_beyond_its_ttl_and_ends_with_its_client(connect):
    owner, other = await connect(), await connect()
    lease = await owner.grant(1)
    await owner.put_with_lease("k", b"", lease)
    first = lease.deadline_ns()

    async def renewed():
        return lease.deadline_ns() > first + lease.ttl_ns

    await until(renewed)
    assert not await missing(other, "k")
    await owner.close()
    assert await missing(other, "k")
    await asyncio.wait_for(lease.lost(), LONG_S)


async def test_keys_of_a_dead_client_vanish_when_its_lease_is_over(connect):
    dead, other = await connect(), await connect()
    lease = await dead.grant(1)
    created = await dead.put_with_lease("k", b"", lease)
    deadline = lease.deadline_ns()
    await dead.abandon()
    await asyncio.wait_for(other.wait_deleted("k", created.create_revision), LONG_S)
    assert boot_ns() >= deadline
    assert await missing(other, "k")


async def test_a_plain_write_frees_a_key_from_its_lease(store):
    lease = await store.grant(30)
    await store.put_with_lease("k", b"1", lease)
    await store.set("k", b"2")
    await lease.revoke()
    assert (await store.get("k")).data == b"2"


async def test_a_store_that_answers_is_in_no_trouble(store):
    watch = store.watch("k")
    await store.set("k", b"1")
    async with asyncio.timeout(LONG_S):
        assert (await anext(watch)).data == b"1"
    assert store.trouble() is None


async def test_wait_deleted_returns_for_deletion_and_for_a_new_life(connect):
    one, two = await connect(), await connect()
    await asyncio.wait_for(one.wait_deleted("k", 7), LONG_S)
    await two.set("k", b"")
    revision = (await two.get("k")).create_revision
    await asyncio.wait_for(one.wait_deleted("k", revision + 1), LONG_S)
    waiting = asyncio.ensure_future(one.wait_deleted("k", revision))
    await two.set("k", b"changed")
    await asyncio.sleep(0)
    assert not waiting.done()
    await two.delete("k")
    await two.set("k", b"new life")
    await asyncio.wait_for(waiting, LONG_S)


async def test_a_closed_store_ends_its_watches_and_refuses_calls(connect):
    store = await connect()
    watch = store.watch("a")
    reading = asyncio.ensure_future(anext(watch, "ended"))
    waiting = asyncio.ensure_future(store.wait_deleted("a", 1))
    await store.set("b", b"")
    await asyncio.wait([waiting], timeout=LONG_S)
    await store.close()
    await store.close()
    assert await reading == "ended"
    with pytest.raises(KVError, match="closed"):
        await store.get("a")


async def test_cancelling_a_call_does_no_harm(store):
    calls = [asyncio.ensure_future(store.set("a", b"%d" % i)) for i in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await store.set("a", b"last")
    assert (await store.get("a")).data == b"last"


STRANGE = (
    "/",
    "//",
    "a/",
    "/a",
    "a//b",
    ".",
    "..",
    "a/../b",
    "a b",
    "é/😀",
    "a\x07",
    "a=b",
    "50%",
    "zookeeper",
    "zookeeper/a",
    "*",
    "'",
)


async def test_keys_may_be_spelled_in_any_way(store):
    for number, key in enumerate(STRANGE):
        assert await store.set(key, b"%d" % number) == 1
    for number, key in enumerate(STRANGE):
        assert (await store.get(key)).data == b"%d" % number
    assert [key for key, _ in await store.keys("")] == list(STRANGE)
    assert [key for key, _ in await store.keys("/")] == ["/", "//", "/a"]
    assert [key for key, _ in await store.keys("a/")] == ["a/", "a//b", "a/../b"]
    for key in STRANGE:
        await store.delete(key)
    assert await store.keys("") == []


async def test_a_value_may_be_any_bytes_and_some_hundred_kilobytes_of_them(connect):
    writer, reader = await connect(), await connect()
    data = bytes(range(256)) * 3000
    watch = reader.watch("a")
    await writer.set("a", data)
    assert (await next_of(watch)).data == data
    assert (await reader.keys("a"))[0][1].data == data


async def test_writing_the_same_again_is_a_write(connect):
    writer, reader = await connect(), await connect()
    watch = reader.watch("a")
    await writer.set("a", b"x")
    first = await next_of(watch)
    await writer.set("a", b"x")
    second = await next_of(watch)
    assert (second.data, second.version) == (b"x", 2)
    assert second.create_revision == first.create_revision
    assert second.mod_revision > first.mod_revision


async def test_no_write_of_several_clients_is_lost(connect):
    stores = [await connect() for _ in range(3)]

    async def count(store):
        """Adds one ten times, as a placement change does it."""
        lost = 0
        for _ in range(10):
            while True:
                value = await store.get("n")
                try:
                    await store.check_and_set("n", value.version, b"%d" % (int(value.data) + 1))
                    break
                except VersionMismatchError:
                    lost += 1
        return lost

    await stores[0].set("n", b"0")
    await asyncio.gather(*map(count, stores))
    assert ((await stores[0].get("n")).data, (await stores[0].get("n")).version) == (b"30", 31)
    versions = await asyncio.gather(*(store.set("plain", b"") for store in stores for _ in range(10)))
    assert sorted(versions) == list(range(1, 31))


async def test_put_if_may_create_its_key_and_depend_on_itself(store):
    await store.set("lock", b"me")
    lock = (await store.get("lock")).create_revision
    assert await store.put_if("new/flush", b"1", "lock", lock) == 1
    created = await store.get("new/flush")
    assert await store.put_if("new/flush", b"2", "new/flush", created.create_revision) == 2
    for wrong in (created.create_revision + 1, lock, -1):
        with pytest.raises(ConditionFailedError, match="expected create revision"):
            await store.put_if("new/flush", b"3", "new/flush", wrong)
    with pytest.raises(ConditionFailedError, match="no such key"):
        await store.put_if("flush", b"3", "missing", 1)
    assert (await store.get("new/flush")).data == b"2"


async def test_of_concurrent_creations_under_a_lease_one_wins(connect):
    stores = [await connect() for _ in range(4)]
    leases = [await store.grant(30) for store in stores]
    assert len({lease.id for lease in leases}) == 4
    assert all(lease.id > 0 for lease in leases)
    tries = zip(stores, leases, strict=True)
    found = await asyncio.gather(*(s.put_with_lease("k", b"%x" % lease.id, lease) for s, lease in tries))
    assert len(set(found)) == 1
    winner = [b"%x" % lease.id for lease in leases].index(found[0].data)
    await leases[winner - 1].revoke()
    assert await stores[0].get("k") == found[0]
    await leases[winner].revoke()
    await asyncio.wait_for(stores[winner - 1].wait_deleted("k", found[0].create_revision), LONG_S)
    assert await missing(stores[winner - 1], "k")


async def test_leases_of_one_client_end_one_by_one(store):
    one, two = await store.grant(30), await store.grant(30)
    await store.put_with_lease("a", b"", one)
    await store.put_with_lease("b", b"", two)
    await one.revoke()
    await one.revoke()
    assert [key for key, _ in await store.keys("")] == ["b"]
    assert two.deadline_ns() > boot_ns()
    with pytest.raises(ValueError, match="at least 1 s"):
        await store.grant(0)


async def test_a_watch_follows_a_key_from_lease_to_lease(connect):
    owner, other = await connect(), await connect()
    watch = other.watch("k")
    for number in range(3):
        lease = await owner.grant(30)
        created = await owner.put_with_lease("k", b"%d" % number, lease)
        assert await next_of(watch) == created
        waiting = asyncio.ensure_future(other.wait_deleted("k", created.create_revision))
        await lease.revoke()
        assert await next_of(watch) is None
        await asyncio.wait_for(waiting, LONG_S)


async def test_many_keys_are_watched_at_once(connect):
    writer, reader = await connect(), await connect()
    watches = {f"many/{number}": reader.watch(f"many/{number}") for number in range(50)}
    for key in watches:
        await writer.set(key, key.encode())
    assert [(await next_of(watch)).data.decode() for watch in watches.values()] == list(watches)
    await writer.set("many/7", b"again")
    assert (await next_of(watches["many/7"])).data == b"again"
