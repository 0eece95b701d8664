"""Connections to one host in virtual time: opened again, asked for their health, given up, and bounded."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from tests import virtual_time
from tests.m3db.played import Network, Series

from m3db.connection import Answer, MessageIds
from m3db.errors import CallError, CallFailure
from m3db.host import HostPool, HostStatus
from m3db.options import HostOptions
from m3db.topology import Host
from m3db.write import encode_calls
from m3x.retry import Backoff

OPTIONS = HostOptions(reconnect=Backoff(0.1, 2.0, 5.0, jitter=False))
SERIES = Series(40, 4)


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Scene:
    """A pool and its host."""

    def __init__(self, pool: HostPool, network: Network, changes: list[int]) -> None:
        self.pool, self.host, self.network, self.changes = pool, network["a"], network, changes

    @property
    def status(self) -> HostStatus:
        return self.pool.status

    async def until(self, condition: Callable[[], Any], within_s: float = 60.0) -> float:
        """The time that it took."""
        begun = now_s()
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
        return now_s() - begun

    def send(self, timeout_s: float = 2.0) -> list[Answer | CallError] | None:
        """Sends a call; what it ended with comes into the list."""
        ended: list[Answer | CallError] = []
        calls = encode_calls(SERIES.rows(), None, MessageIds(1000).reserve, 1000)
        assert len(calls) == 1
        return ended if self.pool.send(calls, timeout_s, lambda _, result: ended.append(result)) else None


@contextlib.asynccontextmanager
async def scene(options: HostOptions = OPTIONS, mode: str = "ok", endpoint: str = "a:9000") -> AsyncIterator[Scene]:
    network, changes = Network("a"), list[int]()
    network["a"].mode = mode
    pool = HostPool(Host("a", endpoint), options, MessageIds(), lambda: changes.append(pool.connected), network.open)
    running = asyncio.create_task(pool.run())
    try:
        yield Scene(pool, network, changes)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not network["a"].open


def play(work: Coroutine[Any, Any, None]) -> None:
    virtual_time.run(work)


def test_the_connections_are_opened_and_told() -> None:
    async def work() -> None:
        async with scene() as at:
            assert at.pool.connected == 0
            await at.until(lambda: at.pool.connected == 2)
            assert at.changes == [1, 2]
            assert at.status == HostStatus("a", "a:9000", 2, 2, None, "", 0, True)
            await asyncio.sleep(100)
            assert at.host.dialled == 2

    play(work())


def test_connections_take_turns() -> None:
    async def work() -> None:
        async with scene() as at:
            await at.until(lambda: at.pool.connected == 2)
            for _ in range(6):
                at.send()
            assert [len(link.sent) for link in at.host.links] == [3, 3]

    play(work())


def test_an_ended_connection_is_replaced_at_once() -> None:
    async def work() -> None:
        async with scene() as at:
            await at.until(lambda: at.pool.connected == 2)
            await asyncio.sleep(20)
            at.host.links[0].end()
            assert at.pool.connected == 1
            assert at.send() is not None
            assert await at.until(lambda: at.pool.connected == 2) < 0.05
            assert at.host.dialled == 3

    play(work())


def test_a_host_that_hangs_up_at_once_is_dialled_with_growing_pauses() -> None:
    async def work() -> None:
        async with scene() as at:
            await at.until(lambda: at.pool.connected == 2)
            for _ in range(600):
                for link in at.host.links:
                    link.end()
                await asyncio.sleep(0.1)
            assert at.host.dialled < 60

    play(work())


def test_a_host_that_is_down_is_dialled_with_growing_pauses() -> None:
    async def work() -> None:
        async with scene(mode="down") as at:
            await asyncio.sleep(60)
            assert 10 < at.host.dialled < 50
            assert at.status.last_error == "a: connection refused"
            assert at.status.failing_since_ns is not None
            assert at.send() is None
            at.host.mode = "ok"
            assert await at.until(lambda: at.pool.connected == 2) < 5.1
            assert at.status.failing_since_ns is None
            assert at.status.last_error == "a: connection refused"

    play(work())


@pytest.mark.parametrize("mode", ["sick", "hang_health"])
def test_a_host_that_is_not_well_gets_no_connections(mode: str) -> None:
    async def work() -> None:
        async with scene(mode=mode) as at:
            await asyncio.sleep(60)
            assert at.pool.connected == 0
            assert at.host.dialled > 2
            await at.until(lambda: at.host.open == 0, 10)
            expected = "says that it is not well" if mode == "sick" else "no answer within 5 s"
            assert expected in at.status.last_error

    play(work())


@pytest.mark.parametrize(
    ("mode", "options", "least_s", "most_s"),
    [
        # Four checks: the first 4 to 6 s after the one before, then pauses of 2.5 s; each takes 5 s where nothing is answered.
        ("sick", OPTIONS, 4 + 7.5 - 6, 6 + 7.5),
        ("hang_health", OPTIONS, 4 + 7.5 + 20 - 6, 6 + 7.5 + 20),
        ("sick", replace(OPTIONS, health_fail_limit=1), 0, 6),
        ("sick", replace(OPTIONS, health_fail_limit=0), 0, 6),
        ("sick", replace(OPTIONS, health_fail_limit=2, health_throttle_factor=0.0), 1, 6 + 1),
    ],
)  # fmt: skip
def test_failed_checks_end_a_connection(mode: str, options: HostOptions, least_s: float, most_s: float) -> None:
    async def work() -> None:
        async with scene(options) as at:
            await at.until(lambda: at.pool.connected == 2)
            await asyncio.sleep(10)
            at.host.mode = mode
            assert least_s - 0.1 <= await at.until(lambda: at.pool.connected < 2) <= most_s + 0.1
            await at.until(lambda: at.pool.connected == 0)
            assert at.status.failing_since_ns is not None
            at.host.mode = "ok"
            await at.until(lambda: at.pool.connected == 2, 15)

    play(work())


def test_a_check_that_succeeds_again_forgets_those_that_failed() -> None:
    async def work() -> None:
        async with scene() as at:
            await at.until(lambda: at.pool.connected == 2)
            for _ in range(10):
                at.host.mode = "sick"
                await asyncio.sleep(6.5)
                assert at.status.failing_since_ns is not None
                at.host.mode = "ok"
                await asyncio.sleep(6.5)
                assert at.status.failing_since_ns is None
            assert at.host.dialled == 2

    play(work())


@pytest.mark.parametrize("endpoint", ["a", "a:x", ""])
def test_an_endpoint_that_is_none_is_said(endpoint: str) -> None:
    async def work() -> None:
        async with scene(endpoint=endpoint) as at:
            await asyncio.sleep(10)
            assert "is not an address; expected host:port" in at.status.last_error

    play(work())


def test_what_is_on_its_way_is_counted() -> None:
    async def work() -> None:
        async with scene() as at:
            await at.until(lambda: at.pool.connected == 2)
            at.host.mode = "hang"
            ended = at.send(timeout_s=2.0)
            (size,) = (size for link in at.host.links for size in link.sent)
            assert at.pool.outstanding_bytes == at.status.outstanding_bytes == size
            assert not at.pool.stalled
            await asyncio.sleep(1.1)
            assert at.pool.stalled
            await asyncio.sleep(1.0)
            assert ended is not None
            (result,) = ended
            assert isinstance(result, CallError)
            assert result.kind is CallFailure.TIMEOUT
            assert at.pool.outstanding_bytes == 0
            assert at.status.failing_since_ns is not None

    play(work())


def test_calls_without_an_answer_are_not_made_up_for_by_health() -> None:
    async def work() -> None:
        async with scene() as at:
            await at.until(lambda: at.pool.connected == 2)
            at.host.mode = "hang"
            at.send(timeout_s=1.0)
            await asyncio.sleep(30)
            assert at.pool.connected == 2
            assert at.status.failing_since_ns is not None
            at.host.mode = "ok"
            at.send()
            await asyncio.sleep(0.1)
            assert at.status.failing_since_ns is None

    play(work())


def test_other_calls_do_not_make_a_host_look_as_if_it_took_writes() -> None:
    async def work() -> None:
        async with scene() as at:
            await at.until(lambda: at.pool.connected == 2)
            at.host.mode = "hang"
            at.send(timeout_s=10.0)
            for _ in range(3):
                await asyncio.sleep(0.4)
                await at.pool.call("health", b"\0", 1.0)
            assert at.pool.stalled

    play(work())


def test_an_error_frame_is_a_sign_of_life() -> None:
    async def work() -> None:
        async with scene() as at:
            await at.until(lambda: at.pool.connected == 2)
            at.host.mode = "hang"
            at.send(timeout_s=10.0)
            at.host.mode = "code5"
            for _ in range(5):
                await asyncio.sleep(0.8)
                at.send()
                assert not at.pool.stalled
            await asyncio.sleep(1.2)
            assert at.pool.stalled

    play(work())


def test_room() -> None:
    async def work() -> None:
        async with scene(replace(OPTIONS, max_outstanding_bytes=10_000)) as at:
            await at.until(lambda: at.pool.connected == 2)
            assert at.pool.has_room(1 << 30)  # nothing is on its way
            at.host.delay_s = 0.6
            at.send(timeout_s=5.0)
            assert at.pool.has_room(100)
            assert not at.pool.has_room(10_000)
            begun = now_s()
            assert await at.pool.until_room(10_000, begun + 5)
            assert now_s() - begun == pytest.approx(0.6, abs=0.01)
            at.host.mode = "hang"
            at.send(timeout_s=5.0)
            begun = now_s()
            assert not await at.pool.until_room(10_000, begun + 5)
            assert now_s() - begun == pytest.approx(1.0, abs=0.01)
            begun = now_s()
            assert not await at.pool.until_room(10_000, begun + 5)
            assert now_s() == begun
            at.network.stop("a")
            assert await at.pool.until_room(10_000, begun + 5)  # there is nothing to wait for: sending says so

    play(work())


def test_calls() -> None:
    async def work() -> None:
        async with scene(mode="down") as at:
            with pytest.raises(CallError, match="a:9000: connection pool has no connections"):
                await at.pool.call("health", b"\0", 1.0)
            at.host.mode = "ok"
            await at.until(lambda: at.pool.connected == 2)
            assert (await at.pool.call("health", b"\0", 1.0)).code == 0
            at.host.mode = "hang_health"
            with pytest.raises(CallError, match="no answer within 1 s"):
                await at.pool.call("health", b"\0", 1.0)
            assert at.status.failing_since_ns is not None

    play(work())
