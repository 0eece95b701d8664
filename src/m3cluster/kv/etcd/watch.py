"""All watches of one etcd client on one stream.

A key is read first, then watched from the revision after that read; everything else follows from this order. After a stream broke, and
after a compaction that went past a watch, the key is read again: whatever happened in between, the newest value is what watches give.
A new watch of a key that is watched already causes a read of its own, so that it never begins with something from before it was asked for.

Of a prefix nothing is read here: its watch only says whether what somebody has read there still holds (``PrefixWatch``).

A stream that says nothing for a while is asked for its progress; one that does not answer that either is opened anew, at the next endpoint.
"""

import asyncio

from m3cluster.kv.etcd.cache import Cache
from m3cluster.kv.etcd.channel import Channel, RPCError, Stream
from m3cluster.kv.etcd.config import Etcd
from m3cluster.kv.etcd.connection import TXN, WATCH, Connection, read_answer
from m3cluster.kv.etcd.messages import EVENT_DELETE
from m3cluster.kv.etcd.values import key_bytes, prefix_end, read_response, value_of
from m3cluster.kv.store import KVError, Value
from m3cluster.kv.watching import LatestWatch
from m3cluster.proto import MessageValue, encode
from m3x.beats import early_beat_s
from m3x.clock import boot_ns
from m3x.log import logger
from m3x.retry import Backoff

__all__ = ["PrefixWatch", "WatchStream"]

log = logger(__name__)

_RETRY = Backoff(initial_s=0.1, factor=2.0, max_s=2.0)
_KEYS_PER_READ = 100
"""etcd's own limit of operations in a transaction is 128."""
_DOUBT_NS = 500_000_000
"""A stream that has been silent for so long beyond the time at which it is asked whether it lives is not believed."""
_CACHE_AFTER_S = 1.0
"""How long a new watch waits for etcd before it is given the cached value; a refused connection does not wait that long."""


class _Key:
    """What is known of one key: its value as of ``revision``, and who wants it."""

    def __init__(self) -> None:
        self.value: Value | None = None
        self.revision = 0
        self.watch_id = 0
        self.waiting: set[LatestWatch] = set()
        """Watches that want a read which begins after they were made."""
        self.served: set[LatestWatch] = set()

    def lose_watch(self) -> None:
        """The stream does not tell of this key any more."""
        self.watch_id = 0
        self.waiting |= self.served
        self.served.clear()

    def offer(self) -> None:
        for watch in list(self.served):
            watch.offer(self.value)


class PrefixWatch:
    """Whether a list of keys below a prefix, read at some revision, still holds."""

    def __init__(self, prefix: str, stream: "WatchStream") -> None:
        self.start = key_bytes(prefix)
        self._stream = stream
        self.from_revision = 0
        """etcd is to tell from there on; 0: nobody has read since the stream was opened."""
        self.watch_id = 0
        self.told = False
        """etcd has said that it tells."""
        self._newest = 0
        """Revision of the newest change that it has told of."""

    def vouches(self, revision: int) -> bool:
        """Whether nothing has changed since that revision, as far as a stream that lives has told."""
        return self.told and self.from_revision <= revision + 1 and self._newest <= revision and self._stream.is_heard

    def tell_after(self, revision: int) -> None:
        """All keys were read at that revision."""
        if not self.from_revision:
            self.from_revision = revision + 1
            self._stream.wake()

    def changed(self, revision: int) -> None:
        """etcd tells of a change."""
        self._newest = max(self._newest, revision)

    def lose(self) -> None:
        """The stream does not tell of this prefix any more. A cluster restored from a backup counts from lower revisions again."""
        self.from_revision, self.watch_id, self.told, self._newest = 0, 0, False, 0

    def close(self) -> None:
        """Nobody asks any more."""
        self._stream.forget_prefix(self)


