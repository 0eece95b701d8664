"""The store on an etcd v3 cluster (docs/m3/cluster.md, operations): one client, shared watches, leases of its own.

Nothing is connected before it is needed, so a client can be opened while etcd is down: calls then raise ``KVError`` soon, ``get`` and
watches give cached values if there is a cache, and everything goes on within two seconds of etcd's return.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial

from m3cluster.kv.etcd import connection as rpc
from m3cluster.kv.etcd.cache import Cache
from m3cluster.kv.etcd.channel import RPCError
from m3cluster.kv.etcd.config import Etcd
from m3cluster.kv.etcd.connection import RPC, Connection, connect
from m3cluster.kv.etcd.lease import EtcdLease
from m3cluster.kv.etcd.listing import Found, WatchedListing
from m3cluster.kv.etcd.messages import COMPARE_CREATE, COMPARE_VERSION
from m3cluster.kv.etcd.values import key_bytes, key_text, prefix_end, read_response, value_of
from m3cluster.kv.etcd.watch import WatchStream
from m3cluster.kv.leased import LeasedStore
from m3cluster.kv.refusals import condition_failed, lease_ended, no_version, not_found, version_mismatch
from m3cluster.kv.store import KVError, Lease, Listing, NotKeptError, Value
from m3cluster.proto import MessageValue
from m3x.clock import boot_ns
from m3x.log import logger

__all__ = ["EtcdStore", "open_etcd"]

log = logger(__name__)


_Joined = tuple[MessageValue, "asyncio.Future[MessageValue | None]"]
"""A read and its answer; None: it is to be asked by itself."""


class _NotTogether(Exception):
    """Reads are to be asked one by one."""


async def open_etcd(config: Etcd) -> "EtcdStore":
    """A client of the cluster. Raises ``KVError`` for TLS files that cannot be used, not for an etcd that is down."""
    connection = connect(config)
    cache = Cache(config.cache_path(), config.cache_dir_mode)
    await cache.load()
    return EtcdStore(config, connection, cache)


def _version_is(key: str, version: int) -> MessageValue:
    return {"target": COMPARE_VERSION, "key": key_bytes(key), "version": version}


def _created_at(key: str, revision: int) -> MessageValue:
    return {"target": COMPARE_CREATE, "key": key_bytes(key), "create_revision": revision}


class EtcdStore(LeasedStore[EtcdLease]):
    """One client of one cluster (``Store``). Create it inside a running loop; use it on that loop only."""

    _REVOKE_S = 2.0

    def __init__(self, config: Etcd, connection: Connection, cache: Cache) -> None:
        watches = WatchStream(connection, config, cache)
        super().__init__(f"etcd {connection.name}", watches, connection.contact)
        self._connection = connection
        self._cache = cache
        self._stream = watches
        self._listings: set[WatchedListing] = set()
        self._joined: list[_Joined] | None = None
        """Reads that go with the one that is about to be sent; None: none is."""
        self._tasks.start(watches.run(), "watches")
        if cache.enabled:
            self._tasks.start(cache.run(), "cache")

    async def _call(self, method: RPC, request: MessageValue, *, repeatable: bool = False) -> MessageValue:
        self._check_open()
        return await self._connection.call(method, request, repeatable=repeatable)

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        """Around a write, however it ends."""
        self._written_below(key)
        try:
            yield
        finally:
            self._written_below(key)

    def _written_below(self, key: str) -> None:
        for listing in self._listings:
            if key.startswith(listing.prefix):
                listing.written()

    async def _range(self, request: MessageValue) -> MessageValue:
        """Reads, in one call with the other reads that begin in the same turn of the loop: who looks around does so on the same beats, and
        a call costs both ends a millisecond."""
        if self._joined is not None:
            joins: asyncio.Future[MessageValue | None] = asyncio.get_running_loop().create_future()
            self._joined.append((request, joins))
            return await joins or await self._call(rpc.RANGE, request, repeatable=True)
        joined: list[_Joined] = []
        self._joined = joined
        try:
            try:
                await asyncio.sleep(0)
            finally:
                self._joined = None
            if joined:
                with contextlib.suppress(_NotTogether):
                    return await self._read_together(request, joined)
        finally:
            for _, other in joined:
                if not other.done():
                    other.set_result(None)
        return await self._call(rpc.RANGE, request, repeatable=True)

    async def _read_together(self, request: MessageValue, joined: list[_Joined]) -> MessageValue:
        """The answer to ``request``; the others are given theirs. Raises ``_NotTogether`` where one of them is refused."""
        reads = [{"range": one} for one in (request, *(one for one, _ in joined))]
        try:
            answer = await self._call(rpc.TXN, {"success": reads}, repeatable=True)
        except RPCError as error:
            if not error.unreachable:
                raise _NotTogether from error
            for _, other in joined:
                if not other.done():
                    other.set_exception(error)
            raise
        for number, (_, other) in enumerate(joined, 1):
            if not other.done():
                other.set_result(read_response(answer, number, "range"))
        return read_response(answer, 0, "range")

    def _written(self, key: str, data: bytes, answer: MessageValue, put: MessageValue) -> Value:
        """The value that a put has made, as its answer tells."""
        revision = int(answer["header"]["revision"])
        old = put["prev_kv"] or {"version": 0, "create_revision": revision}
        value = Value(data, old["version"] + 1, old["create_revision"], revision)
        self._cache.put(key, value)
        return value

    async def get(self, key: str) -> Value:
        """Raises ``KeyNotFoundError``. The cached value, if there is one, while no endpoint answers."""
        try:
            answer = await self._call(rpc.RANGE, {"key": key_bytes(key)}, repeatable=True)
        except RPCError as error:
            cached = self._cache.get(key)
            if cached is None or not error.unreachable:
                raise
            log.warning_limited("etcd does not answer, using the cached value", key=key, error=str(error))
            return cached
        value = value_of(answer["kvs"])
        self._cache.put(key, value)
        if value is None:
            raise not_found(key)
        return value

    async def get_version(self, key: str, version: int) -> Value:
        """``KeepsHistory``: back from one revision to the one before it, as M3 does (docs/m3/cluster.md, operations)."""
        value = await self.get(key)
        if not 0 < version <= value.version:
            raise no_version(key, version, value.version)
        while value.version > version:
            request = {"key": key_bytes(key), "revision": value.mod_revision - 1}
            try:
                answer = await self._call(rpc.RANGE, request, repeatable=True)
            except RPCError as error:
                if error.code == "OUT_OF_RANGE":
                    raise NotKeptError(f"version {version} of {key} is not kept: etcd has compacted it") from error
                raise
            found = value_of(answer["kvs"])
            if found is None or found.mod_revision >= value.mod_revision:
                raise NotKeptError(f"{self._name}: {key} has no version before {value.version}")
            value = found
        return value

    async def set(self, key: str, data: bytes) -> int:
        data = bytes(data)
        with self._writing(key):
            answer = await self._call(rpc.PUT, {"key": key_bytes(key), "value": data, "prev_kv": True})
        return self._written(key, data, answer, answer).version

    async def _put_under(
        self, condition: MessageValue, key: str, data: bytes, otherwise: str
    ) -> tuple[Value | None, Value | None]:
        """Writes ``key`` under a condition: what was written, or None and the value of the key ``otherwise``."""
        put = {"put": {"key": key_bytes(key), "value": data, "prev_kv": True}}
        look = {"range": {"key": key_bytes(otherwise), "keys_only": True}}
        request = {"compare": [condition], "success": [put], "failure": [look]}
        with self._writing(key):
            answer = await self._call(rpc.TXN, request)
        if answer["succeeded"]:
            return self._written(key, data, answer, read_response(answer, 0, "put")), None
        return None, value_of(read_response(answer, 0, "range")["kvs"])

    async def check_and_set(self, key: str, version: int, data: bytes) -> int:
        written, found = await self._put_under(_version_is(key, version), key, bytes(data), key)
        if written is None:
            raise version_mismatch(key, version, found)
        return written.version

    async def put_if(self, key: str, data: bytes, other_key: str, create_revision: int) -> int:
        found = None
        # A key that does not exist has create revision 0 for etcd: that is never what is meant here.
        if create_revision > 0:
            condition = _created_at(other_key, create_revision)
            written, found = await self._put_under(condition, key, bytes(data), other_key)
            if written is not None:
                return written.version
        raise condition_failed(key, other_key, create_revision, found)

    async def delete(self, key: str) -> Value:
        with self._writing(key):
            answer = await self._call(rpc.DELETE_RANGE, {"key": key_bytes(key), "prev_kv": True})
        self._cache.put(key, None)
        value = value_of(answer["prev_kvs"])
        if value is None:
            raise not_found(key)
        return value

    async def delete_if(self, key: str, create_revision: int) -> bool:
        if create_revision <= 0:
            return False
        delete = {"delete_range": {"key": key_bytes(key)}}
        request = {"compare": [_created_at(key, create_revision)], "success": [delete]}
        with self._writing(key):
            answer = await self._call(rpc.TXN, request)
        if answer["succeeded"]:
            self._cache.put(key, None)
        return bool(answer["succeeded"])

    async def keys(self, prefix: str) -> list[tuple[str, Value]]:
        return (await self._found(prefix))[1]

    async def _found(self, prefix: str) -> Found:
        start = key_bytes(prefix)
        request = {"key": start or b"\0", "range_end": prefix_end(start)}
        answer = await self._range(request)
        found = [
            (key_text(kv["key"]), Value(kv["value"], kv["version"], kv["create_revision"], kv["mod_revision"]))
            for kv in answer["kvs"]
        ]
        revision = int((answer["header"] or {"revision": 0})["revision"])
        # Keys of one transaction share a revision; their names then decide.
        return revision, sorted(found, key=lambda pair: (pair[1].create_revision, pair[0]))

    def listing(self, prefix: str) -> Listing:
        """Asks etcd only after a change, and now and then (``listing``)."""
        if not prefix:
            return super().listing(prefix)
        made = WatchedListing(
            prefix, partial(self._found, prefix), self._stream.watch_prefix(prefix), self._listings.discard
        )
        self._listings.add(made)
        return made

    async def _grant(self, ttl_s: int) -> EtcdLease:
        sent_ns = boot_ns()
        # A lease whose grant was not answered has no keys and ends by itself: asking again does no harm.
        answer = await self._call(rpc.LEASE_GRANT, {"ttl": ttl_s}, repeatable=True)
        if answer["id"] <= 0 or answer["ttl"] <= 0 or answer["error"]:
            reason = answer["error"] or f"lease {answer['id']} of {answer['ttl']} s"
            raise KVError(f"{self._name}: no lease of {ttl_s} s granted: {reason}")
        self._check_open()
        return EtcdLease(self._connection, answer["id"], answer["ttl"], sent_ns)

    async def put_with_lease(self, key: str, data: bytes, lease: Lease) -> Value:
        data = bytes(data)
        put = {"put": {"key": key_bytes(key), "value": data, "lease": lease.id}}
        look = {"range": {"key": key_bytes(key)}}
        request = {"compare": [_created_at(key, 0)], "success": [put], "failure": [look]}
        try:
            with self._writing(key):
                answer = await self._call(rpc.TXN, request)
        except RPCError as error:
            if error.code == "NOT_FOUND":
                raise lease_ended(key, lease.id) from error
            raise
        if answer["succeeded"]:
            revision = int(answer["header"]["revision"])
            return Value(data, 1, revision, revision)
        value = value_of(read_response(answer, 0, "range")["kvs"])
        if value is None:
            raise KVError(f"{self._name}: {key} is said to exist, but was not returned")
        return value

    async def _disconnect(self) -> None:
        await self._cache.save()
        await self._connection.close()
