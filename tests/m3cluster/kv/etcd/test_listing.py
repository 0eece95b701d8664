"""Keys below a prefix: read again only where they may have changed, and never believed where etcd cannot be heard."""

import asyncio
from collections import Counter

import pytest
from lab.relay import Relay
from lab.waiting import until
from tests.m3cluster.kv.waiting import insist

from m3cluster.kv import Etcd, KVError, open_store
from m3cluster.kv.etcd import listing as module
from m3cluster.kv.etcd.cache import Cache
from m3cluster.kv.etcd.channel import Channel
from m3cluster.kv.etcd.connection import WATCH, Connection
from m3cluster.kv.etcd.listing import WatchedListing
from m3cluster.kv.etcd.watch import PrefixWatch, WatchStream
from m3cluster.proto import decode
from m3x.clock import boot_ns

PREFIX = "list/"


@pytest.fixture
async def open_client():
    stores = []

    async def client(server, **options):
        stores.append(await open_store(Etcd((server.address,), **{"request_timeout_s": 5} | options)))
        return stores[-1]

    yield client
    for store in stores:
        await store.close()


@pytest.fixture
def reads(monkeypatch):
    """How many calls there were, by method."""
    count, call = Counter(), Connection.call

    async def counted(self, rpc, request, **options):
        count[rpc.method] += 1
        return await call(self, rpc, request, **options)

    monkeypatch.setattr(Connection, "call", counted)
    return count


async def names(listing):
    return [key.removeprefix(PREFIX) for key, _ in await listing.keys()]


async def vouched(listing):
    """Returns once etcd tells of the prefix."""

    async def told():
        await listing.keys()
        return listing._watch.told

    await until(told)
    await listing.keys()


async def test_what_has_not_changed_is_not_read_again(open_client, own_etcd, reads):
    store, other = await open_client(own_etcd), await open_client(own_etcd)
    await other.set(f"{PREFIX}a", b"1")
    listing = store.listing(PREFIX)
    assert await names(listing) == ["a"]
    await vouched(listing)
    # On the same stream, and elsewhere.
    await other.set("elsewhere", b"1")
    reads.clear()
    for _ in range(20):
        assert await names(listing) == ["a"]
    assert reads == {}
    for change, found in (
        (other.set(f"{PREFIX}b", b"1"), {"a": b"1", "b": b"1"}),
        (other.delete(f"{PREFIX}a"), {"b": b"1"}),
        (other.set(f"{PREFIX}b", b"2"), {"b": b"2"}),
    ):
        await change

        async def seen(found=found):
            return {key.removeprefix(PREFIX): value.data for key, value in await listing.keys()} == found

        # The news takes its time, and is as new as any then.
        await until(seen)
    listing.close()


async def test_what_this_client_writes_it_always_sees(open_client, own_etcd, monkeypatch):
    """However late it is told of that."""
    monkeypatch.setattr(PrefixWatch, "vouches", Sure.vouches)
    store = await open_client(own_etcd)
    listing, lease = store.listing(PREFIX), await store.grant(60)
    await vouched(listing)
    for number in range(20):
        own = await store.put_with_lease(f"{PREFIX}{number}", b"me", lease)
        assert await names(listing) == [str(number)]
        assert await store.delete_if(f"{PREFIX}{number}", own.create_revision)
        assert await names(listing) == []
    await store.set(f"{PREFIX}a", b"1")
    assert await names(listing) == ["a"]
    await store.check_and_set(f"{PREFIX}b", 0, b"1")
    assert await names(listing) == ["a", "b"]
    await store.delete(f"{PREFIX}a")
    assert await names(listing) == ["b"]
    await store.put_if(f"{PREFIX}c", b"1", f"{PREFIX}b", (await store.get(f"{PREFIX}b")).create_revision)
    assert await names(listing) == ["b", "c"]


class Sure:
    """A watch that has heard of no change."""

    def vouches(self, _revision):
        return True

    def tell_after(self, _revision):
        pass


async def test_a_list_that_was_asked_for_before_an_own_write_is_not_kept():
    asked, answered = [], asyncio.Event()

    async def read():
        asked.append(1)
        await answered.wait()
        return 7, [("p/a", len(asked))]

    listing = WatchedListing("p/", read, Sure(), lambda _listing: None)
    reading = asyncio.ensure_future(listing.keys())
    await asyncio.sleep(0)
    listing.written()
    answered.set()
    assert await reading == [("p/a", 1)]
    assert [await listing.keys() for _ in range(3)] == [[("p/a", 2)]] * 3
    listing.written()
    assert await listing.keys() == [("p/a", 3)]


