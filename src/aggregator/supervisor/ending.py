"""How an instance ends without a loss, or its processes, for others to come: who goes on, and what is delivered before
(docs/architecture.md §4).

Whoever can take over the lead does so at once: it holds the same windows, and what was emitted here without its delivery being written
down is emitted there again. Another instance that is there, but lacks samples of open windows (it was restarted a moment ago), is waited
for while everything goes on: that is a rolling restart. Where nobody is there, the lead is kept until what was emitted is delivered and
written down.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from aggregator.config import ServiceConfig
from aggregator.supervisor.election.completeness import Completeness
from aggregator.supervisor.flushing.commands import Flushing
from aggregator.supervisor.output.forwarder import Forwarder
from aggregator.supervisor.output.sinks import Sinks
from aggregator.supervisor.processes.fleet import Fleet
from aggregator.supervisor.shard_set import ShardSet
from m3x.log import logger

__all__ = ["Ending", "end", "until_the_end"]

log = logger(__name__)

_LAST_ACKS_S = 0.3
"""How long a leader that is told to end waits for acks of what it has just emitted, before another one takes over."""
_LOOK_S = 0.25
_DRAIN_S = 10.0


class Ending(Protocol):
    """What is asked of an instance that ends (``Serving``). ``shard_set`` is that of the moment; ``ending`` is set here."""

    config: ServiceConfig
    fleet: Fleet
    shard_set: ShardSet
    flushing: Flushing
    completeness: Completeness
    output: Forwarder
    rollups: Forwarder
    sinks: Sinks
    rolls_up: bool
    ending: bool

    def may_write(self) -> bool: ...


async def until_the_end(instance: Ending, stopping: asyncio.Event, changes: Callable[[], Awaitable[None]]) -> bool:
    """Returns when it is time to end: False, because of ``stopping``; True, because ``changes`` returned before that."""
    waits = [asyncio.ensure_future(stopping.wait()), asyncio.ensure_future(changes())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()
        await asyncio.wait(waits)
    if not stopping.is_set():
        return True
    if wait_s := instance.config.aggregator.shutdown_wait_timeout.seconds:
        log.info("serving on before the end", seconds=wait_s)
        await asyncio.sleep(wait_s)
    return False


async def end(instance: Ending, member: asyncio.Task[None], *, goes_on: bool = False) -> None:
    """Gives the lead away or delivers, and stops accepting; ``member`` takes part in the shard set, cancelled here.

    ``goes_on``: with other processes, which take what is sent meanwhile.
    """
    timeout_s = instance.config.instance.shutdown_timeout.seconds
    log.info("ending the processes, to go on with others" if goes_on else "shutting down", timeout_s=timeout_s)
    alone = instance.shard_set.leads and not await _succeeded(instance)
    if not alone:
        instance.ending = True
        await _delivered(instance, _LAST_ACKS_S)
        await _leave(member)
    elif instance.rolls_up:
        await _rolled_up(instance, timeout_s)
    instance.completeness.ending()
    await instance.fleet.drain(min(timeout_s, _DRAIN_S), goes_on=goes_on)
    if alone:
        await _delivered(instance, timeout_s)
        await _leave(member)


async def _succeeded(instance: Ending) -> bool:
    """Whether somebody is there who takes the lead over; waits for one that is there and will be able to."""
    deadline = _now() + instance.config.instance.hand_over_timeout.seconds
    while instance.shard_set.leads and not await instance.shard_set.has_successor():
        if not instance.shard_set.has_company() or _now() >= deadline:
            return False
        log.info_limited("serving on until another instance holds all open windows", per_second=0.2)
        await asyncio.sleep(_LOOK_S)
    return True


async def _leave(member: asyncio.Task[None]) -> None:
    member.cancel()
    await asyncio.wait([member])


async def _rolled_up(instance: Ending, timeout_s: float) -> None:
    """Begins no more flushes and waits until the forwarded metrics of those before are done: our own front will take none later."""
    instance.ending = True
    deadline = _now() + timeout_s
    while _now() < deadline and instance.may_write():
        if not (instance.flushing.in_hand or instance.rollups.waiting_bytes or instance.sinks.pending_rollups):
            return
        await asyncio.sleep(0.02)


async def _delivered(instance: Ending, timeout_s: float) -> None:
    """Waits until all that was emitted is done and written down, as long as we lead."""
    deadline = _now() + timeout_s
    while _now() < deadline and instance.may_write():
        waiting = instance.output.waiting_bytes + instance.rollups.waiting_bytes + instance.sinks.pending
        if not waiting and not instance.flushing.save_due(instance.flushing.saved_ns):
            return
        await asyncio.sleep(0.05)


def _now() -> float:
    return asyncio.get_running_loop().time()
