"""How an instance ends: who takes over, who is waited for, what is delivered before."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from aggregator.supervisor import ending
from aggregator.supervisor.ending import end, until_the_end


class Stub:
    """An instance whose world is told by the test; ``done`` is what it does, in order."""

    def __init__(
        self, *, timeout_s: float = 5.0, leads: bool = True, company: bool = False, undelivered: int = 0
    ) -> None:
        self.done: list[str] = []
        self.successor = False
        self.company = company
        self.asked = 0
        seconds = SimpleNamespace(seconds=timeout_s)
        self.config = SimpleNamespace(instance=SimpleNamespace(shutdown_timeout=seconds, hand_over_timeout=seconds))
        self.fleet = SimpleNamespace(drain=self.drain)
        self.shard_set = SimpleNamespace(
            leads=leads, has_successor=self.has_successor, has_company=lambda: self.company
        )
        self.flushing = SimpleNamespace(in_hand=False, saved_ns=0, save_due=lambda _: False)
        self.output = SimpleNamespace(waiting_bytes=undelivered)
        self.rollups = SimpleNamespace(waiting_bytes=0)
        self.sinks = SimpleNamespace(pending=0, pending_rollups=0)
        self.completeness = SimpleNamespace(ending=lambda: self.done.append("no more"))
        self.rolls_up = False
        self.ending = False

    def may_write(self) -> bool:
        return bool(self.shard_set.leads)

    async def has_successor(self) -> bool:
        self.asked += 1
        return self.successor

    async def drain(self, _timeout_s: float, *, goes_on: bool) -> None:
        self.done.append("drain, others come" if goes_on else "drain")


async def asked(stub: Stub, times: int) -> None:
    while stub.asked < times:  # noqa: ASYNC110 - a counter of another task
        await asyncio.sleep(0.01)


async def run(stub: Any, **how: bool) -> None:
    async def member() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stub.done.append("leave")

    task = asyncio.create_task(member())
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await end(stub, task, **how)


async def test_who_has_a_successor_hands_over_before_it_drains() -> None:
    stub = Stub(undelivered=9)
    stub.successor = True
    await run(stub)
    assert stub.done == ["leave", "no more", "drain"]
    assert stub.ending


async def test_a_follower_just_ends() -> None:
    stub = Stub(leads=False, company=True)
    await run(stub)
    assert stub.done == ["leave", "no more", "drain"]
    assert not stub.asked


async def test_where_other_processes_come_the_same_is_done_but_for_the_listener() -> None:
    stub = Stub(leads=False, company=True)
    await run(stub, goes_on=True)
    assert stub.done == ["leave", "no more", "drain, others come"]


async def test_it_ends_for_what_comes_first() -> None:
    wait = SimpleNamespace(aggregator=SimpleNamespace(shutdown_wait_timeout=SimpleNamespace(seconds=0.01)))
    instance: Any = SimpleNamespace(config=wait)
    stopping, changed = asyncio.Event(), asyncio.Event()

    async def changes() -> None:
        await changed.wait()

    ends = asyncio.create_task(until_the_end(instance, stopping, changes))
    await asyncio.sleep(0.01)
    assert not ends.done()
    changed.set()
    assert await ends
    stopping.set()
    assert not await until_the_end(instance, stopping, changes)


async def test_who_is_alone_delivers_before_it_leaves() -> None:
    stub = Stub(undelivered=9)
    asyncio.get_running_loop().call_later(0.3, lambda: setattr(stub.output, "waiting_bytes", 0))
    begun = asyncio.get_running_loop().time()
    await run(stub)
    assert stub.done == ["no more", "drain", "leave"]
    assert asyncio.get_running_loop().time() - begun > 0.25


async def test_an_instance_that_is_there_and_lacks_windows_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_LOOK_S", 0.01)
    stub = Stub(timeout_s=20, company=True)
    ended = asyncio.create_task(run(stub))
    await asked(stub, 5)
    # Everything goes on: samples are taken, windows flushed.
    assert not stub.ending
    assert not stub.done
    stub.successor = True
    await ended
    assert stub.done == ["leave", "no more", "drain"]


@pytest.mark.parametrize("gone", [True, False])
async def test_it_is_not_waited_for_any_more_when_it_goes_or_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    monkeypatch.setattr(ending, "_LOOK_S", 0.01)
    stub = Stub(timeout_s=20 if gone else 0.2, company=True)
    ended = asyncio.create_task(run(stub))
    await asked(stub, 5)
    if gone:
        stub.company = False
    await ended
    assert stub.done == ["no more", "drain", "leave"]


async def test_who_loses_the_lead_meanwhile_has_nothing_to_deliver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_LOOK_S", 0.01)
    stub = Stub(timeout_s=20, company=True, undelivered=9)
    ended = asyncio.create_task(run(stub))
    await asked(stub, 2)
    stub.shard_set.leads = False
    await ended
    assert stub.done == ["leave", "no more", "drain"]
