"""One stuck thing holds nothing but itself: the table of docs/architecture.md §4, row by row."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.aggregator.supervisor.output_model import (
    ALL,
    EVERY_SHARD,
    NOON,
    ROLLED_UP,
    SINGLE_NS,
    S,
    Tier,
    Wire,
    counter,
    ids_of,
)

from aggregator.lists import KIND_STANDARD, KIND_TIMED, ListId
from aggregator.supervisor.flushing.flush_times import can_lead, lacks_more
from aggregator.supervisor.flushing.holding import Holding
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes
from m3cluster.topic import ConsumptionType
from m3metrics.codec import decode_aggregated

SHARED, REPLICATED = ConsumptionType.SHARED, ConsumptionType.REPLICATED
ROOT = Path(__file__).resolve().parents[4]
TESTS: dict[str, Callable[[], None]] = {}
HOUR = ListId(KIND_STANDARD, 3600 * S)


def row(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers the test of a row of the table."""

    def register(test: Callable[[], None]) -> Callable[[], None]:
        TESTS[name] = test
        return test

    return register


def documented() -> list[str]:
    """The first column of the table."""
    text = (ROOT / "docs/architecture.md").read_text()
    table = text.partition("| what is stuck |")[2].partition("\n\n")[0]
    return re.findall(r"^\| (.+?) \|", table.partition("|---")[2].partition("\n")[2], re.MULTILINE)


def test_every_row_of_the_table_has_its_test() -> None:
    assert documented() == list(TESTS)


@pytest.mark.parametrize("name", TESTS)
def test_holds_nothing_but_itself(name: str) -> None:
    TESTS[name]()


def one_consumer(**options: float) -> Wire:
    return Wire({"coordinator": (SHARED, {"c1": ALL})}, **options)


def fed(tier: Tier, *more: bytes) -> Callable[[], None]:
    """A sample of 1 a second for series of every shard, and those ``more``."""
    samples = [*(counter(ident, 1) for ident in EVERY_SHARD), *more]
    return lambda: tier.take(*samples)


def leading(*wires: Wire, **options: object) -> Tier:
    """An instance that leads and has flushed two windows."""
    tier = Tier(*wires, **options)
    tier.lead()
    tier.run(25, fed(tier))
    assert max(tier.behind().values()) == 0
    return tier


