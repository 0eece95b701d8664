"""Sessions in virtual time against played hosts: what is written, tried again, refused, and that a hung host delays nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests import virtual_time
from tests.m3db.played import Network, Series
from tests.m3db.test_topology import instance, placement, shards

from m3cluster.placement import Placement, Shard, ShardState
from m3db.consistency import ConnectLevel, CopyRules, RowState, WriteLevel
from m3db.options import HostOptions, RetryOptions, SessionOptions
from m3db.session import FixedTopology, Session, WriteResult, open_session
from m3db.topology import Host, Topology
from m3x.instrument import Registry
from m3x.retry import Backoff

WRITTEN, RETRY, REFUSED = RowState
ONCE = SessionOptions(write_retry=RetryOptions(Backoff(0.5, 3.0), 0), write_timeout_s=2.0)
"""Without retries."""
THRICE = replace(ONCE, write_retry=RetryOptions(Backoff(0.5, 3.0), 2))


class Source:
    """A topology that a test changes."""

    def __init__(self, first: Topology | None = None) -> None:
        self.topologies: asyncio.Queue[Topology] = asyncio.Queue()
        if first is not None:
            self.topologies.put_nowait(first)

    def tell(self, topology: Topology) -> None:
        self.topologies.put_nowait(topology)

    def trouble(self) -> str | None:
        return None

    async def run(self, changed: Callable[[Topology], None]) -> None:
        while True:
            changed(await self.topologies.get())


def fixed(names: str, replicas: int = 3, num_shards: int = 4) -> FixedTopology:
    return FixedTopology(Topology.static([Host(name, f"{name}:9000") for name in names], num_shards, replicas))


class Scene:
    """A session and its hosts."""

    def __init__(self, network: Network, session: Session, registry: Registry) -> None:
        self.network, self.session, self.registry = network, session, registry

    async def until(self, condition: Callable[[], Any], within_s: float = 120.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)

    async def ready(self) -> None:
        await self.until(lambda: self.session.topology is not None)


@contextlib.asynccontextmanager
async def scene(names: str, source: Any = None, options: SessionOptions = ONCE, **modes: str) -> AsyncIterator[Scene]:
    network, registry = Network(names), Registry()
    for name, mode in modes.items():
        network[name].mode = mode
    async with open_session(
        options, source or fixed(names), registry.scope("m3db-client"), opener=network.open
    ) as session:
        yield Scene(network, session, registry)


def play(work: Coroutine[Any, Any, None]) -> None:
    virtual_time.run(work)


def states(result: WriteResult) -> list[int]:
    return result.states.tolist()


def now_s() -> float:
    return asyncio.get_running_loop().time()


SERIES = Series(40, 4)


def test_rows_go_to_all_copies_and_are_written() -> None:
    async def work() -> None:
        async with scene("abc") as at:
            await at.ready()
            result = await at.session.write(SERIES.rows())
            assert states(result) == [WRITTEN] * 40
            assert not result.errors
            await asyncio.sleep(1)
            for name in "abc":
                ids = at.network[name].ids()
                assert ids == {SERIES.id(number): 1 for number in range(40)}
                assert at.network[name].open == 2
            assert at.registry.counter("m3db-client.write.success") == 40
            assert at.session.hosts_for_reading() is not None
            assert at.session.trouble() == []

    play(work())


def test_errors_of_who_uses_a_session_are_their_own() -> None:
    async def work() -> None:
        mine = LookupError("no such thing")

        async def use() -> None:
            async with scene("abc") as at:
                await at.ready()
                raise mine

        with pytest.raises(LookupError) as caught:
            await use()
        assert caught.value is mine
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), scene("abc", Source()):
                await asyncio.sleep(10)

    play(work())


def test_nothing_is_written_at_once() -> None:
    async def work() -> None:
        async with scene("abc") as at:
            await at.ready()
            assert states(await at.session.write(SERIES.rows([]))) == []
            assert not at.network["a"].calls

    play(work())


def test_each_namespace_has_calls_of_its_own() -> None:
    async def work() -> None:
        async with scene("a", fixed("a", 1)) as at:
            await at.ready()
            rows = SERIES.rows(namespaces=(b"x", b"y"), choose=lambda row: row % 2)
            assert states(await at.session.write(rows)) == [WRITTEN] * 40
            calls = {request["nameSpace"]: request["elements"] for _, request in at.network["a"].calls}
            assert {name: len(elements) for name, elements in calls.items()} == {b"x": 20, b"y": 20}
            assert {element["id"] for element in calls[b"y"]} == {SERIES.id(number) for number in range(1, 40, 2)}

    play(work())


def test_calls_have_so_many_elements_at_most() -> None:
    async def work() -> None:
        async with scene("a", fixed("a", 1), replace(ONCE, elements_per_call=16)) as at:
            await at.ready()
            await at.session.write(SERIES.rows())
            assert [len(request["elements"]) for _, request in at.network["a"].calls] == [16, 16, 8]

    play(work())


@pytest.mark.parametrize(
    ("modes", "state", "seconds"),
    [
        ({"c": "hang"}, WRITTEN, 0.0),
        ({"c": "bad"}, WRITTEN, 0.0),
        ({"b": "hang", "c": "hang"}, RETRY, 2.0),
        ({"b": "internal", "c": "internal"}, RETRY, 0.0),
        ({"a": "hang", "b": "internal", "c": "internal"}, RETRY, 0.0),
        ({"b": "bad", "c": "bad"}, REFUSED, 0.0),
        ({"a": "hang", "b": "bad", "c": "bad"}, REFUSED, 0.0),
        ({"b": "bad", "c": "internal"}, RETRY, 0.0),
        ({"a": "exhausted", "b": "exhausted", "c": "exhausted"}, RETRY, 0.0),
        ({"b": "code5", "c": "code1"}, RETRY, 0.0),
        ({"b": "code3", "c": "code7"}, RETRY, 0.0),
        ({"b": "emptyerr", "c": "unreadable"}, RETRY, 0.0),
        ({"b": "close", "c": "close"}, RETRY, 0.0),
        ({"a": "close"}, WRITTEN, 0.0),
    ],
    ids=str,
)
def test_one_round(modes: dict[str, str], state: int, seconds: float) -> None:
    async def work() -> None:
        async with scene("abc") as at:
            await at.ready()
            for name, mode in modes.items():
                at.network[name].mode = mode
            begun = now_s()
            result = await at.session.write(SERIES.rows())
            assert states(result) == [state] * 40
            assert now_s() - begun == pytest.approx(seconds, abs=0.1)
            if state == WRITTEN:
                assert not result.errors
            else:
                told = np.unique(np.concatenate([error.rows for error in result.errors]))
                assert told.tolist() == list(range(40))
                assert {error.host for error in result.errors} <= modes.keys()

    play(work())


def test_errors_of_single_elements_are_those_of_their_rows() -> None:
    async def work() -> None:
        async with scene("abc") as at:
            await at.ready()
            for name in "abc":
                at.network[name].mode = "short"
            result = await at.session.write(SERIES.rows([7, 8, 9]))
            assert states(result) == [REFUSED, WRITTEN, WRITTEN]
            assert {(error.kind, error.text, tuple(error.rows)) for error in result.errors} == {
                ("bad request", "told to fail at 0", (0,))
            }
            assert at.registry.counter("m3db-client.write.errors", error_type="bad_request") == 1
            assert at.registry.counter("m3db-client.write.success") == 2

    play(work())


def test_only_rows_that_may_succeed_later_are_tried_again_with_growing_pauses() -> None:
    async def work() -> None:
        async with scene("abc", options=THRICE) as at:
            await at.ready()
            for name in "abc":
                at.network[name].mode = "short"
            at.network["b"].mode = at.network["c"].mode = "internal"
            result = await at.session.write(SERIES.rows([1, 2]))
            assert states(result) == [RETRY, RETRY]
            times = [time for time, _ in at.network["b"].calls]
            assert len(times) == 3
            assert 0.25 <= times[1] - times[0] <= 0.52
            assert 0.75 <= times[2] - times[1] <= 1.52
            assert at.registry.counter("m3db-client.write-req.retries") == 4

    play(work())


def test_a_retry_takes_what_failed_and_nothing_else() -> None:
    async def work() -> None:
        # Shards 0 to 3 are on a, b, a, b: what b does not take comes again.
        async with scene("ab", fixed("ab", 1), THRICE) as at:
            await at.ready()
            at.network["b"].mode = "code5"
            writing = asyncio.create_task(at.session.write(SERIES.rows()))
            await asyncio.sleep(0.1)
            at.network["b"].mode = "ok"
            assert states(await writing) == [WRITTEN] * 40
            assert set(at.network["a"].ids().values()) == {1}
            assert set(at.network["b"].ids().values()) == {2}

    play(work())


def test_before_the_topology_is_there_everything_is_to_be_tried_again() -> None:
    async def work() -> None:
        source = Source()
        async with scene("a", source) as at:
            result = await at.session.write(SERIES.rows([0]))
            assert states(result) == [RETRY]
            assert result.errors[0].text == "M3DB session not yet initialized"
            assert at.session.topology is None
            assert at.session.hosts_for_reading() is None
            source.tell(Topology.static([Host("a", "a:9000")], 4))
            await at.ready()
            assert states(await at.session.write(SERIES.rows([0]))) == [WRITTEN]

    play(work())


def test_a_retry_finds_the_topology_that_has_come() -> None:
    async def work() -> None:
        source = Source()
        async with scene("a", source, THRICE) as at:
            writing = asyncio.create_task(at.session.write(SERIES.rows([0])))
            await asyncio.sleep(0.1)
            source.tell(Topology.static([Host("a", "a:9000")], 4))
            assert states(await writing) == [WRITTEN]

    play(work())


def test_another_number_of_shards_than_that_of_the_forms_is_said() -> None:
    async def work() -> None:
        async with scene("a", fixed("a", 1, num_shards=8)) as at:
            await at.ready()
            result = await at.session.write(SERIES.rows([0]))
            assert states(result) == [RETRY]
            assert "4 of them, but the topology has 8" in result.errors[0].text
            assert not at.network["a"].calls

    play(work())


def test_level_none_does_not_wait() -> None:
    async def work() -> None:
        async with scene("abc", options=replace(ONCE, rules=CopyRules(WriteLevel.NONE))) as at:
            await at.ready()
            for name in "abc":
                at.network[name].mode = "hang"
            begun = now_s()
            assert states(await at.session.write(SERIES.rows())) == [WRITTEN] * 40
            assert now_s() == begun
            assert [len(at.network[name].ids()) for name in "abc"] == [40, 40, 40]

    play(work())


def test_hosts_without_connections_cost_their_copies_only() -> None:
    async def work() -> None:
        async with scene("abc", options=replace(ONCE, connect_level=ConnectLevel.MAJORITY), c="down") as at:
            await at.ready()
            assert states(await at.session.write(SERIES.rows())) == [WRITTEN] * 40
            at.network.stop("b")
            begun = now_s()
            result = await at.session.write(SERIES.rows())
            assert states(result) == [RETRY] * 40
            assert now_s() - begun < 0.1
            assert {error.kind for error in result.errors} == {"network"}
            assert len(at.network["a"].calls) == 2  # it got its copy all the same
            (trouble_b, trouble_c) = at.session.trouble()
            assert trouble_b.startswith("node b (b:9000) is not connected: ")
            assert trouble_c == "node c (c:9000) is not connected: c: connection refused"
            at.network["b"].mode = at.network["c"].mode = "ok"
            await at.until(lambda: not at.session.trouble(), 10)
            assert states(await at.session.write(SERIES.rows())) == [WRITTEN] * 40

    play(work())


def test_a_host_that_answers_no_writes_is_named() -> None:
    async def work() -> None:
        async with scene("abc") as at:
            await at.ready()
            at.network["c"].mode = "hang"
            await at.session.write(SERIES.rows())
            await asyncio.sleep(5)
            assert not at.session.trouble()
            await asyncio.sleep(10)
            (line,) = at.session.trouble()
            assert line.startswith("node c (c:9000) is not well since ")
            assert line.endswith(" UTC: timeout: no answer within 2 s")

    play(work())


# --- bounds


def small_bound(rows_bytes: int) -> SessionOptions:
    return replace(ONCE, host=HostOptions(max_outstanding_bytes=rows_bytes), write_timeout_s=10.0)


def test_a_hung_host_delays_nothing_and_takes_bounded_memory() -> None:
    async def work() -> None:
        async with scene("abc", options=small_bound(20_000)) as at:
            await at.ready()
            at.network["c"].mode = "hang"
            begun = now_s()
            for _ in range(200):
                assert states(await at.session.write(SERIES.rows())) == [WRITTEN] * 40
            # Until the bound is reached all goes on at once; then one write waits for the second without any answer.
            assert now_s() - begun < 2.0
            hung = next(status for status in at.session.hosts if status.id == "c")
            assert hung.outstanding_bytes <= 20_000
            assert len(at.network["a"].calls) == 200
            assert len(at.network["c"].calls) < 20

    play(work())


def test_a_hung_shard_does_not_keep_others_waiting_for_whom_has_no_patience() -> None:
    async def work() -> None:
        # Two copies of each shard.
        async with scene("abcd", fixed("abcd", 2)) as at:
            await at.ready()
            at.network["a"].mode = at.network["b"].mode = "hang"
            begun = now_s()
            result = await at.session.write(SERIES.rows(), patience_s=0.5)
            # Between once and twice as long.
            assert now_s() - begun == pytest.approx(1.0, abs=0.1)
            of = {state: {SERIES.forms.shards[row] for row in result.rows(state)} for state in (WRITTEN, RETRY)}
            assert of[WRITTEN]
            assert not of[WRITTEN] & of[RETRY]
            assert of[WRITTEN] | of[RETRY] == {0, 1, 2, 3}
            late = [error for error in result.errors if not error.host]
            assert [error.rows.tolist() for error in late] == [result.rows(RETRY).tolist()]
            # Where nothing else is written there is nobody to hurry for.
            begun = now_s()
            hung = [row for row in range(40) if SERIES.forms.shards[row] in of[RETRY]]
            assert set(states(await at.session.write(SERIES.rows(hung), patience_s=0.5))) == {RETRY}
            assert now_s() - begun == pytest.approx(2.0, abs=0.1)

    play(work())


def test_times_that_nodes_do_not_take_are_told_apart() -> None:
    async def work() -> None:
        async with scene("a", fixed("a", 1)) as at:
            await at.ready()
            at.network["a"].mode = "times"
            result = await at.session.write(SERIES.rows(list(range(6))))
            assert states(result) == [REFUSED] * 6
            assert {(error.kind, tuple(error.rows)) for error in result.errors} == {
                ("too far in past", (0, 3)), ("too far in future", (1, 4)), ("bad request", (2, 5)),
            }  # fmt: skip

    play(work())


def test_what_a_host_does_not_read_counts_though_its_calls_are_given_up() -> None:
    async def work() -> None:
        async with scene("abc", options=replace(small_bound(20_000), write_timeout_s=1.0)) as at:
            await at.ready()
            at.network["c"].reads = False
            for _ in range(100):
                assert states(await at.session.write(SERIES.rows())) == [WRITTEN] * 40
                await asyncio.sleep(0.2)
            assert sum(link.unsent_bytes for link in at.network["c"].links) <= 40_000

    play(work())


def test_a_slow_host_that_answers_holds_back_who_writes() -> None:
    async def work() -> None:
        async with scene("abc", options=small_bound(20_000)) as at:
            await at.ready()
            at.network["c"].delay_s = 0.5
            for _ in range(60):
                assert states(await at.session.write(SERIES.rows())) == [WRITTEN] * 40
            await asyncio.sleep(2)
            # It got everything: nothing was left out, and there was never more on its way than the bound.
            assert len(at.network["c"].calls) == 60
            times = [time for time, _ in at.network["c"].calls]
            assert times[-1] - times[0] > 2.0

    play(work())


def test_a_part_that_is_larger_than_the_bound_is_sent_when_nothing_is_on_its_way() -> None:
    async def work() -> None:
        async with scene("a", fixed("a", 1), small_bound(100)) as at:
            await at.ready()
            results = await asyncio.gather(*(at.session.write(SERIES.rows()) for _ in range(5)))
            assert [states(result) for result in results] == [[WRITTEN] * 40] * 5

    play(work())


def test_writes_that_are_cancelled_leave_nothing_behind() -> None:
    async def work() -> None:
        async with scene("abc") as at:
            await at.ready()
            at.network["b"].mode = at.network["c"].mode = "hang"
            writing = asyncio.create_task(at.session.write(SERIES.rows()))
            await asyncio.sleep(0.5)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await asyncio.sleep(5)
            assert all(not status.outstanding_bytes for status in at.session.hosts)

    play(work())


# --- topology


def of(one: Placement) -> Topology:
    return Topology.of_placement(one)


def three(*names: str, endpoints: dict[str, str] | None = None) -> Placement:
    every = [instance(name, *shards(0, 1, 2, 3), endpoint=(endpoints or {}).get(name, "")) for name in names]
    return placement(3, 4, *every)


def replacing() -> Placement:
    """d takes the shards of a."""
    return placement(
        3, 4,
        instance("a", *shards(0, 1, 2, 3, state=ShardState.LEAVING)),
        instance("b", *shards(0, 1, 2, 3)),
        instance("c", *shards(0, 1, 2, 3)),
        instance("d", *(Shard(number, ShardState.INITIALIZING, "a") for number in range(4))),
    )  # fmt: skip


def test_nodes_come_and_go_while_writes_go_on() -> None:
    async def work() -> None:
        source = Source(of(three("a", "b", "c")))
        async with scene("abcd", source, THRICE) as at:
            await at.ready()
            stop, results = False, []

            async def write_on() -> None:
                while not stop:
                    results.append(states(await at.session.write(SERIES.rows())))
                    await asyncio.sleep(0.01)

            writing = asyncio.create_task(write_on())
            await asyncio.sleep(0.5)
            source.tell(of(replacing()))
            await at.until(lambda: at.network["d"].calls)
            await asyncio.sleep(0.5)
            source.tell(of(three("b", "c", "d")))
            await at.until(lambda: not at.network["a"].open)
            gone = len(at.network["a"].calls)
            await asyncio.sleep(0.5)
            stop = True
            await writing
            assert len(at.network["a"].calls) == gone
            assert {host.id for host in at.session.hosts} == {"b", "c", "d"}
            assert set(map(tuple, results)) == {(WRITTEN,) * 40}

    play(work())


def test_while_a_node_is_replaced_its_copies_do_not_count() -> None:
    async def work() -> None:
        async with scene("abcd", Source(of(replacing()))) as at:
            await at.ready()
            at.network["b"].mode = "internal"
            assert states(await at.session.write(SERIES.rows())) == [RETRY] * 40
            at.network["b"].mode, at.network["a"].mode, at.network["d"].mode = "ok", "internal", "internal"
            assert states(await at.session.write(SERIES.rows())) == [WRITTEN] * 40
            assert [len(at.network[name].calls) for name in "abcd"] == [2] * 4

    play(work())


def test_a_new_endpoint_under_an_old_id_is_dialled() -> None:
    async def work() -> None:
        source = Source(of(three("a", "b", "c")))
        async with scene("abcx", source) as at:
            await at.ready()
            await at.session.write(SERIES.rows())
            source.tell(of(three("a", "b", "c", endpoints={"c": "x:9000"})))
            await at.until(lambda: not at.network["c"].open)
            await at.session.write(SERIES.rows())
            await asyncio.sleep(0.1)
            assert [len(at.network[name].calls) for name in "abcx"] == [2, 2, 1, 1]

    play(work())


def test_a_topology_takes_effect_when_its_hosts_are_connected() -> None:
    async def work() -> None:
        source = Source(of(three("a", "b", "c")))
        async with scene("abcd", source, d="down") as at:
            await at.ready()
            source.tell(of(replacing()))
            await asyncio.sleep(10)
            await at.session.write(SERIES.rows())
            assert at.session.topology is not None
            assert len(at.session.topology.hosts) == 3
            at.network["d"].mode = "ok"
            await at.until(lambda: len(at.session.topology.hosts) == 4, 10)

    play(work())


def test_hosts_that_were_there_before_do_not_delay_a_topology() -> None:
    async def work() -> None:
        source = Source(of(three("a", "b", "c")))
        async with scene("abcd", source) as at:
            await at.ready()
            at.network.stop("a")
            await asyncio.sleep(5)
            source.tell(of(replacing()))
            await at.until(lambda: len(at.session.topology.hosts) == 4, 1)

    play(work())


@pytest.mark.parametrize(
    ("level", "down", "after_s"),
    [
        (ConnectLevel.NONE, "abc", 0.0),
        (ConnectLevel.ONE, "ab", 0.0),
        (ConnectLevel.MAJORITY, "a", 0.0),
        (ConnectLevel.ANY, "", 0.0),
        (ConnectLevel.ANY, "a", 20.0),
        (ConnectLevel.ANY, "ab", 40.0),
        (ConnectLevel.ANY, "abc", 60.0),
    ],
)
def test_the_session_opens(level: ConnectLevel, down: str, after_s: float) -> None:
    async def work() -> None:
        begun = now_s()
        modes = dict.fromkeys(down, "down")
        async with scene("abc", options=replace(ONCE, connect_level=level), **modes) as at:
            await at.ready()
            assert now_s() - begun == pytest.approx(after_s, abs=0.1)

    play(work())


def test_levels_that_are_not_reached_are_waited_for() -> None:
    async def work() -> None:
        async with scene("abc", options=replace(ONCE, connect_level=ConnectLevel.ALL), c="down") as at:
            await asyncio.sleep(300)
            assert at.session.topology is None
            assert "too few nodes of M3DB are connected for connectConsistencyLevel all" in at.session.trouble()
            at.network["c"].mode = "ok"
            await at.until(lambda: at.session.topology is not None, 10)

    play(work())


def test_a_newer_topology_ends_the_wait_for_the_one_before() -> None:
    async def work() -> None:
        source = Source(of(three("a", "b", "d")))
        async with scene("abcd", source, replace(ONCE, connect_level=ConnectLevel.ALL), d="down") as at:
            await asyncio.sleep(5)
            assert at.session.topology is None
            source.tell(of(three("a", "b", "c")))
            await at.ready()
            assert {host.id for host in at.session.hosts} == {"a", "b", "c"}
            dialled = at.network["d"].dialled
            await asyncio.sleep(30)
            assert at.network["d"].dialled == dialled

    play(work())


def test_calls_of_readers() -> None:
    async def work() -> None:
        async with scene("abc") as at:
            await at.ready()
            reading = at.session.hosts_for_reading()
            assert reading is not None
            assert reading.topology is at.session.topology
            assert (await reading.call(1, "health", b"\0", 5.0)).code == 0
            assert (await at.session.call("b", "health", b"\0", 5.0)).code == 0
            with pytest.raises(Exception, match="no such host"):
                await at.session.call("z", "health", b"\0", 5.0)

    play(work())
