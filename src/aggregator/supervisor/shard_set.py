"""This instance as a member of one shard set: its election, the flush times in the KV, and the role that follows from both."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from aggregator.config import KVKeys, ServiceConfig, buffer_past_ns
from aggregator.lists import ListId
from aggregator.supervisor.election.candidacy import Candidacy, Decision, Facts
from aggregator.supervisor.election.elector import Elector, ElectorOptions
from aggregator.supervisor.election.holdings import Holdings
from aggregator.supervisor.election.machine import ElectionState, campaign_wanted
from aggregator.supervisor.flushing.commands import Flushing, FlushRole, Send
from aggregator.supervisor.flushing.figures import count_updates
from aggregator.supervisor.flushing.flush_times import incomplete_windows
from aggregator.supervisor.flushing.holding import Holding
from aggregator.supervisor.placement import View, has_replacement
from m3cluster.election import Election
from m3cluster.flush_times import ShardSetFlushTimes, decode_flush_times, encode_flush_times
from m3cluster.following import follow
from m3cluster.kv import ConditionFailedError, KVError, Store, Value, get_uncached
from m3cluster.proto import DecodeError
from m3x.beats import beat
from m3x.clock import boot_ns, wall_ns
from m3x.instrument import Scope
from m3x.log import logger
from m3x.retry import Backoff

__all__ = ["ShardSet"]

log = logger(__name__)

_SAVE_EVERY_S = 0.1
_SETTLE_NS = 2_000_000_000
"""So long a leader that gives way keeps the lead for what it has flushed: the next one would emit that again, perhaps with other values."""
_LOOK_S = 1.0
"""Between two looks whether flush times that have changed may be written."""
_LOOK_AGAIN_S = 5.0
"""Flush times that have not changed are written again as well, after a while (``REPEAT_NS``)."""
_RETRY = Backoff(initial_s=0.1, factor=2.0, max_s=2.0)


class ShardSet:
    """See the module; ``relay`` takes commands for workers, ``lost`` is called when what is to be emitted must not be any more,
    ``began`` when a term has begun, ``crowded`` names the workers whose memory is short. ``holds``: what is held here; no part in the
    election is taken before what an earlier process held is ``restored``."""

    def __init__(
        self,
        number: int,
        *,
        config: ServiceConfig,
        keys: KVKeys,
        store: Store,
        flushing: Flushing,
        instance_id: str,
        view: Callable[[], View],
        relay: Callable[[Iterable[Send]], None],
        lost: Callable[[], None],
        began: Callable[[], None],
        holds: Callable[[], Holding],
        restored: asyncio.Event,
        crowded: Callable[[], Iterable[int]],
        scope: Scope,
    ) -> None:
        self.number = number
        self.times: ShardSetFlushTimes | None = None
        """Flush times in the KV; None: none, or not read yet."""
        self.delivered: ShardSetFlushTimes | None = None
        """Up to where final output is delivered; None: no more than ``times``, or not read yet."""
        self._config = config
        self._key = keys.flush_times(number)
        self._delivered_key = keys.delivered(number)
        self._store = store
        self._flushing = flushing
        self._unsaved = asyncio.Event()
        flushing.on_unsaved = self._unsaved.set
        self._view = view
        self._relay = relay
        self._lost = lost
        self._began = began
        self._holds = holds
        self._restored = restored
        self._crowded = crowded
        self._news_ns = boot_ns()
        """When the flush times in the KV were last seen to change."""
        self._scope = scope
        self._decoded = (b"", ShardSetFlushTimes())
        """The newest value of the KV, or what is written there, and what it says."""
        self._read = False
        """Whether the flush times were read, or there are none."""
        self._elected = asyncio.Event()
        """A term is confirmed and has not begun yet."""
        section = config.aggregator.election_manager
        self._offset_ns = int(section.shard_cutoff_check_offset)
        self.gives_way = False
        """Whether we do not compete for the lead because we lack samples of open windows."""
        self._patience_s = 3 * section.election.ttl_s
        self.candidacy = Candidacy(
            past_ns=buffer_past_ns(config),
            unfed_ns=int(config.aggregator.flush_manager.max_buffer_size),
            patience_ns=self._patience_s * 1_000_000_000,
        )
        self._gives_ns = 0
        """Since when the lead is to be given away (boot clock); 0: it is not."""
        self._again: asyncio.TimerHandle | None = None
        """Looks when the decision changes by time alone."""
        name = section.leader_value or instance_id
        self.elector = Elector(
            Election(store, keys.election(number), section.election.ttl_s),
            ElectorOptions(
                value=name,
                shard_set=number,
                peers=lambda: view().peers(),
                wanted=self._wanted,
                check_interval_s=section.campaign_state_check_interval.seconds,
                resign_timeout_s=section.election.resign_timeout.seconds,
            ),
            scope.sub("election-manager"),
            self._role_changed,
        )
        self._holdings = Holdings(
            store, keys.complete_since(number), name, section.election.ttl_s, self._told, self.elector.look
        )

    @property
    def state(self) -> ElectionState:
        """Follower, pending follower or leader."""
        return self.elector.machine.state

    @property
    def leads(self) -> bool:
        """Whether a term is confirmed."""
        return self.elector.machine.is_leader

    async def has_successor(self) -> bool:
        """Whether another instance of the shard set waits for the lead."""
        return await self.elector.has_successor()

    def has_company(self) -> bool:
        """Whether another instance of the shard set is there, whatever it holds."""
        return bool(self._holdings.since.keys() & self._view().peers())

    def may_write(self) -> bool:
        """Whether leader output may be written right now."""
        return self.elector.may_write()

    def may_flush(self) -> bool:
        """Whether windows may be flushed as leader right now: not while another instance that holds more is about to lead."""
        return self.flush_until() is not None

    def flush_until(self) -> Mapping[ListId, int] | None:
        """Windows that start then or later are not to be flushed as leader yet, by list: another instance will. None: no window is."""
        if not self.may_write():
            return None
        decision = self.candidacy.look(self._facts())
        return decision.until if decision.flushes else None

    def can_lead(self) -> bool:
        """Whether leading now would leave no gaps (docs/m3/aggregation.md, whether a follower can lead)."""
        facts = self._facts()
        return facts.leads or (self._read and bool(facts.eligible) and self.candidacy.holds(facts))

    async def resign(self) -> None:
        """Gives the lead to another instance of the shard set. Raises ``TimeoutError``."""
        await self.elector.resign(self._config.aggregator.resign_timeout.seconds)

    async def run(self) -> None:
        """Takes part until cancelled; then the lease is gone."""
        self._news_ns = boot_ns()
        self._relay(self._flushing.follow())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(
                    follow(
                        self._store,
                        self._key,
                        self._times_of,
                        self._times_changed,
                        self._times_unusable,
                        self._watch_failed,
                    ),
                    name="flush times",
                )
                tasks.create_task(
                    follow(
                        self._store, self._delivered_key, self._times_of, self._delivered_changed, self._times_unusable
                    ),
                    name="delivered",
                )
                tasks.create_task(self._holdings.run(), name="complete since")
                tasks.create_task(self._take_part(), name="election")
                tasks.create_task(self._term_loop(), name="terms")
                tasks.create_task(self._save_loop(), name="save")
                tasks.create_task(self._give_up_loop(), name="give up")
        finally:
            if self._again is not None:
                self._again.cancel()
            self._flushing.rest()
            self._lost()

    async def _take_part(self) -> None:
        """Campaigns, but not before flush times and holdings are known: they tell whether windows lack samples here, and not elsewhere.

        Nor before it is known what the journals have kept: meanwhile the others are told what is hoped for.
        """
        self.delivered = await self._read_times_at_last(self._delivered_key)
        self.times, self._read = await self._read_times_at_last(self._key), True
        try:
            async with asyncio.timeout(self._patience_s):
                await self._holdings.known.wait()
        except TimeoutError:
            log.warning("it cannot be told who holds which windows; taking part in the election without it")
        await self._restored.wait()
        await self.elector.run()

    def look(self) -> None:
        """What is held here has changed."""
        self._holdings.look()
        self.elector.look()

    def _told(self) -> Holding | None:
        """What we tell the others: nothing, if the placement does not want us to lead."""
        return None if self._eligible() is False else self._holds()

    def _eligible(self) -> bool | None:
        """``campaign_wanted`` now."""
        return campaign_wanted(self._view(), wall_ns(), self._offset_ns, self.times)

    def _facts(self) -> Facts:
        """Now, for the candidacy."""
        return Facts(
            steady_ns=boot_ns(),
            wall_ns=wall_ns(),
            eligible=self._eligible(),
            leads=self.leads,
            times=self.times,
            holding=self._holds(),
            since=self._holdings.since,
            settled=self._holdings.settled(),
            returned_ns=self._holdings.returned_ns,
            candidates=self.elector.others,
            peers=frozenset(self._view().peers()) - {self.elector.value},
            delivered=self.delivered,
        )

    def _wanted(self) -> bool | None:
        """M3's rule; and an instance that lacks samples of open windows does not compete with one that holds more, or may."""
        facts = self._facts()
        decision = self.candidacy.look(facts)
        self.gives_way = decision.gives_way
        self._count_check(facts.eligible)
        if decision.gives_way or not decision.wanted:
            self._scope.sub("flush-manager.follower").count("not-campaigning")
        if decision.gives_way:
            log.info_limited("not campaigning: open windows lack samples here", per_second=0.1)
        if self._again is not None:
            self._again.cancel()
        settles = self._settles(facts, decision)
        wait_s = None if decision.again_ns is None else (decision.again_ns - facts.steady_ns) / 1e9
        if settles:
            wait_s = _SAVE_EVERY_S
        self._again = None if wait_s is None else asyncio.get_running_loop().call_later(wait_s, self.elector.look)
        return None if settles else decision.wanted

    def _count_check(self, eligible: bool | None) -> None:
        """What the placement says of our part in the election."""
        view, scope = self._view(), self._scope.sub("election-manager.campaign-check")
        if eligible:
            scope.count("has-active-shards")
        elif eligible is None:
            scope.count("unexpected-shard-times")
        elif view.instance is None:
            scope.count("repl-instance-errors")
        else:
            scope.count("has-repl-instance" if has_replacement(view) else "no-cutover-shards")

    def _settles(self, facts: Facts, decision: Decision) -> bool:
        """Whether the lead that is to be given away is kept for a moment, until what was flushed has arrived; nothing is flushed then."""
        if not (facts.leads and decision.gives_way):
            self._gives_ns = 0
            return False
        self._gives_ns = self._gives_ns or facts.steady_ns
        return facts.steady_ns - self._gives_ns < _SETTLE_NS and not self._flushing.settled

    @property
    def holding(self) -> Holding:
        """What this instance holds of the shard set."""
        return self._holds()

    # --- role

    def _role_changed(self) -> None:
        if self.state is ElectionState.LEADER:
            self._elected.set()
            return
        self._lost()
        if self.state is ElectionState.FOLLOWER:
            self._relay(self._flushing.follow())
        else:
            self._flushing.rest()

    async def _term_loop(self) -> None:
        while True:
            await self._elected.wait()
            self._elected.clear()
            await self._begin_term()

    async def _begin_term(self) -> None:
        """Reads the flush times that this term starts from; nothing is emitted before."""
        revision = self.elector.election.revision
        times = await self._read_times_at_last(self._key)
        delivered = await self._read_times_at_last(self._delivered_key)
        if self.elector.machine.is_leader and self.elector.election.revision == revision:
            self.times = times
            self._relay(self._flushing.lead(times, wall_ns(), delivered))
            self._began()
            log.info("leading", shard_set=self.number, flush_times_of_shards=len(times.by_shard))
            if (incomplete := incomplete_windows(times, self._holds(), wall_ns())) > 0:
                self._scope.sub("flush-manager.leader").count("incomplete-windows", incomplete)
                log.warning(
                    "windows that lack samples here are emitted as they are: nobody who holds more leads",
                    windows=incomplete,
                )

    async def _read_times_at_last(self, key: str) -> ShardSetFlushTimes:
        attempt = 0
        while True:
            try:
                return await self._read_times(key)
            except KVError as error:
                attempt += 1
                log.warning_limited("flush times cannot be read, trying again", key=key, error=str(error))
                await asyncio.sleep(_RETRY.delay(attempt))

    async def _read_times(self, key: str) -> ShardSetFlushTimes:
        found = await get_uncached(self._store, key)
        if found is None:
            return ShardSetFlushTimes()
        try:
            return self._times_of(found)
        except DecodeError as error:
            log.error("the flush times in the KV cannot be decoded; starting afresh", key=key, error=str(error))
            return ShardSetFlushTimes()

    # --- flush times

    async def _give_up_loop(self) -> None:
        """No news from a leader for long, and memory is short: the oldest windows go (M3's forced flush, which looks at the time alone)."""
        manager = self._config.aggregator.flush_manager
        scope = self._scope.sub("flush-manager.follower")
        while True:
            await asyncio.sleep(max(manager.forced_flush_window_size.seconds, 0.1))
            if self.state is not ElectionState.FOLLOWER or boot_ns() - self._news_ns < int(manager.max_buffer_size):
                continue
            sends = self._flushing.give_up(wall_ns() - int(manager.max_buffer_size), self._crowded())
            if sends:
                scope.count("forced-flush")
                log.error_limited("no leader has flushed for long and memory is short: old windows are thrown away")
                self._relay(sends)

    def _times_changed(self, times: ShardSetFlushTimes | None) -> None:
        self._news_ns = boot_ns()
        before, self.times = self.times, times
        if times is None:
            return
        sends = self._flushing.kv_changed(times)
        if self.state is ElectionState.FOLLOWER:
            follower = self._scope.sub("flush-manager.follower")
            count_updates(follower, times, before, self._view().owned, self._flushing.schedule.lists())
            follower.count("kv-update-flush", bool(sends))
        self._relay(sends)

    def _watch_failed(self) -> None:
        self._scope.sub("flush-manager.follower").count("watch-create-errors")

    def _delivered_changed(self, times: ShardSetFlushTimes | None) -> None:
        self.delivered = times

    def _times_unusable(self, value: Value, error: ValueError) -> None:
        self._news_ns = boot_ns()
        self._scope.sub("flush-times-manager").count("flush-times-unmarshal-errors")
        log.error("flush times in the KV cannot be decoded; left out", key=self._key, error=str(error))

    async def _save_loop(self) -> None:
        attempt = 0
        while True:
            due = self._flushing.save_due(wall_ns())
            if await beat(self._unsaved, _LOOK_S if due else _LOOK_AGAIN_S) or attempt:
                await asyncio.sleep(_SAVE_EVERY_S if not attempt else _RETRY.delay(attempt))
            self._unsaved.clear()
            if self.may_write() and self._flushing.save_due(wall_ns()):
                attempt = 0 if await self._save() else attempt + 1

    async def _save(self) -> bool:
        election, scope = self.elector.election, self._scope.sub("flush-times-manager.flush-times-persist")
        scope = scope.tagged(persist_type="sync")
        key, revision = election.key, election.revision
        view, begun_ns = self._view(), boot_ns()
        try:
            # A Go leader that was stopped may have written since without a condition: its times are never gone behind.
            written = await self._read_times(self._key)
            if not self.may_write() or election.revision != revision:
                # The term ended meanwhile, and with it the times to write; our key may still be there.
                return True
            self._flushing.kv_changed(written)
            self._flushing.forget_unused(wall_ns())
            message = self._flushing.message(view.owned, view.redirects)
            if (delivered := self._flushing.delivered(view.owned)) is not None:
                await self._store.put_if(self._delivered_key, encode_flush_times(delivered), key, revision)
            data = encode_flush_times(message)
            self._decoded = data, message
            await self._store.put_if(self._key, data, key, revision)
        except ConditionFailedError:
            scope.count("errors")
            scope.record("error-latency", (boot_ns() - begun_ns) / 1e9)
            log.error("flush times were not written: the election key is not ours any more", key=key)
            if election.revision == revision:
                self.elector.lease_lost()
            return True
        except KVError as error:
            scope.count("errors")
            scope.record("error-latency", (boot_ns() - begun_ns) / 1e9)
            log.warning_limited("flush times could not be written, trying again", key=self._key, error=str(error))
            self._flushing.not_saved()
            return False
        scope.count("success")
        scope.record("success-latency", (boot_ns() - begun_ns) / 1e9)
        self._scope.sub("flush-manager.leader").count("update-flush-times")
        if self._flushing.role is FlushRole.LEADER and election.revision == revision:
            self._relay(self._flushing.saved(message, wall_ns()))
        return True

    def _times_of(self, value: Value) -> ShardSetFlushTimes:
        """The flush times of a value. One is met several times: a leader writes it, hears of it, and reads it before it writes the next.

        Raises ``DecodeError``.
        """
        data, times = self._decoded
        if data != value.data:
            data, times = self._decoded = value.data, decode_flush_times(value.data)
        return times