def whole(tier: Tier, instance: str, idents: list[bytes]) -> None:
    """Every window but the first and those that are open came, once and with the whole value."""
    through = tier.now - 10 * S
    for ident in idents:
        got = tier.got(instance, ident)
        assert list(got) == list(range(10, (tier.now - NOON) // S // 10 * 10 + 1, 10)), ident
        assert all(values == {10.0} for end, values in got.items() if NOON + end * S <= through), (ident, got)


def restarted_can_lead(tier: Tier, opened_ns: int) -> bool:
    """Whether an instance that was started at that time may lead now."""
    return can_lead(tier.times, opened_ns, tier.now, 5 * S, unfed_ns=300 * S)


@row("a value that its consumer takes and never acknowledges (M3's ingest server, a policy without namespace)")
def never_acked() -> None:
    wire = one_consumer(ttl_s=300)
    tier = leading(wire)
    stuck = ids_of(2, "s", 1)[0]
    wire.pair.consumers["c1"].refuses = lambda value: decode_aggregated(value).id == stuck
    feed = fed(tier, counter(stuck, 1, "10s:31d"))
    tier.run(60, feed)
    opened_ns = tier.now
    for _ in range(4):
        tier.run(10, feed)
        assert max(tier.behind().values()) <= 10
    assert restarted_can_lead(tier, opened_ns)
    assert tier.output.waiting_bytes == sum(sink.pending for sink in tier.output.sinks) == 0, (
        "SIGTERM would wait for it"
    )
    whole(tier, "c1", EVERY_SHARD)


@row("a value that is given up: older than its TTL, beyond a full buffer, larger than a message may be")
def given_up() -> None:
    for options, fault in (
        ({"ttl_s": 8}, "ttl-expire"),
        ({"buffer_bytes": 1 << 12}, "buffer-full"),
        ({}, "message-too-large"),
    ):
        wire = Wire({"one": (SHARED, {"c1": ALL}), "two": (SHARED, {"c2": ALL})}, **options)
        tier = leading(wire)
        if fault == "message-too-large":
            tier.run(30, fed(tier, counter(b"x" * (1 << 12), 1)))
        else:
            wire.pair.disconnect("c2")
            tier.run(90, fed(tier))
        # What still fits into the buffer waits.
        assert max(tier.behind().values()) <= (50 if fault == "buffer-full" else 20), fault
        assert wire.pair.figure("message-dropped", f"reason={fault}") or wire.pair.figure(fault), fault
        assert tier.registry.counter("out_lost", output="final"), fault
        whole(tier, "c1", EVERY_SHARD)


@row("a consumer that has some of the shards is away")
def some_shards() -> None:
    wire = Wire({"coordinator": (REPLICATED, {"c1": (0, 1), "c2": (2, 3)})})
    tier = leading(wire)
    before_ns, away_ns = NOON, tier.now
    wire.pair.disconnect("c2")
    tier.run(60, fed(tier))
    behind = tier.behind()
    assert (max(behind[0], behind[1]), min(behind[2], behind[3]) >= 50) == (0, True)
    assert restarted_can_lead(tier, before_ns), "who holds those windows is a candidate as ever"
    assert not restarted_can_lead(tier, away_ns + 5 * S), "who lacks some of them is not"
    assert lacks_more(tier.times, Holding(away_ns + 5 * S), Holding(before_ns))
    wire.pair.connect("c2")
    tier.run(10, fed(tier))
    assert max(tier.behind().values()) == 0
    for shard in ALL:
        whole(tier, "c1" if shard < 2 else "c2", ids_of(shard))


@row("one consumer service of several is away")
def one_service() -> None:
    wire = Wire({"one": (SHARED, {"c1": ALL}), "two": (SHARED, {"c2": ALL})}, buffer_bytes=1 << 12)
    tier = leading(wire)
    wire.pair.disconnect("c2")
    tier.run(20, fed(tier))
    assert min(tier.behind().values()) >= 10, "what it has to get is kept"
    tier.run(300, fed(tier))
    assert all(tier.latest_s("c1", ident) < 1 for ident in EVERY_SHARD), (
        "the other gets everything in time, buffer full or not"
    )
    assert wire.pair.figure("message-dropped", "reason=buffer-full")
    whole(tier, "c1", EVERY_SHARD)


@row("every consumer is away")
def all_away() -> None:
    wire = Wire({"coordinator": (SHARED, {"c1": ALL, "c2": ALL})}, buffer_bytes=1 << 12)
    tier = leading(wire)
    wire.pair.disconnect("c1", "c2")
    tier.run(200, fed(tier))
    assert min(tier.behind().values()) >= 190
    wire.pair.connect("c1")
    tier.run(10, fed(tier))
    assert max(tier.behind().values()) == 0
    for ident in EVERY_SHARD:
        got = tier.got("c1", ident) | tier.got("c2", ident)
        assert len(got) == 23
        assert all(values == {10.0} for end, values in got.items() if end < 230)
    assert not tier.registry.counter("out_lost", output="final")


@row("one replica of a replicated consumer service is away, or answers nothing")
def one_replica() -> None:
    for silent in (False, True):
        wire = Wire({"coordinator": (REPLICATED, {"c1": ALL, "c2": ALL})})
        tier = leading(wire)
        if silent:
            wire.pair.consumers["c2"].acks = False
        else:
            wire.pair.disconnect("c2")
        tier.run(60, fed(tier))
        assert max(tier.behind().values()) <= (20 if silent else 0)
        assert all(tier.latest_s("c1", ident) < 1 for ident in EVERY_SHARD)
        whole(tier, "c1", EVERY_SHARD)


@row("one of several aggregators that own a rollup's shard is away")
def rollup_replica() -> None:
    target, source = ids_of(3, "r", 1)[0], ids_of(1, "s", 1)[0]
    rollups = Wire({"aggregator": (REPLICATED, {"self": ALL, "other": ALL})})
    tier = leading(one_consumer(), rollups=rollups)
    feed = fed(tier, counter(source, 1, rollup=target))
    tier.run(20, feed)
    rollups.pair.disconnect("other")
    tier.run(40, feed)
    assert 20 <= tier.behind()[1] <= 40
    tier.run(30, feed)
    assert max(tier.behind().values()) == 0, "after a minute nobody waits"
    rollups.pair.connect("other")
    tier.run(10, feed)
    rollups.pair.disconnect("other")
    tier.run(30, feed)
    behind = tier.behind()
    assert behind[1] >= 20
    assert max(behind[0], behind[2], behind[3]) == 0
    rollups.pair.connect("other")
    tier.run(10, feed)
    assert max(tier.behind().values()) == 0
    assert tier.latest_s("c1", target) <= SINGLE_NS / S + 20
    whole(tier, "c1", EVERY_SHARD)


@row("one flush handler of several is away, or has no topic")
def one_handler() -> None:
    for second in (Wire({"two": (SHARED, {"c2": ALL})}, buffer_bytes=1 << 12), Wire({})):
        first = Wire({"one": (SHARED, {"c1": ALL})})
        tier = Tier(first, second)
        tier.lead()
        second.pair.disconnect(*second.instances)
        tier.run(120, fed(tier))
        assert all(tier.latest_s("c1", ident) < 1 for ident in EVERY_SHARD)
        whole(tier, "c1", EVERY_SHARD)


@row("aggregators that own a rollup's shard are away")
def rollup_target() -> None:
    target = ids_of(3, "r", 1)[0]
    rollups = Wire({"aggregator": (REPLICATED, {"self": (0, 1, 2), "other": (3,)})}, ttl_s=30)
    tier = leading(one_consumer(), rollups=rollups)
    source = ids_of(1, "s", 1)[0]
    rollups.pair.disconnect("other")
    feed = fed(tier, counter(source, 1, rollup=target))
    tier.run(100, feed)
    behind = tier.behind()
    assert 20 <= behind[1] <= 40, "its source's shard waits, for the TTL of the topic at most"
    assert max(behind[0], behind[2], behind[3]) == 0
    assert tier.registry.counter("out_lost", output="forwarded")
    whole(tier, "c1", EVERY_SHARD)


@row("a rollup without sources")
def no_sources() -> None:
    tier = leading(one_consumer())
    target, source = ids_of(3, "r", 1)[0], ids_of(1, "s", 1)[0]
    tier.run(30, fed(tier, counter(source, 1, rollup=target)))
    assert tier.got("c1", target)
    opened_ns = tier.now
    tier.run(40, fed(tier))
    assert tier.behind(ROLLED_UP) == {3: 0}
    assert restarted_can_lead(tier, opened_ns)


@row("a list on a shard that gets no samples any more")
def quiet() -> None:
    tier = leading(one_consumer())
    tier.run(60, lambda: tier.take(counter(EVERY_SHARD[0], 1)))
    assert max(tier.behind().values()) == 0


@row("a list that nobody feeds any more after a restart: its rule is gone, or its host")
def unfed() -> None:
    tier = Tier(one_consumer())
    gone = ListId(KIND_TIMED, 30 * S)
    kept = ShardFlushTimes({10 * S: NOON - 10 * S, 3600 * S: NOON - 3600 * S}, {30 * S: NOON - 60 * S})
    tier.times = ShardSetFlushTimes(dict.fromkeys(ALL, kept))
    tier.lead()
    for _ in range(10):
        tier.run(10, fed(tier))
    assert max(tier.behind(gone).values()) <= 60
    assert max(tier.behind().values()) == 0
    assert restarted_can_lead(tier, tier.now - 100 * S)
    tier.flushing.forget_unused(NOON + 299 * S)
    assert tier.behind(gone)
    tier.flushing.forget_unused(NOON + 301 * S)
    tier.run(10, fed(tier))
    assert not tier.behind(gone), "in the end it is not kept"
    assert tier.behind()


@row("the same, where M3's instance leads: it leaves the time where it is")
def unfed_by_m3() -> None:
    now = NOON
    times = ShardSetFlushTimes({0: ShardFlushTimes({10 * S: now - 10 * S, 60 * S: now - 86400 * S})})
    opened = now - 60 * S
    assert not can_lead(times, opened, now, 5 * S)
    assert can_lead(times, opened, now, 5 * S, unfed_ns=300 * S)
    # Where another instance of ours says that it holds more, that does not count (``ShardSet``).
    assert lacks_more(times, Holding(opened), Holding(opened - 60 * S))


@row("a list with long windows that this leader holds only in part")
def long_windows() -> None:
    times = ShardSetFlushTimes({0: ShardFlushTimes({3600 * S: NOON - 3600 * S})})
    for complete_since, advances in ((NOON - 3 * 3600 * S, True), (NOON - 1800 * S, False)):
        tier = Tier(one_consumer())
        tier.times = times
        tier.lead()
        sends = tier.flushing.tick(NOON, Holding(complete_since))
        tier.carry_out(sends)
        assert (tier.flushing.times.time(HOUR, 0) == NOON) is advances, "another instance may hold the rest"
        assert can_lead(times, NOON - 1800 * S, NOON, 5 * S, longest_ns=120 * S), "and nobody waits for it"


@row("a list whose shards went to other instances")
def moved_away() -> None:
    old = ShardFlushTimes({10 * S: NOON - 86400 * S}, tombstoned=True)
    times = ShardSetFlushTimes({0: ShardFlushTimes({10 * S: NOON - 10 * S}), 9: old})
    assert can_lead(times, NOON - 60 * S, NOON, 5 * S)
    assert not lacks_more(times, Holding(NOON - 60 * S), Holding(NOON - 600 * S))
    tier = Tier(one_consumer())
    tier.times = times
    tier.lead()
    tier.run(30, fed(tier))
    assert max(tier.behind().values()) == 0


@row("a worker that is down")
def worker_down() -> None:
    tier = leading(one_consumer(), workers=((0, 1), (2, 3)))
    del tier.engines[1]
    tier.flushing.worker_down(1)
    tier.run(60, fed(tier))
    behind = tier.behind()
    assert (max(behind[0], behind[1]), min(behind[2], behind[3]) >= 60) == (0, True)


@row("a flush of which a part is on its way when its worker dies")
def broken_off() -> None:
    wire = one_consumer()
    tier = leading(wire, workers=((0, 1), (2, 3)))
    wire.pair.consumers["c1"].acks = False
    tier.run(6, fed(tier))
    tier.flushing.worker_down(1)
    tier.start_worker(1)
    wire.pair.release("c1")
    wire.pair.consumers["c1"].acks = True
    tier.run(30, fed(tier))
    assert max(tier.behind().values()) == 0
