"""What only ZooKeeper can do to a client: stop, die, come back, expire a session, hang; and what a start without it looks like."""

import asyncio
import contextlib
import socket
import threading

import pytest
from lab.kv_servers import ZooKeeperServer
from lab.ports import free_port
from lab.processes import stop
from lab.relay import Relay
from lab.waiting import until
from tests.m3cluster.kv.waiting import LONG_S, insist, next_of, value_is
from tests.real_servers import require_server

from m3cluster.kv import ConditionFailedError, KeyNotFoundError, KVError, VersionMismatchError, ZooKeeper, open_store
from m3cluster.kv.zookeeper.lease import ZooKeeperLease
from m3cluster.kv.zookeeper.session import Session
from m3x.clock import boot_ns


async def vanished(store, key):
    async def gone():
        try:
            await store.get(key)
        except KeyNotFoundError:
            return True
        except KVError:
            pass
        return False

    await until(gone)


@pytest.fixture
async def open_client(tmp_path):
    """Opens stores that are closed at the end of the test; afterwards no task and no thread of theirs may be left."""
    stores = []
    threads = set(threading.enumerate())

    async def client(*servers, **options):
        options = {"chroot": f"/{tmp_path.name}", "session_timeout_s": 4, "connect_timeout_s": 1} | options
        options = {"request_timeout_s": 3, "watch_silence_s": 0.5} | options
        stores.append(await open_store(ZooKeeper(tuple(server.address for server in servers), **options)))
        return stores[-1]

    yield client
    await asyncio.gather(*(store.close() for store in stores))
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("kv ")]
    for thread in set(threading.enumerate()) - threads:
        await asyncio.to_thread(thread.join, LONG_S) if thread.name.startswith("kv") else None
    assert not [thread for thread in set(threading.enumerate()) - threads if not thread.name.startswith("asyncio")]


@pytest.fixture
async def second_client():
    """Connects with the id and password of somebody else's session and ends it: to its owner it has expired."""
    sessions = []

    async def end(server, credentials):
        session = Session(ZooKeeper((server.address,)), 10, credentials=credentials)
        sessions.append(session)
        async with asyncio.timeout(LONG_S):
            await session.connected()
        assert await session.close()

    yield end
    for session in sessions:
        await session.close()


class Nobody:
    """An endpoint at which nothing listens."""

    def __init__(self):
        self.address = f"127.0.0.1:{free_port()}"


class Silent:
    """An endpoint that takes connections and never says anything."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._taken = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def connections(self):
        """How many there have been."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._taken.append(self._listener.accept()[0])
        return len(self._taken)

    def close(self):
        for connection in (self._listener, *self._taken):
            connection.close()