async def test_a_stream_that_was_not_heard_in_time_vouches_for_nothing():
    """As after this process was stopped, or the machine: what came meanwhile has not been read yet."""
    config = Etcd(("a:1",), watch_silence_s=3)
    stream = WatchStream(Connection(config, [Channel("a:1", lambda: None, 1)]), config, Cache(None))
    watch = stream.watch_prefix(PREFIX)
    watch.tell_after(7)
    watch.told = True
    stream._heard_ns = boot_ns() - 3_000_000_000
    assert watch.vouches(7)
    assert not watch.vouches(6)
    stream._heard_ns = boot_ns() - 3_600_000_000
    assert not watch.vouches(7)


async def test_what_is_closed_while_another_watch_is_sent_is_not_watched():
    config = Etcd(("a:1",))
    stream = WatchStream(Connection(config, [Channel("a:1", lambda: None, 1)]), config, Cache(None))
    watches = [stream.watch_prefix(f"{PREFIX}{number}/") for number in range(4)]
    for watch in watches[:3]:
        watch.tell_after(7)

    class Sent:
        """Which prefixes etcd is asked to tell of; with the first one, one of the others is closed, and one is lost."""

        def __init__(self):
            self.created = []

        async def write(self, request):
            create = decode(WATCH.request, request)["create"]
            self.created.append(create["key"])
            if len(self.created) == 1:
                closed, lost = [watch for watch in watches[:3] if watch.start != create["key"]]
                closed.close()
                lost.lose()

    sent = Sent()
    await stream._watch_prefixes(sent)
    assert len(sent.created) == 1
    assert [watch.start for watch in watches if watch.watch_id] == sent.created
    # What was lost is watched again once somebody has read it.
    for watch in stream._prefixes:
        watch.tell_after(8)
    await stream._watch_prefixes(sent)
    assert len(set(sent.created)) == len(sent.created) == 3
    assert {watch.start for watch in stream._prefixes} == set(sent.created)


async def test_a_stream_that_hangs_is_not_believed(open_client, own_etcd):
    async with Relay(own_etcd.address) as relay:
        store, other = await open_client(relay, request_timeout_s=1, watch_silence_s=0.3), await open_client(own_etcd)
        listing = store.listing(PREFIX)
        await vouched(listing)
        relay.hold()
        await other.set(f"{PREFIX}a", b"1")

        async def seen():
            try:
                return await names(listing) == ["a"]
            except KVError:
                return False

        await until(seen)
        assert relay.held_bytes > 0


async def test_after_a_restart_and_a_compaction_the_keys_are_read_again(open_client, own_etcd, reads):
    store = await open_client(own_etcd)
    listing = store.listing(PREFIX)
    await vouched(listing)
    own_etcd.kill()

    async def refused():
        try:
            await listing.keys()
        except KVError:
            return True
        return False

    await until(refused)
    own_etcd.start()
    other = await open_client(own_etcd)
    await insist(other.set, f"{PREFIX}a", b"1")
    assert [key for key, _ in await insist(listing.keys)] == [f"{PREFIX}a"]
    await vouched(listing)
    reads.clear()
    assert await names(listing) == ["a"]
    assert reads == {}


async def test_a_list_is_read_again_after_a_while_whatever_was_told(open_client, own_etcd, reads, monkeypatch):
    store = await open_client(own_etcd)
    listing = store.listing(PREFIX)
    await vouched(listing)
    reads.clear()
    monkeypatch.setattr(module, "_LONG_NS", -1)
    await listing.keys()
    assert sum(reads.values()) == 1


async def test_what_a_cluster_that_is_behind_tells_is_not_believed(open_client, own_etcd):
    """As a restored one is: etcd would tell of changes from a revision on that it has not reached."""
    store = await open_client(own_etcd)
    listing = store.listing(PREFIX)
    listing._watch.tell_after(1 << 40)
    await until(lambda: listing._watch.from_revision == 0)
    assert not listing._watch.told
    await vouched(listing)
    await store.set(f"{PREFIX}a", b"1")
    assert await names(listing) == ["a"]


async def test_a_listing_that_is_closed_is_watched_no_more(open_client, own_etcd):
    store = await open_client(own_etcd)
    listing = store.listing(PREFIX)
    await vouched(listing)
    listing.close()
    assert not store._stream._prefixes
    assert not store._stream._wanted
    await store.set(f"{PREFIX}a", b"1")
    assert await names(listing) == ["a"]
