"""What instances hold, as they tell each other through the KV."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from lab.waiting import until

from aggregator.supervisor.election.holdings import Holdings
from aggregator.supervisor.flushing.holding import Gap, Holding
from m3cluster.kv import KeyNotFoundError, KVError, Memory, MemoryServer, Store, open_store
from m3x.clock import boot_ns

PREFIX = "_kv/env/shardset/1/complete-since"


@pytest.fixture
async def server() -> AsyncIterator[MemoryServer]:
    made = MemoryServer()
    yield made
    made.close()


class One:
    """An instance that holds all samples since ``since_ns``."""

    def __init__(self, store: Store, name: str, since_ns: int | None) -> None:
        self.since_ns = since_ns
        self.gaps: tuple[Gap, ...] = ()
        self.news = 0
        self.store = store
        self.holdings = Holdings(store, PREFIX, name, 10, self.holding, self.changed)

    def holding(self) -> Holding | None:
        return None if self.since_ns is None else Holding(self.since_ns, self.gaps)

    def changed(self) -> None:
        self.news += 1


@asynccontextmanager
async def running(server: MemoryServer, name: str, since_ns: int | None) -> AsyncIterator[One]:
    store = await open_store(Memory(server))
    one = One(store, name, since_ns)
    task = asyncio.create_task(one.holdings.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.wait([task])
        await store.close()


async def test_each_knows_what_the_others_hold(server: MemoryServer) -> None:
    async with running(server, "a:6000", 5) as a:
        async with running(server, "b", 7) as b:
            await until(lambda: a.holdings.since == {"b": Holding(7)} and b.holdings.since == {"a:6000": Holding(5)})
            b.since_ns = 9
            b.holdings.look()
            await until(lambda: a.holdings.since == {"b": Holding(9)})
            b.gaps = (Gap(11, 13), Gap(15, 17, lost=True))
            b.holdings.look()
            await until(lambda: a.holdings.since == {"b": Holding(9, b.gaps)})
            # It takes no part any more.
            b.since_ns = None
            b.holdings.look()
            await until(lambda: a.holdings.since == {})
            b.since_ns, b.gaps = 9, ()
            await until(lambda: a.holdings.since == {"b": Holding(9)})
            assert a.news >= 4
        await until(lambda: a.holdings.since == {})


async def test_the_key_of_an_earlier_process_of_ours_is_replaced(server: MemoryServer) -> None:
    store = await open_store(Memory(server))
    lease = await store.grant(10)
    await store.put_with_lease(f"{PREFIX}/a", b"1", lease)
    async with running(server, "a", 5) as a, running(server, "b", 7) as b:
        await until(lambda: b.holdings.since == {"a": Holding(5)})
        # Its end takes nothing of ours away.
        await lease.revoke()
        await until(a.holdings.known.is_set)
        assert (await store.get(f"{PREFIX}/a")).data == b"5"
    await store.close()


async def test_a_key_that_was_taken_away_is_written_again(server: MemoryServer) -> None:
    async with running(server, "a", 5) as a:
        await until(a.holdings.known.is_set)
        await a.store.delete(f"{PREFIX}/a")
        async with asyncio.timeout(10):
            while True:
                try:
                    assert (await a.store.get(f"{PREFIX}/a")).data == b"5"
                    return
                except KeyNotFoundError:
                    await asyncio.sleep(0.02)


async def test_what_says_nothing_of_windows_is_left_out(server: MemoryServer) -> None:
    async with running(server, "a", 5) as a:
        await a.store.set(f"{PREFIX}/broken", b"\xff yesterday")
        await a.store.set(f"{PREFIX}/b", b"3")
        await until(lambda: a.holdings.since == {"b": Holding(3)})


async def test_after_an_outage_others_are_given_time_to_say_again_that_they_are_there(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.supervisor.election.holdings._SETTLE_NS", 700_000_000)
    async with running(server, "a", 5) as a:
        # A new process knows no more than one that comes back.
        assert not a.holdings.settled()
        await until(a.holdings.settled)

        async def broken(_prefix: str) -> list[object]:
            raise KVError("no answer")

        with monkeypatch.context() as patch:
            patch.setattr(a.store, "keys", broken)
            a.holdings.look()
            await until(lambda: not a.holdings.settled())
        await until(a.holdings.settled)


async def test_a_keepalive_without_an_answer_is_an_outage(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has to be read for that: others may have lost their leases, whatever is known of them."""
    monkeypatch.setattr("aggregator.supervisor.election.holdings._SETTLE_NS", 700_000_000)
    async with running(server, "a", 5) as a:
        await until(a.holdings.settled)
        lease = a.holdings._lease
        assert lease is not None
        assert lease.failed_ns() == 0
        monkeypatch.setattr(lease, "_failed_ns", boot_ns())
        a.holdings.look()
        await until(lambda: not a.holdings.settled())
        await until(a.holdings.settled)


async def test_whose_lease_had_ended_has_come_anew(server: MemoryServer) -> None:
    async with running(server, "a", 5) as a, running(server, "b", 7) as b:
        await until(lambda: b.holdings.since == {"a": Holding(5)})
        first_ns = a.holdings.returned_ns
        assert 0 < first_ns <= boot_ns()
        # A new value is told under the same lease.
        a.since_ns = 6
        a.holdings.look()
        await until(lambda: b.holdings.since == {"a": Holding(6)})
        assert a.holdings.returned_ns == first_ns
        lease = a.holdings._lease
        assert lease is not None
        await lease.revoke()
        a.holdings.look()
        await until(lambda: a.holdings.returned_ns > first_ns)
        await until(lambda: b.holdings.since == {"a": Holding(6)})
