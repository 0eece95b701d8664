"""Rollups of a pair: what is forwarded while one of the two is away is not lost with the one that forwarded it."""

import random

import pytest
from tests.aggregator.supervisor.output_model import SHARDS, S, ids_of
from tests.aggregator.supervisor.pair_model import Pair

from aggregator.lists import KIND_STANDARD, KIND_TIMED, ListId
from aggregator.supervisor.flushing.flush_times import FlushTimes
from m3metrics.codec import CounterWithMetadatas, TimedMetricWithMetadatas, encode_metric
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.metric import MetricType
from m3metrics.pipeline import RollupOp
from m3metrics.policy import StoragePolicy
from m3msg.producer.rows import DROPPED

SUM = 1 << 7
TARGET = ids_of(3, "r", 1)[0]
PLAIN = ids_of(2, "p", 1)[0]
SOURCES = [ids_of(shard, "s", 1)[0] for shard in range(SHARDS)]
WINDOW_S = 10


class Load:
    """A sample a second of every source, and of ``PLAIN``, which is in no rollup; each window of the rollup is to be ``VALUE``."""

    VALUE = float(WINDOW_S * len(SOURCES))

    def __init__(self, pair: Pair, *, timed: bool) -> None:
        self.pair = pair
        self.timed = timed

    def __call__(self) -> None:
        rolled = PipelineMetadata(
            aggregation_id=SUM, storage_policies=(StoragePolicy.parse("10s:2d"),), pipeline=(RollupOp(TARGET, SUM),)
        )
        plain = PipelineMetadata(aggregation_id=SUM, storage_policies=(StoragePolicy.parse("10s:2d"),))
        for ident in (*SOURCES, PLAIN):
            metadatas = (StagedMetadata(pipelines=(plain if ident == PLAIN else rolled,)),)
            if self.timed:
                metric = TimedMetricWithMetadatas(
                    metric_type=MetricType.COUNTER, id=ident, time_ns=self.pair.now, value=1.0, metadatas=metadatas
                )
            else:
                metric = CounterWithMetadatas(id=ident, value=1, metadatas=metadatas)
            self.pair.send(encode_metric(metric))


@pytest.fixture(params=[False, True], ids=["untimed", "timed"])
def load(request: pytest.FixtureRequest) -> Load:
    return Load(Pair(), timed=request.param)


def assert_whole(pair: Pair, until_s: int) -> None:
    """Every window of the rollup that ends by then has come, with one value."""
    came = pair.came(TARGET)
    ends = range(WINDOW_S, until_s + 1, WINDOW_S)
    assert [came.get(end) for end in ends] == [{Load.VALUE}] * len(ends)
    plain = pair.came(PLAIN)
    assert [plain.get(end) for end in ends] == [{float(WINDOW_S)}] * len(ends)


def flushed_s(load: Load) -> float:
    """The end of the last window of the sources that is flushed for good on all shards, in seconds since the beginning; those with times
    are due two windows later than others, which is left out."""
    known, window_ns = FlushTimes(load.pair.times), WINDOW_S * S
    list_id = ListId(KIND_TIMED if load.timed else KIND_STANDARD, window_ns)
    through_ns = min(known.time(list_id, shard) for shard in range(SHARDS))
    return (through_ns - load.pair.began_ns) // window_ns * WINDOW_S + (2 * WINDOW_S if load.timed else 0)


def test_nothing_dies(load: Load) -> None:
    load.pair.run(200, load)
    assert_whole(load.pair, 120)


def test_the_leader_dies_before_the_follower_that_is_back_has_what_was_forwarded_meanwhile(load: Load) -> None:
    """The leader comes back and leads, until the other one has it; then that one leads."""
    pair = load.pair
    pair.run(34, load)
    pair.kill("b")
    pair.run(17, load)
    pair.start("b", connected=False)
    assert flushed_s(load) == 30
    pair.run(1, load)
    pair.kill("a")
    pair.run(4, load)
    pair.start("a")
    pair.lead("a")
    pair.run(2, load)
    assert flushed_s(load) >= 50
    pair.run(5, load)
    pair.lead("b")
    pair.run(160, load)
    assert_whole(pair, 120)


def test_the_leader_dies_for_good_before_the_follower_has_what_was_forwarded(load: Load) -> None:
    """What the other one holds of the sources it forwards once more, to itself: with times all, else windows that lie clear of the gap."""
    pair = load.pair
    pair.run(31, load)
    pair.kill("b")
    pair.run(8, load)
    pair.start("b", connected=False)
    pair.run(4, load)
    assert flushed_s(load) == 30
    pair.kill("a")
    pair.run(8, load)
    pair.lead("b")
    pair.run(160, load)
    assert_whole(pair, 120)


def test_rollups_that_are_overdue_when_a_term_begins_wait_for_what_is_forwarded_once_more() -> None:
    pair = Pair(single_ns=10 * S)
    load = Load(pair, timed=False)
    pair.run(38, load)
    pair.cut("a", "b")
    pair.run(28, load)
    assert flushed_s(load) == 30
    pair.kill("a")
    pair.run(9, load)
    pair.lead("b")
    pair.run(60, load)
    assert_whole(pair, 90)


def test_what_comes_late_to_a_follower_is_not_too_late_for_a_rollup_that_nobody_has_flushed() -> None:
    pair = Pair(single_ns=10 * S)
    load = Load(pair, timed=False)
    pair.run(38, load)
    pair.cut("a", "b")
    pair.run(25, load)
    pair.join("a", "b")
    pair.run(1, load)
    assert flushed_s(load) == 60
    pair.kill("a")
    pair.lead("b")
    pair.run(60, load)
    assert_whole(pair, 90)


