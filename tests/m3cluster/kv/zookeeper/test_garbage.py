"""Nodes that somebody else has made, and servers that answer anything: values or ``KVError``, and watches go on."""

import asyncio
import contextlib
import itertools
import random
import struct

import pytest
from kazoo.protocol.serialization import Create
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl
from tests.m3cluster.kv.waiting import next_of

from m3cluster.kv import KeyNotFoundError, KVError, VersionMismatchError, ZooKeeper, open_store

LONG_S = 30
ANSWERS = 150


@pytest.fixture
async def store(shared_zookeeper, tmp_path):
    store = await open_store(ZooKeeper((shared_zookeeper.address,), chroot=f"/{tmp_path.name}"))
    yield store
    await store.close()


def raw(store, name, *arguments):
    """A plain call of kazoo, on paths below the store's chroot."""
    path, *rest = arguments
    return store._session.call(lambda client: getattr(client, name)(store._paths.top + path, *rest), path)


async def test_a_node_written_by_somebody_else_is_a_value(store):
    watch = store.watch("d/k")
    await raw(store, "create_async", "")
    await raw(store, "create_async", "/d", b"folders may have data")
    await raw(store, "create_async", "/d/k=", b"\x00\xffraw")
    value = await next_of(watch)
    assert (value.data, value.version) == (b"\x00\xffraw", 1)
    await raw(store, "set_async", "/d/k=", b"again")
    assert (await next_of(watch)).version == 2
    assert await store.set("d/k", b"ours") == 3
    # No clock was there so far.
    revision = (await store.get("d/k")).create_revision
    assert await store.put_if("flush", b"1", "d/k", revision) == 1
    assert (await store.delete("d/k")).data == b"ours"


async def test_names_that_are_no_keys_are_not_looked_at(store):
    await store.set("d/k", b"1")
    for name in ("/d/plain", "/d/%41=", "/d/a=b=", "/%zz", "/d/deep", "/d/deep/%zz="):
        await raw(store, "create_async", name, b"x")
    assert [key for key, _ in await store.keys("")] == ["d/k"]
    assert [key for key, _ in await store.keys("d/")] == ["d/k"]
    with pytest.raises(KeyNotFoundError):
        await store.get("d/plain")


async def test_a_node_without_data_is_an_empty_value(store):
    await store.set("other", b"")
    path = store._paths.value("k")

    def start(client):
        # kazoo itself would refuse it.
        result = client.handler.async_result()
        client._call(Create(path, None, OPEN_ACL_UNSAFE, 0), result)
        return result

    await store._session.call(start, path)
    assert (await store.get("k")).data == b""
    assert (await next_of(store.watch("k"))).data == b""


async def test_a_value_below_a_value_does_not_hinder_its_deletion(store):
    await store.set("d", b"1")
    await raw(store, "create_async", "/d=/child", b"x")
    with pytest.raises(KVError, match="d=: NotEmpty.*nodes below it"):
        await store.delete("d")
    await raw(store, "delete_async", "/d=/child")
    assert (await store.delete("d")).data == b"1"


async def test_access_lists_that_do_not_let_us_in_are_named(store):
    await store.set("d/k", b"1")
    lists = [make_digest_acl("somebody", "else", all=True)]
    await store._session.call(lambda client: client.set_acls_async(store._paths.value("d/k"), lists), "d/k")
    with pytest.raises(KVError, match="d/k=: NoAuth.*access list"):
        await store.get("d/k")
    with pytest.raises(KVError, match="d/k=: NoAuth.*access list"):
        await store.set("d/k", b"2")


class Garbage:
    """Opens sessions as ZooKeeper does and answers everything else with something."""

    def __init__(self, seed):
        self._chance = random.Random(seed)
        self.answered = 0
        self._writers = set()

    async def serve(self, reader, writer):
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._frame(reader)
            opened = struct.pack("!iiqi", 0, 1000, self._chance.getrandbits(62), 16) + bytes(16)
            writer.write(struct.pack("!i", len(opened)) + opened)
            while request := await self._frame(reader):
                writer.write(self._answer(request))
                await writer.drain()
                self.answered += 1
        self._writers.discard(writer)
        writer.transport.abort()

    def end(self):
        for writer in self._writers:
            writer.transport.abort()

    async def _frame(self, reader):
        (length,) = struct.unpack("!i", await reader.readexactly(4))
        return await reader.readexactly(length)

    def _answer(self, request):
        (xid,) = struct.unpack_from("!i", request)
        chance = self._chance
        error = chance.choice((0, 0, 0, -4, -101, -103, -110, -112, -7, 99))
        body = struct.pack("!iqi", chance.choice((xid, xid, xid, xid, -1, -2, 7)), chance.getrandbits(40), error)
        body += chance.randbytes(chance.choice((0, 0, 4, 68, 80, 200)))
        if chance.random() < 0.1:
            body = chance.randbytes(chance.randrange(40))
        length = len(body) if chance.random() < 0.95 else chance.choice((-1, 0, 3, 1 << 20))
        return struct.pack("!i", length) + body


async def attempt(call, *arguments):
    """Every outcome but an error of another kind."""
    try:
        async with asyncio.timeout(LONG_S):
            return await call(*arguments)
    except KVError:
        return None


@pytest.mark.parametrize("seed", range(3))
async def test_answers_of_any_kind_are_values_or_errors(seed, capsys):
    garbage = Garbage(seed)
    server = await asyncio.start_server(garbage.serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    config = ZooKeeper(
        (address,), session_timeout_s=0.5, connect_timeout_s=0.1, request_timeout_s=0.2, watch_silence_s=0.2
    )
    store = await open_store(config)
    watches = [store.watch(key) for key in ("a", "b")]
    readers = [asyncio.ensure_future(drain(watch)) for watch in watches]
    waits = [asyncio.ensure_future(attempt(store.wait_deleted, "a", 7)) for _ in range(2)]

    async with asyncio.timeout(LONG_S):
        for number in itertools.count():
            await attempt(store.get, "a")
            await attempt(store.set, "a", b"1")
            await attempt(store.check_and_set, "a", number, b"1")
            await attempt(store.put_if, "a", b"1", "b", 7)
            await attempt(store.delete, "a")
            await attempt(store.delete_if, "a", 7)
            await attempt(store.keys, "a")
            if lease := await attempt(store.grant, 1):
                await attempt(store.put_with_lease, "a", b"1", lease)
                await attempt(lease.revoke)
            if garbage.answered > ANSWERS:
                break
    await store.close()
    await asyncio.gather(*readers, *waits)
    garbage.end()
    server.close()
    assert "a task of the store ended" not in capsys.readouterr().err


async def drain(watch):
    async for _ in watch:
        pass


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
async def test_a_server_that_is_no_zookeeper(greeting):
    async def serve(reader, writer):
        writer.write(random.Random(1).randbytes(200) if greeting is None else greeting)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    store = await open_store(ZooKeeper((address,), connect_timeout_s=0.3, session_timeout_s=0.5))
    watch = store.watch("a")
    for _ in range(2):
        with pytest.raises(KVError, match=f"zookeeper {address}: no connection within 0.3 s; is ZooKeeper running"):
            await store.get("a")
    await store.close()
    await drain(watch)
    server.close()


async def test_a_version_is_what_zookeeper_counts_whoever_wrote(store):
    await store.set("k", b"1")
    await raw(store, "set_async", "/k=", b"2")
    with pytest.raises(VersionMismatchError, match="expected version 1, found 2"):
        await store.check_and_set("k", 1, b"3")
    assert await store.check_and_set("k", 2, b"3") == 3
