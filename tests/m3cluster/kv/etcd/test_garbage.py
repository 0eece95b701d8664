"""Whatever a server answers, calls end in ``KVError`` and watches go on."""

import asyncio
import functools
import random

import grpc
import grpc.aio
import pytest

from m3cluster.kv import Etcd, KVError, open_store
from m3cluster.kv.etcd.connection import (
    DELETE_RANGE,
    LEASE_GRANT,
    LEASE_KEEP_ALIVE,
    LEASE_REVOKE,
    PUT,
    RANGE,
    TXN,
    WATCH,
)
from m3cluster.kv.etcd.values import key_bytes, key_text, prefix_end
from m3cluster.proto import encode

LONG_S = 30
ROUNDS = 150
RPCS = {rpc.method: rpc for rpc in (RANGE, PUT, DELETE_RANGE, TXN, LEASE_GRANT, LEASE_REVOKE, LEASE_KEEP_ALIVE, WATCH)}
EXTREMES = (0, 1, -1, 7, (1 << 63) - 1, -(1 << 63))


def key_value(chance):
    return {
        "key": chance.choice((b"a", b"", b"\xff")),
        "value": chance.randbytes(3),
        "version": chance.choice(EXTREMES),
        "create_revision": chance.choice(EXTREMES),
        "mod_revision": chance.choice(EXTREMES),
    }


def plausible(rpc, chance):
    """A well-formed message of the right type with values that no etcd would send."""
    found = [key_value(chance) for _ in range(chance.randrange(3))]
    part = {"kvs": found, "prev_kvs": found, "prev_kv": chance.choice((None, key_value(chance)))}
    kind = chance.choice(("range", "put", "delete_range"))
    message = part | {
        "header": chance.choice((None, {"revision": chance.choice(EXTREMES)})),
        "deleted": chance.choice(EXTREMES),
        "succeeded": chance.random() < 0.5,
        "responses": [{kind: part}] * chance.randrange(3),
        "id": chance.choice(EXTREMES),
        "ttl": chance.choice(EXTREMES),
        "error": chance.choice(("", "no")),
        "watch_id": chance.choice((*EXTREMES, 1, 2, 3)),
        "canceled": chance.random() < 0.2,
        "compact_revision": chance.choice(EXTREMES),
        "events": [{"type": chance.choice((0, 1, 9)), "kv": chance.choice((None, *found))} for _ in found],
    }
    known = {field.name for field in rpc.response.fields}
    return encode(rpc.response, {name: value for name, value in message.items() if name in known})


def answer(method, chance):
    data = plausible(RPCS[method], chance)
    how = chance.randrange(4)
    if how == 0:
        return chance.randbytes(chance.randrange(60))
    if how == 1 and data:
        spoilt = bytearray(data)
        spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        return bytes(spoilt[: chance.randrange(1, len(spoilt) + 1)])
    return data


class Garbage(grpc.GenericRpcHandler):
    """Answers every call with something, or with a random status."""

    def __init__(self, seed):
        self._chance = random.Random(seed)
        self.answered = dict.fromkeys(RPCS, 0)

    def service(self, details):
        method = details.method
        if method in (WATCH.method, LEASE_KEEP_ALIVE.method):
            return grpc.stream_stream_rpc_method_handler(functools.partial(self._stream, method))
        return grpc.unary_unary_rpc_method_handler(functools.partial(self._unary, method))

    async def _unary(self, method, _, context):
        self.answered[method] += 1
        if self._chance.random() < 0.1:
            await context.abort(self._chance.choice(list(grpc.StatusCode)[1:]), "gärbage\n%s")
        return answer(method, self._chance)

    async def _stream(self, method, _, context):
        for _ in range(self._chance.randrange(8)):
            self.answered[method] += 1
            yield answer(method, self._chance)
        if self._chance.random() < 0.3:
            await context.abort(self._chance.choice(list(grpc.StatusCode)[1:]), "garbage")


async def attempt(call, *arguments):
    """Every outcome but an error of another kind."""
    try:
        async with asyncio.timeout(LONG_S):
            return await call(*arguments)
    except KVError:
        return None


@pytest.mark.parametrize("seed", range(3))
async def test_answers_of_any_kind_are_values_or_errors(seed, capsys):
    handler = Garbage(seed)
    server = grpc.aio.server(handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        await exercise(handler, port)
    finally:
        await server.stop(None)
    assert "a task of the store ended" not in capsys.readouterr().err


async def exercise(handler, port):
    """All calls, many times, beside watches that stay open."""
    store = await open_store(Etcd((f"127.0.0.1:{port}",), request_timeout_s=1, watch_silence_s=0.1))
    watches = [store.watch(key) for key in ("a", "b", "c")]
    readers = [asyncio.ensure_future(drain(watch)) for watch in watches]
    waits = [asyncio.ensure_future(attempt(store.wait_deleted, "a", 7)) for _ in range(2)]
    for number in range(ROUNDS):
        await attempt(store.get, "a")
        await attempt(store.set, "a", b"1")
        await attempt(store.check_and_set, "a", number, b"1")
        await attempt(store.put_if, "a", b"1", "b", 7)
        await attempt(store.delete, "a")
        await attempt(store.delete_if, "a", 7)
        await attempt(store.keys, "a")
        lease = await attempt(store.grant, 1)
        if lease is not None:
            await attempt(store.put_with_lease, "a", b"1", lease)
            await attempt(lease.revoke)
    async with asyncio.timeout(LONG_S):
        while not (handler.answered[WATCH.method] > 5):  # noqa: ASYNC110 - a count of the server has no event
            await asyncio.sleep(0.01)
    for _ in range(20):
        await attempt(store._connection.keep_alive, 7, 1.0)
    assert all(handler.answered.values())
    await store.close()
    await asyncio.gather(*readers, *waits)


async def drain(watch):
    async for _ in watch:
        pass


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
async def test_a_server_that_does_not_speak_grpc(greeting):
    chance = random.Random(1)

    async def serve(reader, writer):
        writer.write(chance.randbytes(200) if greeting is None else greeting)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    store = await open_store(Etcd((address,), request_timeout_s=0.5))
    watch = store.watch("a")
    for _ in range(3):
        with pytest.raises(KVError, match=f"etcd {address}: .*(is etcd running|etcd 3.4 or newer)"):
            await store.get("a")
    await store.close()
    await drain(watch)
    server.close()


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a", b"b"), (b"a\xff", b"b"), (b"", b"\0"), (b"\xff", b"\0"), (b"p/", b"p0")]
)
def test_the_end_of_a_prefix(prefix, end):
    assert prefix_end(prefix) == end


def test_keys_of_any_bytes_can_be_named():
    key = bytes(range(256))
    assert key_bytes(key_text(key)) == key
