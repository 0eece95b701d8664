"""What an election that goes wrong is counted as, by M3's names (docs/metrics.md)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from lab.waiting import until

from aggregator.supervisor.election.elector import Elector, ElectorOptions
from aggregator.supervisor.election.machine import ElectionState
from m3cluster.kv import KVError
from m3x.instrument import Registry

PREFIX = "election-manager"


class FakeElection:
    """An election in which everything can fail."""

    key, revision = "key", 1

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.leaders = ["me"]
        self.elected = asyncio.Event()
        self.over = asyncio.Event()

    def deadline_ns(self) -> int:
        return 2**62

    def _try(self, what: str) -> None:
        if what in self.failing:
            raise KVError(f"{what} was told to fail")

    async def campaign(self, _value: str) -> None:
        self._try("campaign")
        await self.elected.wait()

    async def lost(self) -> None:
        await self.over.wait()
        self._try("lost")

    async def resign(self) -> None:
        self._try("resign")

    async def clear(self) -> None:
        self._try("clear")

    async def close(self) -> None:
        self._try("close")

    async def known_candidates(self) -> list[str]:
        self._try("candidates")
        return self.leaders


class Rig:
    def __init__(self) -> None:
        self.election, self.registry, self.wanted = FakeElection(), Registry(), True
        options = ElectorOptions("me", 1, lambda: {"me", "other"}, lambda: self.wanted, 0.01, 1.0)
        self.elector = Elector(self.election, options, self.registry.scope(PREFIX), lambda: None)  # type: ignore[arg-type]

    def counted(self, name: str) -> float:
        return self.registry.counter(f"{PREFIX}.{name}")

    async def moved(self, name: str) -> None:
        await until(lambda: self.counted(name) > 0, 30)


@contextlib.asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[None]:
    task = asyncio.create_task(rig.elector.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_campaigns_that_fail_before_and_after_the_election() -> None:
    rig = Rig()
    rig.election.failing.add("campaign")
    async with running(rig):
        await rig.moved("campaign_create_errors")
        assert rig.counted("campaign_errors") == 0
        rig.election.failing = {"lost"}
        rig.election.elected.set()
        await until(lambda: rig.elector.machine.is_leader, 30)
        rig.election.over.set()
        await rig.moved("campaign_errors")


async def test_a_store_that_does_not_say_who_leads() -> None:
    rig = Rig()
    rig.election.failing.add("candidates")
    async with running(rig):
        await rig.moved("verify_leader_errors")


async def test_resigning_without_a_successor_then_without_a_lead() -> None:
    rig = Rig()
    rig.election.failing.add("resign")
    async with running(rig):
        rig.election.elected.set()
        await until(lambda: rig.elector.machine.is_leader, 30)
        with pytest.raises(TimeoutError):
            await rig.elector.resign(0.2)
        assert rig.counted("resign_timeout") == 1
        await rig.moved("resign_errors")
        await rig.moved("verify_leader_not_changed")
        rig.election.leaders = ["other"]
        await until(lambda: rig.elector.machine.state is ElectionState.FOLLOWER, 30)
        await rig.elector.resign(1.0)
        assert rig.counted("resign_follower_resign") == 1


async def test_the_end_of_a_campaign_that_is_not_the_current_one() -> None:
    rig = Rig()
    async with running(rig):
        rig.election.elected.set()
        await until(lambda: rig.elector.machine.is_leader, 30)
        rig.elector.lease_lost()
        rig.election.over.set()
        await rig.moved("verify_pending_change_stale")


async def test_one_that_is_not_to_campaign() -> None:
    rig = Rig()
    rig.wanted = False
    async with running(rig):
        await rig.moved("verify_campaign_disabled")


@pytest.mark.parametrize(("failing", "name"), [("", "resign_on_close_success"), ("close", "resign_on_close_errors")])
async def test_the_end(failing: str, name: str) -> None:
    rig = Rig()
    rig.election.failing.add(failing)
    async with running(rig):
        await asyncio.sleep(0)
    assert rig.counted(name) == 1
    assert "election_manager_resign_on_close 1.0" in rig.registry.render().decode()