class WatchStream:
    """Hands out watches and feeds them in ``run``."""

    def __init__(self, connection: Connection, config: Etcd, cache: Cache) -> None:
        self._connection = connection
        self._config = config
        self._cache = cache
        self._loop = asyncio.get_running_loop()
        self._keys: dict[str, _Key] = {}
        self._exact: set[LatestWatch] = set()
        """Watches that must not be told anything from the cache."""
        self._ids: dict[int, str] = {}
        self._prefixes: set[PrefixWatch] = set()
        self._unwanted: list[int] = []
        self._last_id = 0
        self._wake = asyncio.Event()
        self._heard_s = 0.0
        self._heard_ns = 0
        """The same on the boot clock, which does not stand still with the machine."""
        self._asked_s: float | None = None
        self._failures = 0

    def watch(self, key: str, *, report_missing: bool = False) -> LatestWatch:
        """A new watch of ``key``; with ``report_missing`` it begins with None if the key does not exist, and never with a cached value."""
        if not key:
            raise ValueError("an empty key cannot be watched")
        watch = LatestWatch(lambda closed: self._forget(key, closed), report_missing=report_missing)
        self._keys.setdefault(key, _Key()).waiting.add(watch)
        if report_missing:
            self._exact.add(watch)
        elif self._cache.enabled:
            self._loop.call_later(_CACHE_AFTER_S, self._serve_cached, key)
        self._wake.set()
        return watch

    def watch_prefix(self, prefix: str) -> PrefixWatch:
        """Tells of changes below ``prefix`` from when somebody has read it."""
        watch = PrefixWatch(prefix, self)
        self._prefixes.add(watch)
        return watch

    def forget_prefix(self, watch: PrefixWatch) -> None:
        """Ends that watch; may be called more than once."""
        self._prefixes.discard(watch)
        if watch.watch_id:
            self._unwanted.append(watch.watch_id)
        watch.lose()
        self.wake()

    def wake(self) -> None:
        """Something else is to be watched, or no more."""
        self._wake.set()

    @property
    def is_heard(self) -> bool:
        """Whether the stream has said something no longer ago than one that lives would have."""
        return boot_ns() - self._heard_ns <= self._config.watch_silence_s * 1e9 + _DOUBT_NS

    @property
    def _wanted(self) -> bool:
        """Whether anything is watched."""
        return bool(self._keys) or any(watch.from_revision for watch in self._prefixes)

    def _forget(self, key: str, watch: LatestWatch) -> None:
        self._exact.discard(watch)
        state = self._keys.get(key)
        if state is None:
            return
        state.waiting.discard(watch)
        state.served.discard(watch)
        if not state.waiting and not state.served:
            del self._keys[key]
            if state.watch_id:
                self._ids.pop(state.watch_id, None)
                self._unwanted.append(state.watch_id)
            self._wake.set()

    def end(self) -> None:
        """Ends all watches."""
        for state in list(self._keys.values()):
            for watch in (*state.waiting, *state.served):
                watch.end()

    def _serve_cached(self, key: str) -> None:
        state, value = self._keys.get(key), self._cache.get(key)
        if state is None or value is None:
            return
        if any([watch.offer(value) for watch in state.waiting - self._exact]):
            log.info("using the value in the cache file", key=key, version=value.version)

    async def run(self) -> None:
        """The loop; runs until cancelled. Watches keep their last value while etcd does not answer."""
        while True:
            self._wake.clear()
            if not self._wanted:
                await self._wake.wait()
                continue
            channel = self._connection.current
            failure: BaseException | None = None
            try:
                await self._session(channel)
            except* KVError as group:
                failure = group
                while isinstance(failure, BaseExceptionGroup):
                    failure = failure.exceptions[0]
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # A task group reports a failure that came together with our cancellation instead of the cancellation.
                raise asyncio.CancelledError
            if failure is not None:
                self._connection.move_on(channel)
                self._failures += 1
                for key in list(self._keys):
                    self._serve_cached(key)
                self._connection.contact.failed(str(failure))
                await asyncio.sleep(_RETRY.delay(self._failures))

    async def _session(self, channel: Channel) -> None:
        """One stream, from opening it until it fails or nothing is watched any more."""
        self._ids.clear()
        self._unwanted.clear()
        self._asked_s = None
        for state in self._keys.values():
            state.lose_watch()
            # A cluster restored from a backup counts from lower revisions again.
            state.revision = 0
        self._connection.contact.asked()
        await channel.ready(min(self._config.dial_timeout_s, self._config.request_timeout_s))
        stream = channel.stream(WATCH.method)
        self._heard_s = self._loop.time()
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(channel, stream), name="watch answers")
                await self._write(channel, stream)
                reader.cancel()
        finally:
            stream.cancel()
            for watch in self._prefixes:
                watch.lose()

    async def _write(self, channel: Channel, stream: Stream) -> None:
        """Keeps the stream's watches as wanted and looks after its silence; returns when nothing is watched."""
        silence_s = self._config.watch_silence_s
        while True:
            self._wake.clear()
            while self._unwanted:
                await self._send(stream, {"cancel": {"watch_id": self._unwanted.pop()}})
            await self._serve_waiting(stream)
            await self._watch_prefixes(stream)
            if not self._wanted:
                return
            now_s = self._loop.time()
            if self._asked_s is not None and now_s - self._asked_s >= silence_s:
                channel.renew()
                details = f"nothing heard for {now_s - self._heard_s:.1f} s"
                raise RPCError(channel.address, WATCH.method, "DEADLINE_EXCEEDED", details)
            if self._asked_s is None and now_s >= early_beat_s(self._heard_s, silence_s):
                # Before sending: the answer may be read before sending returns.
                self._asked_s = now_s
                await self._send(stream, {"progress": {}})
            at_s = early_beat_s(self._heard_s, silence_s) if self._asked_s is None else self._asked_s + silence_s
            try:
                async with asyncio.timeout_at(at_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _send(self, stream: Stream, request: MessageValue) -> None:
        try:
            message = encode(WATCH.request, request)
        except ValueError as error:
            raise KVError(f"etcd {self._connection.name} answered with impossible numbers: {error}") from error
        await stream.write(message)

    async def _serve_waiting(self, stream: Stream) -> None:
        """Reads the keys of waiting watches, offers the values, and watches the keys from there on."""
        while wanted := [(key, state) for key, state in self._keys.items() if state.waiting][:_KEYS_PER_READ]:
            asking = [(key, state, set(state.waiting)) for key, state in wanted]
            reads = [{"range": {"key": key_bytes(key)}} for key, _ in wanted]
            answer = await self._connection.call(TXN, {"success": reads}, repeatable=True)
            revision = int(answer["header"]["revision"])
            for number, (key, state, watches) in enumerate(asking):
                value = value_of(read_response(answer, number, "range")["kvs"])
                if self._keys.get(key) is not state:
                    continue
                if revision >= state.revision:
                    state.value, state.revision = value, revision
                served = watches & state.waiting
                state.waiting -= served
                state.served |= served
                if not state.watch_id:
                    await self._create(stream, key, state)
                self._tell(key, state, authoritative=True)

    async def _create(self, stream: Stream, key: str, state: _Key) -> None:
        self._last_id += 1
        state.watch_id = self._last_id
        self._ids[self._last_id] = key
        create = {"key": key_bytes(key), "start_revision": state.revision + 1, "watch_id": self._last_id}
        await self._send(stream, {"create": create | {"progress_notify": True}})

    async def _watch_prefixes(self, stream: Stream) -> None:
        for watch in tuple(self._prefixes):
            # While another one was sent it may have been closed: etcd would tell of it for as long as the stream lives.
            if watch not in self._prefixes or not watch.from_revision or watch.watch_id:
                continue
            self._last_id += 1
            watch.watch_id = self._last_id
            create = {"key": watch.start, "range_end": prefix_end(watch.start), "start_revision": watch.from_revision}
            await self._send(stream, {"create": create | {"watch_id": self._last_id, "progress_notify": True}})

    def _prefix(self, watch_id: int) -> PrefixWatch | None:
        return next((watch for watch in self._prefixes if watch.watch_id == watch_id), None) if watch_id > 0 else None

    def _tell(self, key: str, state: _Key, *, authoritative: bool = False) -> None:
        if not (state.served | state.waiting) <= self._exact:
            self._cache.put(key, state.value, newer_only=not authoritative)
        state.offer()

    async def _read(self, channel: Channel, stream: Stream) -> None:
        """Takes the stream's messages until it fails."""
        while True:
            answer = read_answer(channel.address, WATCH, await stream.read())
            self._heard_s, self._asked_s, self._heard_ns = self._loop.time(), None, boot_ns()
            self._failures = 0
            self._connection.contact.answered()
            if answer["canceled"]:
                self._canceled(channel, answer)
            else:
                self._take_events(answer)

    def _canceled(self, channel: Channel, answer: MessageValue) -> None:
        key = self._ids.pop(answer["watch_id"], None)
        prefix = self._prefix(answer["watch_id"])
        if key is None and prefix is None and answer["watch_id"] >= 0:
            return
        reason = answer["cancel_reason"] or "no reason given"
        if (key is None and prefix is None) or not answer["compact_revision"]:
            raise RPCError(channel.address, WATCH.method, "ABORTED", f"watch of {key or 'a key'} refused: {reason}")
        if prefix is not None:
            prefix.lose()
        elif key is not None:
            log.info("a watch was overtaken by a compaction, reading the key again", key=key, etcd=channel.address)
            self._keys[key].lose_watch()
            self._wake.set()

    def _take_events(self, answer: MessageValue) -> None:
        if (prefix := self._prefix(answer["watch_id"])) is not None:
            self._take_changes(prefix, answer)
            return
        key = self._ids.get(answer["watch_id"])
        if key is None or not answer["events"]:
            return
        state = self._keys[key]
        for event in answer["events"]:
            found = event["kv"]
            if found is None or found["mod_revision"] <= state.revision:
                continue
            state.value = None if event["type"] == EVENT_DELETE else value_of([found])
            state.revision = found["mod_revision"]
        self._tell(key, state)

    def _take_changes(self, prefix: PrefixWatch, answer: MessageValue) -> None:
        revision = int(answer["header"]["revision"])
        if revision + 1 < prefix.from_revision:
            # A member that is behind, or a cluster restored from a backup: what was read says nothing of this one.
            self._unwanted.append(prefix.watch_id)
            prefix.lose()
            self._wake.set()
            return
        prefix.told = True
        if answer["events"]:
            prefix.changed(max(found["kv"]["mod_revision"] if found["kv"] else revision for found in answer["events"]))