def test_values_that_were_delivered_do_not_come_again_from_who_has_less() -> None:
    """The leader never comes back, and the other one lacks samples of what flush times wait for."""
    pair = Pair()
    load = Load(pair, timed=False)
    pair.run(38, load)
    pair.kill("b")
    pair.run(18, load)
    pair.start("b", connected=False)
    pair.run(1, load)
    assert flushed_s(load) == 30
    pair.kill("a")
    pair.run(15, load)
    pair.lead("b")
    pair.run(60, load)
    plain = pair.came(PLAIN)
    assert [plain[end] for end in (40, 50, 70)] == [{10.0}] * 3
    assert plain[60] != {10.0}, "this one nobody else had"
    assert flushed_s(load) >= 120


def test_a_leader_that_is_back_gives_no_value_twice(load: Load) -> None:
    pair = load.pair
    pair.run(38, load)
    pair.kill("b")
    pair.run(14, load)
    pair.kill("a")
    pair.run(3, load)
    pair.start("a")
    pair.lead("a")
    pair.run(60, load)
    times = [len(values) for (_, ident, _), values in pair.members["a"].values.items() if ident == PLAIN]
    assert times == [1] * len(times)


def test_a_follower_that_is_back_gets_its_backlog_and_holds_nothing_up(load: Load) -> None:
    pair = load.pair
    pair.run(31, load)
    pair.kill("b")
    pair.run(15, load)
    assert flushed_s(load) == 30
    pair.start("b")
    pair.run(1, load)
    assert flushed_s(load) == 40
    pair.run(5, load)
    pair.lead("b")
    pair.run(160, load)
    assert_whole(pair, 120)


def test_an_instance_that_is_away_for_long_is_not_waited_for(load: Load) -> None:
    pair = load.pair
    pair.run(31, load)
    pair.kill("b")
    pair.run(58, load)
    assert flushed_s(load) == 30
    pair.run(5, load)
    assert flushed_s(load) == 90
    pair.run(40, load)
    assert flushed_s(load) == 130
    assert_whole(pair, 50)


def test_a_follower_whose_backlog_was_given_up_is_not_waited_for(load: Load) -> None:
    pair = load.pair
    pair.run(31, load)
    pair.kill("b")
    pair.run(15, load)
    for lane in pair.members["a"].rollup_wire.lanes("b"):
        lane.give_up_all(DROPPED)
    pair.run(1, load)
    assert flushed_s(load) == 40


def test_what_is_forwarded_is_owed_to_this_very_instance_as_well(load: Load) -> None:
    """Its front was away for a moment."""
    pair = load.pair
    pair.run(38, load)
    pair.cut("a", "a")
    pair.run(4, load)
    assert flushed_s(load) == 30
    pair.join("a", "a")
    pair.run(1, load)
    assert flushed_s(load) == 40
    pair.run(160, load)
    assert_whole(pair, 120)


@pytest.mark.parametrize("seed", range(40))
def test_whoever_dies_and_leads_every_window_comes_with_its_whole_value(seed: int) -> None:
    """Both die, come back, lose sight of each other and lead in a random order, each for less than half a minute.

    Samples bring their times, so that whoever is back holds all of them.
    """
    chance = random.Random(seed)
    pair = Pair()
    load = Load(pair, timed=True)
    leader: str | None = "a"
    since: dict[str, float] = {}
    """When somebody died, or was cut off, by what ends it: ``start a``, ``join ab``."""
    log: list[str] = []

    def now_s() -> float:
        return (pair.now - pair.began_ns) / S

    def do(what: str) -> None:
        nonlocal leader
        log.append(f"{now_s():.1f} {what}")
        kind, who = what.split()
        since.pop(what, None)
        if kind == "kill":
            pair.kill(who)
            since[f"start {who}"] = now_s()
            for key in [key for key in since if key.startswith("join") and who in key]:
                del since[key]
            leader = None if leader == who else leader
        elif kind == "start":
            seen = chance.random() < 0.5
            pair.start(who, connected=seen)
            other = "ab".replace(who, "")
            if not seen and pair.members[other].alive:
                since[f"join {other}{who}"] = now_s()
        elif kind == "cut":
            pair.cut(*who)
            since[f"join {who}"] = now_s()
        elif kind == "join":
            pair.join(*who)
        else:
            pair.lead(who)
            leader = who

    for _ in range(30):
        pair.run(chance.choice((0.4, 1, 3, 6)), load)
        overdue = [what for what, at in since.items() if now_s() - at > 20]
        alive = [name for name, member in pair.members.items() if member.alive]
        kinds = overdue or [*since, *(f"kill {name}" for name in alive), *(f"lead {name}" for name in alive)]
        if not overdue and len(alive) == 2:
            kinds += [f"cut {pair_of}" for pair_of in ("ab", "ba", "aa", "bb") if f"join {pair_of}" not in since]
        do(chance.choice(kinds))
    while since:
        do(next(iter(since)))
    pair.run(1, load)
    do(f"lead {chance.choice('ab')}")
    end_s = int(now_s()) // WINDOW_S * WINDOW_S
    pair.run(110, load)
    try:
        assert_whole(pair, end_s)
    except AssertionError:
        print("\n".join(log))
        raise