@pytest.fixture
def silent():
    server = Silent()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"servers": ()}, "at least one server"),
        ({"servers": ("a:1", " ")}, "none may be empty"),
        ({"servers": ("a:b",)}, "'a:b' is not host:port"),
        ({"servers": ("a:70000",)}, "not host:port"),
        ({"servers": ("a:1/m3",)}, "not host:port"),
        ({"servers": ("a",), "chroot": "m3"}, "chroot must be a path such as /m3"),
        ({"servers": ("a",), "chroot": "/m3/"}, "chroot must be a path"),
        ({"servers": ("a",), "request_timeout_s": 0}, "request_timeout_s must be above 0"),
        ({"servers": ("a",), "max_value_bytes": 0}, "max_value_bytes must be above 0"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ZooKeeper(**options)


@pytest.mark.parametrize("servers", [("zk01",), ("zk01:2181", "10.0.0.1:2182"), ("[::1]:2181", "[::1]")])
def test_servers_may_be_named_in_these_ways(servers):
    assert ZooKeeper(servers).name == ", ".join(servers)


async def test_a_server_that_refuses_is_named_with_advice(open_client):
    nobody = Nobody()
    store = await open_client(nobody, connect_timeout_s=0.3)
    for call in (store.get("a"), store.set("a", b""), store.keys(""), store.grant(5)):
        with pytest.raises(KVError, match=f"zookeeper {nobody.address}: no connection within 0.3 s; .*quorum"):
            await call


async def test_a_server_without_quorum_is_told_apart_by_the_advice(open_client, tmp_path):
    require_server(ZooKeeperServer)
    server = ZooKeeperServer.ensemble(tmp_path)[0]
    server.launch()
    try:

        async def takes_connections():
            return b"not currently serving" in await asyncio.to_thread(server.ask)

        await until(takes_connections)
        store = await open_client(server, connect_timeout_s=0.3)
        with pytest.raises(KVError, match="does it have a quorum"):
            await store.get("a")
    finally:
        server.kill()


async def test_a_server_cut_off_from_its_ensemble_answers_pings_but_proves_no_life(open_client, tmp_path):
    """The rest of the ensemble ends the session in time, whatever that server says; the deadline must not follow it."""
    require_server(ZooKeeperServer)
    servers = ZooKeeperServer.ensemble(tmp_path)
    try:
        for server in servers:
            server.launch()
        for server in servers:
            await asyncio.to_thread(server.wait)
        follower = next(server for server in servers if b"Mode: follower" in server.ask())
        store = await open_client(follower, session_timeout_s=4)
        await store.set("a", b"1")
        lease = await store.grant(2)
        first = lease.deadline_ns()

        async def renewed():
            return lease.deadline_ns() > first

        await until(renewed)
        for server in servers:
            if server is not follower:
                stop(server.pid)
        stopped_ns = boot_ns()
        answered_ns = 0
        while boot_ns() < stopped_ns + lease.ttl_ns // 2:
            # What needs no quorum, as a ping does not.
            data, _ = await store._session.call(lambda client: client.get_async(store._paths.value("a")), "a")
            assert data == b"1"
            answered_ns = boot_ns()
            assert lease.deadline_ns() < stopped_ns + lease.ttl_ns
            await asyncio.sleep(0.05)
        assert answered_ns > stopped_ns + lease.ttl_ns // 3
        async with asyncio.timeout(LONG_S):
            await lease.lost()
        for server in servers:
            if server is not follower:
                server.resume()
        assert await insist(store.set, "a", b"2") == 2
    finally:
        for server in servers:
            server.kill()


async def test_a_dead_or_silent_server_costs_nothing_while_another_one_lives(open_client, shared_zookeeper, silent):
    store = await open_client(Nobody(), silent, shared_zookeeper, connect_timeout_s=LONG_S)
    assert await store.set("failover", b"1") == 1
    assert (await next_of(store.watch("failover"))).data == b"1"
    lease = await store.grant(2)
    await lease.revoke()


async def test_a_silent_server_alone_is_an_error_in_time(open_client, silent):
    store = await open_client(silent, connect_timeout_s=0.3)
    with pytest.raises(KVError, match="no connection within 0.3 s"):
        await store.get("a")


async def test_a_swallowed_request_for_a_session_is_made_anew(silent):
    hour_s = 3600
    session = Session(ZooKeeper((silent.address,), connect_timeout_s=0.05), hour_s)
    try:
        await until(lambda: silent.connections() > 2)
    finally:
        await session.close(keep_session=True)


async def test_a_session_whose_closing_is_cancelled_has_ended_all_the_same(silent):
    session = Session(ZooKeeper((silent.address,)), 10)
    await until(silent.connections)
    closing = asyncio.ensure_future(session.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("kv ")]
    await session.close()


async def test_a_client_outlives_kill_and_restart(open_client, own_zookeeper):
    store = await open_client(own_zookeeper)
    watch, gone = store.watch("a"), store.watch("b")
    await store.set("a", b"1")
    await store.set("b", b"1")
    await value_is(watch, b"1")
    before = await value_is(gone, b"1")
    lease = await store.grant(LONG_S)
    mine = await store.put_with_lease("k", b"me", lease)
    waiting = asyncio.ensure_future(store.wait_deleted("b", before.create_revision))
    own_zookeeper.kill()
    with pytest.raises(KVError, match="zookeeper"):
        await store.set("a", b"lost")
    own_zookeeper.start()
    other = await open_client(own_zookeeper)
    # A server that has just started may drop its first connections, after it has written what they brought.
    version = await insist(other.set, "a", b"2")
    await insist(other.delete, "b")
    assert (await value_is(watch, b"2")).version == version >= 2
    assert await value_is(gone, None) is None
    async with asyncio.timeout(LONG_S):
        await waiting
    assert await insist(store.set, "a", b"3") > version
    await value_is(watch, b"3")
    assert await store.get("k") == mine
    assert lease.deadline_ns() > boot_ns()


async def test_proofs_of_life_find_their_way_back(open_client, own_zookeeper):
    store = await open_client(own_zookeeper)
    # Java may take more than ten seconds to start again where others want the processor too.
    lease = await store.grant(30)
    own_zookeeper.kill()
    killed_ns = boot_ns()
    own_zookeeper.start()

    async def renewed():
        return lease.deadline_ns() > killed_ns + lease.ttl_ns

    await until(renewed)


async def test_a_deadline_counts_from_what_a_quorum_has_answered(open_client, own_zookeeper):
    store = await open_client(own_zookeeper)
    asked_ns = boot_ns()
    lease = await store.grant(1)
    assert asked_ns <= lease.deadline_ns() - lease.ttl_ns <= boot_ns()
    first = lease.deadline_ns()

    async def renewed():
        return lease.deadline_ns() > first + lease.ttl_ns

    await until(renewed)
    stop(own_zookeeper.pid)
    stopped_ns = boot_ns()
    try:
        assert lease.deadline_ns() < stopped_ns + lease.ttl_ns
        await asyncio.sleep(lease.ttl_ns / 4e9)
        assert not lease.deadline_ns() or lease.deadline_ns() < stopped_ns + lease.ttl_ns
    finally:
        own_zookeeper.resume()


async def test_a_stopped_zookeeper_ends_leases_by_the_clock_and_nothing_else(open_client, own_zookeeper):
    store = await open_client(own_zookeeper, request_timeout_s=0.5)
    watch = store.watch("a")
    await insist(store.set, "a", b"1")
    await value_is(watch, b"1")
    lease = await store.grant(1)
    await store.put_with_lease("k", b"me", lease)
    stop(own_zookeeper.pid)
    stopped_ns = boot_ns()
    try:
        with pytest.raises(KVError, match="does not answer: is it stopped|no connection"):
            await store.keys("")
        async with asyncio.timeout(LONG_S):
            await lease.lost()
        assert boot_ns() <= stopped_ns + 10 * lease.ttl_ns
        assert lease.deadline_ns() == 0
    finally:
        own_zookeeper.resume()
    other = await open_client(own_zookeeper)
    await insist(other.set, "a", b"2")
    await value_is(watch, b"2")
    await vanished(other, "k")


async def test_an_expired_session_ends_its_lease_at_once(open_client, shared_zookeeper, second_client):
    store = await open_client(shared_zookeeper)
    lease = await store.grant(LONG_S)
    await store.put_with_lease("k", b"me", lease)
    await second_client(shared_zookeeper, lease.session.credentials)
    async with asyncio.timeout(LONG_S):
        await lease.lost()
    assert lease.deadline_ns() == 0
    await vanished(store, "k")
    with pytest.raises(KVError, match="lease .* has ended; ask for a new one"):
        await store.put_with_lease("k", b"me", lease)
    # What has ended by itself needs no revocation.
    await lease.revoke()
    again = await store.grant(LONG_S)
    assert (await store.put_with_lease("k", b"me", again)).version == 1


async def test_watches_outlive_the_session(open_client, shared_zookeeper, second_client):
    store, other = await open_client(shared_zookeeper), await open_client(shared_zookeeper)
    watch, missing = store.watch("a"), store.watch("b")
    await store.set("a", b"1")
    await value_is(watch, b"1")
    for number in range(2, 5):
        await second_client(shared_zookeeper, store._session.credentials)
        await other.set("a", b"%d" % number)
        await value_is(watch, b"%d" % number)
    await other.set("b", b"there")
    await value_is(missing, b"there")
    assert await insist(store.set, "a", b"end") == 5


async def test_a_connection_that_hangs_without_breaking_is_replaced(open_client, own_zookeeper):
    """Only the missing answers tell: kazoo does not ping while something else is asked often enough."""
    async with Relay(own_zookeeper.address) as relay:
        store = await open_client(relay, session_timeout_s=LONG_S, request_timeout_s=1)
        watch = store.watch("a")
        await store.set("a", b"1")
        await value_is(watch, b"1")
        relay.hold()
        other = await open_client(own_zookeeper)
        await other.set("a", b"2")
        await value_is(watch, b"2")
        assert await insist(store.set, "a", b"3") == 3
        assert relay.held_bytes > 0


async def test_a_lease_replaces_a_connection_that_hangs(open_client, own_zookeeper):
    async with Relay(own_zookeeper.address) as relay:
        store = await open_client(relay)
        lease = await store.grant(4)
        relay.hold()
        held_ns = boot_ns()

        async def renewed():
            return lease.deadline_ns() > held_ns + lease.ttl_ns

        await until(renewed)


async def test_whoever_is_cut_off_stops_before_another_one_can_lead(open_client, own_zookeeper):
    async with Relay(own_zookeeper.address) as relay:
        store, other = await open_client(relay), await open_client(own_zookeeper)
        watch = store.watch("a")
        await other.set("a", b"1")
        await value_is(watch, b"1")
        lease = await store.grant(1)
        mine = await store.put_with_lease("k", b"me", lease)
        relay.cut()
        deadline_ns = lease.deadline_ns()
        async with asyncio.timeout(LONG_S):
            await other.wait_deleted("k", mine.create_revision)
        assert boot_ns() >= max(deadline_ns, lease.deadline_ns())
        async with asyncio.timeout(LONG_S):
            await lease.lost()
        with pytest.raises(KVError, match="no connection within"):
            await store.get("a")
        await other.set("a", b"2")
        relay.mend()
        await value_is(watch, b"2")


async def test_a_lost_lease_keeps_nobody_waiting_after_a_restart(open_client, own_zookeeper):
    """The restarted server would grant the session, which nobody wants any more, its whole timeout again."""
    store = await open_client(own_zookeeper)
    lease = await store.grant(6)
    mine = await store.put_with_lease("k", b"me", lease)
    own_zookeeper.kill()
    async with asyncio.timeout(LONG_S):
        await lease.lost()
    own_zookeeper.start()
    started_ns = boot_ns()
    other = await open_client(own_zookeeper)
    async with asyncio.timeout(LONG_S):
        await other.wait_deleted("k", mine.create_revision)
    assert boot_ns() - started_ns < lease.ttl_ns


async def test_a_revocation_that_cannot_be_told_says_so(open_client, own_zookeeper):
    async with Relay(own_zookeeper.address) as relay:
        store = await open_client(relay)
        lease = await store.grant(2)
        relay.cut()
        with pytest.raises(KVError, match="could not be told .* stay for another 2 s at most"):
            await lease.revoke()
        assert lease.deadline_ns() == 0


async def test_a_restored_ensemble_with_lower_transaction_numbers_is_believed(open_client, own_zookeeper, tmp_path):
    store = await open_client(own_zookeeper)
    watch = store.watch("a")
    for number in range(20):
        await store.set("a", b"%d" % number)
    await value_is(watch, b"19")
    own_zookeeper.kill()
    (own_zookeeper.directory / "data").rename(tmp_path / "old")
    own_zookeeper.start()
    await insist(store.set, "a", b"restored")
    assert (await value_is(watch, b"restored")).version == 1
    await store.set("a", b"again")
    await value_is(watch, b"again")


async def test_conditions_see_through_a_key_that_was_made_again(open_client, shared_zookeeper):
    """The new key has the version of the old one: only the clock tells them apart."""
    store, other = await open_client(shared_zookeeper), await open_client(shared_zookeeper)
    await store.set("lock", b"me")
    revision = (await store.get("lock")).create_revision
    pinned = store._pinned

    async def overtaken(path):
        found = await pinned(path)
        store._pinned = pinned
        await other.delete("lock")
        await other.set("lock", b"somebody else")
        return found

    store._pinned = overtaken
    with pytest.raises(ConditionFailedError, match=f"expected create revision {revision} of lock, found"):
        await store.put_if("flush", b"1", "lock", revision)
    with pytest.raises(KeyNotFoundError):
        await store.get("flush")
    revision = (await store.get("lock")).create_revision
    store._pinned = overtaken
    assert not await store.delete_if("lock", revision)
    store._pinned = overtaken
    assert (await store.delete("lock")).data == b"somebody else"
    with pytest.raises(KeyNotFoundError):
        await store.get("lock")


async def test_conditions_hold_beside_others_that_create(open_client, shared_zookeeper):
    store, other = await open_client(shared_zookeeper), await open_client(shared_zookeeper)
    await store.set("lock", b"me")
    revision = (await store.get("lock")).create_revision
    busy = asyncio.ensure_future(asyncio.gather(*(other.set(f"new/{number}", b"") for number in range(200))))
    versions = [await store.put_if("flush", b"%d" % number, "lock", revision) for number in range(20)]
    await busy
    assert versions == list(range(1, 21))
    assert await store.delete_if("lock", revision)


async def test_more_calls_than_may_be_under_way_are_all_answered(open_client, shared_zookeeper):
    store = await open_client(shared_zookeeper)
    await store.set("a", b"")
    under_way = []

    async def write():
        version = await store.set("a", b"")
        under_way.append(len(store._session._waiting))
        return version

    assert sorted(await asyncio.gather(*(write() for _ in range(1000)))) == list(range(2, 1002))
    assert max(under_way) <= 256


async def test_a_value_that_is_too_large_says_which_limit(open_client, shared_zookeeper):
    store = await open_client(shared_zookeeper)
    with pytest.raises(KVError, match="a: the value has 1000001 bytes, .* 1000000 here; raise jute.maxbuffer"):
        await store.set("a", bytes(1_000_001))
    largest = bytes(1_000_000)
    assert await store.set("a", largest) == 1
    assert (await next_of(store.watch("a"))).data == largest
    assert await store.put_if("a", largest, "a", (await store.get("a")).create_revision) == 2


async def test_a_value_beyond_the_servers_limit_is_an_error_and_no_end(open_client, shared_zookeeper):
    store = await open_client(shared_zookeeper, max_value_bytes=10_000_000)
    with pytest.raises(KVError, match="zookeeper"):
        await store.set("a", bytes(3_000_000))
    assert await insist(store.set, "b", b"1") == 1


async def test_closing_ends_calls_and_cancelling_is_a_cancellation(open_client, own_zookeeper):
    store = await open_client(own_zookeeper, request_timeout_s=LONG_S, session_timeout_s=LONG_S)
    await store.set("a", b"1")
    stop(own_zookeeper.pid)
    try:
        cancelled, ended = (asyncio.ensure_future(store.get("a")) for _ in range(2))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        longest = 0.0

        async def beat():
            nonlocal longest
            loop = asyncio.get_running_loop()
            last = loop.time()
            while True:
                await asyncio.sleep(0.01)
                longest, last = max(longest, loop.time() - last), loop.time()

        beating = asyncio.ensure_future(beat())
        async with asyncio.timeout(LONG_S):
            await store.close()
        beating.cancel()
        with pytest.raises(KVError, match="closed"):
            await ended
        # The threads took seconds to give up; the loop went on meanwhile.
        assert longest < 1
    finally:
        own_zookeeper.resume()


async def test_a_version_must_be_the_one_expected_even_if_it_cannot_be(open_client, shared_zookeeper):
    store = await open_client(shared_zookeeper, connect_timeout_s=LONG_S)
    await store.set("a", b"1")
    for version in (-1, 7, 1 << 31, 1 << 40):
        with pytest.raises(VersionMismatchError, match=f"expected version {version}, found 1"):
            await store.check_and_set("a", version, b"2")


async def test_a_deadline_counts_from_the_proof_before_the_last_answered_one():
    """The last one's server may not have told the leader yet."""

    class Answering:
        id, timeout_ns, asked_ns, credentials = 7, 1000, 50, None

        async def transact(self, *_, **__):
            if self.failing:
                raise KVError("no")

        failing = False

    session = Answering()
    lease = ZooKeeperLease(ZooKeeper(("a",)), session, "/m3", asyncio.Event())
    assert lease.deadline_ns() == 50 + 1000
    assert await lease._renew(300, 250) == 50 + 1000
    assert await lease._renew(550, 250) == 300 + 1000
    session.failing = True
    with pytest.raises(KVError):
        await lease._renew(800, 250)
    session.failing = False
    assert await lease._renew(900, 250) == 550 + 1000
