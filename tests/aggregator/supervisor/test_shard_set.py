"""Members of one shard set on one KV: who leads, what is written down, and what happens when the lead is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from lab.waiting import until
from msgspec.structs import replace

from aggregator.config import kv_keys, load_config
from aggregator.ipc import Commit, Flush, Flushed, NewList, OwnedShard
from aggregator.lists import KIND_STANDARD, ListId
from aggregator.supervisor import shard_set as module
from aggregator.supervisor.election.candidacy import Decision, Facts
from aggregator.supervisor.election.machine import ElectionState
from aggregator.supervisor.flushing.commands import Flushing, FlushRole, Send
from aggregator.supervisor.flushing.holding import Holding
from aggregator.supervisor.flushing.timing import schedule_options
from aggregator.supervisor.placement import view
from aggregator.supervisor.shard_set import ShardSet
from m3cluster.election import Election
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes, decode_flush_times, encode_flush_times
from m3cluster.kv import KeyNotFoundError, KVError, Lease, Memory, MemoryServer, Store, Value, Watch, open_store
from m3cluster.placement.model import NEVER_NS, Instance, Placement, Shard, ShardState
from m3x.clock import wall_ns
from m3x.config import Duration
from m3x.instrument import Registry

S = 1_000_000_000
HOUR = 3600 * S
ROOT = Path(__file__).resolve().parents[3]
SHARDS = tuple(Shard(i, ShardState.AVAILABLE) for i in range(2))
PLACEMENT = Placement(tuple(Instance(id=i, shards=SHARDS, shard_set_id=1) for i in ("a", "b")), num_shards=2)
HELD = "_kv/namespace/m3db-cluster-name/shardset/1/complete-since/flush"
KEY = "_kv/namespace/m3db-cluster-name/shardset/1/flush"


@pytest.fixture
async def server() -> AsyncIterator[MemoryServer]:
    made = MemoryServer()
    yield made
    made.close()


class Member:
    """A shard set member with one worker that only remembers its commands."""

    def __init__(self, name: str, store: Store) -> None:
        text = ROOT / "configs/local/m3aggregator.yml"
        config = load_config([text], {}).value
        manager = replace(
            config.aggregator.flush_manager, max_buffer_size=Duration(S), forced_flush_window_size=Duration(S // 10)
        )
        config = replace(config, aggregator=replace(config.aggregator, flush_manager=manager))
        self.sent: list[Send] = []
        self.losses = 0
        self.registry = Registry()
        self.opened_ns = wall_ns()
        self.restored = asyncio.Event()
        self.restored.set()
        self.crowded: list[int] = []
        self.store = store
        self.flushing = Flushing(schedule_options(config), 1)
        self.flushing.worker_up(0, 1, [OwnedShard(s, 0, NEVER_NS) for s in (0, 1)])
        self.view = view(PLACEMENT, name)
        self.member = ShardSet(
            1,
            config=config,
            keys=kv_keys(config),
            store=store,
            flushing=self.flushing,
            instance_id=name,
            view=lambda: self.view,
            relay=self.relay,
            lost=self.lost,
            holds=lambda: Holding(self.opened_ns),
            restored=self.restored,
            began=lambda: None,
            crowded=lambda: self.crowded,
            scope=self.registry.scope(),
        )
        self.facts: list[Facts] = []
        """What the decisions so far were made of."""
        self._decide = self.member.candidacy.look
        self.member.candidacy.look = self._look

    def _look(self, facts: Facts) -> Decision:
        self.facts.append(facts)
        return self._decide(facts)

    def relay(self, sends: Iterable[Send]) -> None:
        self.sent += sends

    def lost(self) -> None:
        self.losses += 1

    @property
    def leads(self) -> bool:
        return self.flushing.role is FlushRole.LEADER

    def new_list(self) -> None:
        now_ns = wall_ns()
        self.relay(self.flushing.new_lists(0, [NewList(0, ListId(KIND_STANDARD, S), now_ns)], now_ns))

    def flush_once(self) -> int:
        """Flushes the list with one message that is done at once; the target."""
        sends = [s.command for s in self.flushing.tick(wall_ns()) if isinstance(s.command, Flush)]
        for command in sends:
            self.flushing.last(0, command.id, wall_ns())
        return sends[-1].bounds[0].target_ns


async def decided(member: Member, condition: Callable[[Facts], object] = lambda facts: True) -> None:
    """Until a member has decided several times more upon facts that are so: whatever it was going to do, it has begun."""
    member.facts.clear()

    def often() -> bool:
        member.member.look()
        return sum(bool(condition(facts)) for facts in list(member.facts)) >= 5

    await until(often)


@asynccontextmanager
async def running(server: MemoryServer, name: str) -> AsyncIterator[Member]:
    store = await open_store(Memory(server))
    member = Member(name, store)
    task = asyncio.create_task(member.member.run())
    try:
        yield member
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()
        await store.close()


async def stored(member: Member) -> ShardSetFlushTimes:
    try:
        return decode_flush_times((await member.store.get(KEY)).data)
    except KeyNotFoundError:
        return ShardSetFlushTimes()


async def until_held(by: Member, name: str, since_ns: int) -> None:
    """Until the KV says since when ``name`` holds all samples."""

    async def held() -> bool:
        try:
            return int((await by.store.get(f"{HELD}/{name}")).data) == since_ns
        except KeyNotFoundError:
            return False

    await until(held)


async def test_one_leads_the_other_follows_and_takes_over(server: MemoryServer) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        async with running(server, "b") as b:
            await until(lambda: b.member.elector.leader == "a")
            assert b.flushing.role is FlushRole.FOLLOWER
            assert not b.member.may_write()
            assert a.member.may_write()
            a.new_list()
            b.new_list()
            target = a.flush_once()
            await until(lambda: any(isinstance(s.command, Flush) for s in b.sent))
            discard = next(s.command for s in b.sent if isinstance(s.command, Flush))
            assert (discard.emit, discard.bounds[0].target_ns, discard.bounds[0].shards) == (False, target, [0])
            await until(lambda: any(isinstance(s.command, Commit) and s.command.through_ns == target for s in a.sent))
            await a.member.resign()
            assert a.member.state is ElectionState.FOLLOWER
            await until(lambda: b.leads)
            assert b.flushing.times.emitted(next(iter(b.flushing.schedule.lists())), 0) == target
        await until(lambda: a.leads)


async def test_it_cannot_be_told_who_could_lead_before_the_flush_times_are_read(server: MemoryServer) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        store = await open_store(Memory(server))
        assert not Member("b", store).member.can_lead(), "it has not begun to take part"
        await store.close()
        async with running(server, "b") as b:
            await until(b.member.can_lead)
            assert b.member.times is not None


async def test_a_cold_instance_does_not_compete_with_a_candidate(server: MemoryServer) -> None:
    times = {0: ShardFlushTimes({S: wall_ns() - HOUR, HOUR: wall_ns() - 2 * HOUR})}
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        a.opened_ns = wall_ns() - 3 * HOUR
        await a.store.set(KEY, encode_flush_times(ShardSetFlushTimes(times)))
        a.member.look()
        await until_held(a, "a", a.opened_ns)
        async with running(server, "b") as b:
            await until(lambda: b.member.times is not None and b.member.elector.others)
            await until(lambda: b.member.elector.leader == "a")
            assert not b.member.can_lead()
            assert await a.member.elector.election.candidates() == ["a"]
            # Its windows are complete as soon as those of before its start are flushed; the list of an hour is not waited for.
            b.opened_ns = wall_ns() - 2 * HOUR
            await a.store.set(KEY, encode_flush_times(ShardSetFlushTimes(times)))

            async def both_are_candidates() -> bool:
                return await a.member.elector.election.candidates() == ["a", "b"]

            await until(both_are_candidates)
    async with running(server, "b") as b:
        # Nobody else is there: it leads, cold as it is.
        await until(lambda: b.leads)


async def cold_pair(a: Member, b: Member, *, lead_s: int) -> None:
    """Neither holds everything, ``b`` since ``lead_s`` earlier than ``a``."""
    await a.store.set(KEY, encode_flush_times(ShardSetFlushTimes({0: ShardFlushTimes({S: wall_ns() - HOUR})})))
    a.opened_ns = wall_ns() - 60 * S
    b.opened_ns = a.opened_ns - lead_s * S
    for one in (a, b):
        one.member.look()
    await until_held(a, "a", a.opened_ns)
    await until_held(a, "b", b.opened_ns)


async def test_of_two_cold_ones_the_one_that_holds_more_takes_the_lead(server: MemoryServer) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        async with running(server, "b") as b:
            await until(lambda: b.member.times is not None and b.member.elector.others)
            await cold_pair(a, b, lead_s=10)
            await until(lambda: b.leads)
            assert b.member.may_flush()
            # The other one stays behind, and leads when this one has gone.
            await decided(a, lambda facts: not facts.leads)
            assert await b.member.elector.election.candidates() == ["b"]
        await until(lambda: a.leads and a.member.may_flush())


@pytest.mark.parametrize("arrives", [True, False])
async def test_the_lead_is_not_given_away_before_what_was_flushed_has_arrived(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    monkeypatch.setattr(module, "_SETTLE_NS", HOUR if arrives else S // 5)
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        async with running(server, "b") as b:
            await until(lambda: b.member.times is not None and b.member.elector.others)
            a.new_list()
            begun = wall_ns()
            await until(lambda: wall_ns() > begun + S)
            sends = [s.command for s in a.flushing.tick(wall_ns()) if isinstance(s.command, Flush)]
            for command in sends:
                part = a.flushing.part(0, Flushed(command.id, False, 1, False, []))
                a.flushing.last(0, command.id, wall_ns())
            target = sends[-1].bounds[0].target_ns
            b.opened_ns = a.opened_ns - HOUR
            a.opened_ns = wall_ns() + S
            for one in (a, b):
                one.member.look()
            await until_held(a, "b", b.opened_ns)
            if arrives:
                await decided(a, lambda facts: facts.leads and facts.candidates and "b" in facts.since)
                assert a.leads
                assert not a.member.may_flush()
                a.flushing.done(sends[-1].id, part)
            await until(lambda: b.leads)
            assert b.flushing.times.time(ListId(KIND_STANDARD, S), 0) == (target if arrives else 0)


async def test_of_two_that_hold_the_same_both_are_candidates(server: MemoryServer) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        async with running(server, "b") as b:
            await until(lambda: b.member.times is not None and b.member.elector.others)
            await cold_pair(a, b, lead_s=0)
            await until(lambda: b.member.elector.election.revision)
            await decided(a, lambda facts: facts.candidates)
            assert a.leads
            assert a.member.may_flush()
            assert await a.member.elector.election.candidates() == ["a", "b"]


async def test_a_leader_waits_with_flushing_for_one_that_holds_more_but_not_for_ever(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        await a.store.set(KEY, encode_flush_times(ShardSetFlushTimes({0: ShardFlushTimes({S: wall_ns() - HOUR})})))
        await until(lambda: a.member.times is not None and a.member.times.by_shard)
        # It says that it holds everything, and never becomes a candidate.
        monkeypatch.setattr(a.member.candidacy, "patience_ns", HOUR)
        await a.store.set(f"{HELD}/b", b"%d" % (wall_ns() - 2 * HOUR))
        a.opened_ns = wall_ns()
        a.member.look()
        await until(lambda: not a.member.may_flush())
        await decided(a)
        assert a.leads
        assert not a.member.may_flush()
        # The hour is over.
        monkeypatch.setattr(a.member.candidacy, "patience_ns", S // 1000)
        a.member.look()
        await until(a.member.may_flush)
        assert a.leads


@asynccontextmanager
async def warm_pair(server: MemoryServer) -> AsyncIterator[tuple[Member, Member]]:
    """``a`` leads, ``b`` waits for the lead; windows of an hour ago are flushed, those of before that both hold."""
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        a.opened_ns = wall_ns() - 3 * HOUR
        await a.store.set(KEY, encode_flush_times(ShardSetFlushTimes({0: ShardFlushTimes({S: wall_ns() - HOUR})})))
        async with running(server, "b") as b:
            b.opened_ns = wall_ns() - 3 * HOUR
            await until(lambda: b.member.elector.election.revision)
            await until(lambda: a.member.elector.others and b.member.elector.others)
            yield a, b


async def test_a_candidate_that_has_come_to_lack_samples_withdraws(server: MemoryServer) -> None:
    async with warm_pair(server) as (a, b):
        assert await a.member.has_successor()
        b.opened_ns = wall_ns()
        b.member.elector.look()
        await until(lambda: not b.member.elector.election.revision)
        assert not await a.member.has_successor()
        assert a.leads
        # The windows that it lacks are flushed: it is back.
        a.new_list()
        await asyncio.sleep((S - wall_ns() % S) / S)
        a.flush_once()
        await until(lambda: b.member.elector.election.revision)


async def test_a_leader_that_has_come_to_lack_samples_gives_the_lead_away(server: MemoryServer) -> None:
    async with warm_pair(server) as (a, b):
        a.opened_ns = wall_ns()
        a.member.elector.look()
        await until(lambda: b.leads)
        await until(lambda: a.member.state is ElectionState.FOLLOWER)
        assert not await b.member.has_successor()


async def test_a_key_that_could_not_be_deleted_holds_nobody_up(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with warm_pair(server) as (a, b):
        key, delete_if, tries = a.member.elector.election.key, a.store.delete_if, 0

        async def lost_at_first(name: str, revision: int) -> bool:
            nonlocal tries
            tries += name == key
            if name == key and tries < 3:
                raise KVError("the request was lost")
            return await delete_if(name, revision)

        monkeypatch.setattr(a.store, "delete_if", lost_at_first)
        a.opened_ns = wall_ns()
        a.member.look()
        await until(lambda: b.leads)
        assert tries >= 3


async def test_a_leader_that_lacks_samples_gives_the_lead_to_m3_s_instance(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.supervisor.election.holdings._SETTLE_NS", S // 10)
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        a.opened_ns = wall_ns() - 3 * HOUR
        await a.store.set(KEY, encode_flush_times(ShardSetFlushTimes({0: ShardFlushTimes({S: wall_ns() - HOUR})})))
        election = Election(a.store, a.member.elector.election.key.rpartition("/")[0], 10)
        campaign = asyncio.create_task(election.campaign("b"))
        await until(lambda: a.member.elector.others)
        # It does not say what it holds. That is no reason as long as we hold everything.
        await decided(a, lambda facts: facts.settled and facts.candidates)
        assert a.leads
        a.opened_ns = wall_ns()
        a.member.look()
        async with asyncio.timeout(10):
            await campaign
        assert not a.leads
        await election.close()


async def test_who_may_not_say_what_it_holds_takes_part_all_the_same(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.supervisor.election.holdings._SETTLE_NS", S // 10)
    store = await open_store(Memory(server))
    put = store.put_with_lease

    async def forbidden(key: str, data: bytes, lease: Lease) -> Value:
        if key.startswith(HELD):
            raise KVError("permission denied")
        return await put(key, data, lease)

    monkeypatch.setattr(store, "put_with_lease", forbidden)
    member = Member("a", store)
    task = asyncio.create_task(member.member.run())
    await until(lambda: member.leads)
    assert member.member.may_flush()
    task.cancel()
    await asyncio.wait([task])
    await store.close()


async def test_a_leader_without_a_successor_goes_on_whatever_it_lacks(server: MemoryServer) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        await a.store.set(KEY, encode_flush_times(ShardSetFlushTimes({0: ShardFlushTimes({S: wall_ns() - HOUR})})))
        await until(lambda: a.member.times is not None and a.member.times.by_shard)
        revision = a.member.elector.election.revision
        a.opened_ns = wall_ns()
        for _ in range(3):
            a.member.elector.look()
            await asyncio.sleep(0.05)
        assert a.leads
        assert a.member.elector.election.revision == revision


async def test_a_follower_without_a_leader_gives_up_old_windows_only_when_memory_is_short(server: MemoryServer) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        async with running(server, "b") as b:
            await until(lambda: b.member.elector.leader == "a")
            b.new_list()
            begun = wall_ns()
            # "a" has no list: it writes no flush times. Longer than maxBufferSize of this test, one second.
            await until(lambda: wall_ns() > begun + 3 * S // 2)
            assert not any(isinstance(s.command, Flush | Commit) for s in b.sent)
            b.crowded = [0]
            await until(lambda: any(isinstance(s.command, Commit) for s in b.sent))
            discard = next(s.command for s in b.sent if isinstance(s.command, Flush))
            assert not discard.emit
            assert b.registry.counter("flush_manager_follower_forced_flush") >= 1
            assert begun - S < discard.bounds[0].target_ns <= wall_ns() - S


async def test_flush_times_are_written_only_while_we_hold_the_key(server: MemoryServer) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        a.new_list()
        first = a.flush_once()
        await until(lambda: any(isinstance(s.command, Commit) for s in a.sent))
        assert (await stored(a)).by_shard == {0: ShardFlushTimes({S: first}, {}, {}, False)}
        # Somebody takes our key away: nothing of this term is written any more.
        await a.store.delete(a.member.elector.election.key)
        await until(lambda: a.member.state is not ElectionState.LEADER)
        assert a.losses == 1
        assert not a.member.may_write()
        # The next term goes on from there.
        await until(lambda: a.leads)
        assert a.flushing.times.time(next(iter(a.flushing.schedule.lists())), 0) == first


async def test_a_write_that_finds_the_key_gone_ends_the_term(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        before, put_if = a.member.elector.election.revision, a.store.put_if

        async def just_gone(key: str, data: bytes, other_key: str, create_revision: int) -> int:
            """The key is deleted so late that the write comes before the news of it."""
            monkeypatch.undo()
            await a.store.delete(other_key)
            return await put_if(key, data, other_key, create_revision)

        monkeypatch.setattr(a.store, "put_if", just_gone)
        a.new_list()
        a.flush_once()
        await until(lambda: a.member.elector.election.revision > before and a.leads)
        assert a.registry.counter("flush_times_manager_flush_times_persist_errors", persist_type="sync") == 1
        page = a.registry.render().decode()
        assert 'flush_times_manager_flush_times_persist_error_latency_bucket{le="+Inf",persist_type="sync"} 1.0' in page


async def test_a_watch_of_flush_times_that_the_store_ends_is_counted(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(Memory(server))
    watch, failures = store.watch, 0

    def lost(key: str) -> Watch:
        nonlocal failures
        if key == KEY and not failures:
            failures += 1
            raise KVError("told to fail")
        return watch(key)

    monkeypatch.setattr(store, "watch", lost)
    member = Member("a", store)
    task = asyncio.create_task(member.member.run())
    await until(lambda: member.leads)
    assert member.registry.counter("flush_manager_follower_watch_create_errors") == 1
    task.cancel()
    await asyncio.wait([task])
    await store.close()


async def test_a_term_that_ends_while_flush_times_are_read_writes_none(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        a.new_list()
        target = a.flush_once()
        await until(lambda: any(isinstance(s.command, Commit) and s.command.through_ns == target for s in a.sent))
        kept = await a.store.get(KEY)
        read, key = a.store.keys, a.member.elector.election.key

        async def no_resignation() -> None:
            """The KV does not take the deletion of our key."""

        async def ended_meanwhile(prefix: str) -> list[tuple[str, Value]]:
            found = await read(prefix)
            if prefix == KEY:
                a.member.elector.lease_lost()
            return found

        with monkeypatch.context() as patched:
            patched.setattr(a.member.elector.election, "resign", no_resignation)
            patched.setattr(a.store, "keys", ended_meanwhile)
            a.flushing.not_saved()
            await until(lambda: not a.leads)
        assert (await a.store.get(key)).data == b"a"
        assert await a.store.get(KEY) == kept


async def test_times_of_another_writer_are_never_gone_behind(server: MemoryServer) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        a.new_list()
        ahead = wall_ns() + 3600 * S
        await a.store.set(KEY, encode_flush_times(ShardSetFlushTimes({0: ShardFlushTimes({S: ahead})})))
        await until(lambda: a.flushing.times.time(next(iter(a.flushing.schedule.lists())), 0) == ahead)
        a.flush_once()
        assert (await stored(a)).by_shard[0].standard[S] == ahead


async def test_garbage_in_the_kv_is_left_out(server: MemoryServer) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        await a.store.set(KEY, b"\xff\xff\xff")
        a.new_list()
        target = a.flush_once()

        await until(lambda: any(isinstance(s.command, Commit) and s.command.through_ns == target for s in a.sent))
        assert (await stored(a)).by_shard[0].standard[S] == target
        assert a.leads


async def test_resigning_alone_times_out_and_leads_again(server: MemoryServer) -> None:
    async with running(server, "a") as a:
        await until(lambda: a.leads)
        with pytest.raises(TimeoutError):
            await a.member.elector.resign(0.3)
        await until(lambda: a.leads)


async def test_an_instance_that_is_not_in_the_placement_does_not_campaign(server: MemoryServer) -> None:
    async with running(server, "stranger") as one:
        await asyncio.sleep(0)
        await until(lambda: one.flushing.role is FlushRole.FOLLOWER)
        assert await one.member.elector.election.candidates() == []
        assert not one.member.can_lead()
