"""What comes out after a process ended: every window whose flush time is not in the KV, once more with the same value, and nothing else."""

import random
from collections import Counter

import pytest
from tests.aggregator.supervisor.output_model import EVERY_SHARD, SHARDS, S, counter, ids_of
from tests.aggregator.supervisor.pair_model import Pair

from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, ListId
from aggregator.supervisor.flushing.flush_times import FlushTimes
from m3cluster.flush_times import ShardSetFlushTimes
from m3metrics.shard import shard_of

WINDOW_S = 10
TARGET = ids_of(3, "r", 1)[0]
SOURCE = ids_of(1, "s", 1)[0]
SOURCES, ROLLUPS = ListId(KIND_STANDARD, WINDOW_S * S), ListId(KIND_FORWARDED, WINDOW_S * S, 1)


def came(pair: Pair) -> Counter[tuple[bytes, int, float]]:
    """Id, time in seconds since the beginning and value of everything that arrived downstream, and how often."""
    return Counter(
        (ident, (end_ns - pair.began_ns) // S, value)
        for (_, ident, end_ns), values in pair.members["a"].values.items()
        for _, value in values
    )


def covered(pair: Pair, times: ShardSetFlushTimes, ident: bytes, at_s: int) -> bool:
    """Whether flush times say that a window is flushed: a rollup's is named by its start, any other by its end."""
    known = FlushTimes(times)
    through_s = (known.time(ROLLUPS if ident == TARGET else SOURCES, shard_of(ident, SHARDS)) - pair.began_ns) / S
    return at_s < through_s if ident == TARGET else at_s <= through_s


@pytest.mark.parametrize("seed", range(20))
def test_what_flush_times_do_not_cover_comes_once_more_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    pair = Pair(single_ns=WINDOW_S * S)
    sent: list[float] = []

    def feed() -> None:
        sent.append(chance.randint(1, 9))
        pair.send(counter(SOURCE, int(sent[-1]), rollup=TARGET), *(counter(i, int(sent[-1])) for i in EVERY_SHARD))

    pair.kill("b")
    # A replica that is away for so long is not waited for. The end of the run is just before that of a window.
    pair.run(WINDOW_S * chance.randint(7, 10) - 0.2, feed)
    consumer = pair.members["a"].wires[0].pair.consumers["c"]
    if chance.random() < 0.3:
        # Nothing is acked for some windows.
        consumer.acks = False
        pair.run(chance.uniform(1, 25), feed)
    else:
        # Some values are not, until the process ends, before they count as overtaken.
        stuck = chance.sample([*EVERY_SHARD, TARGET], chance.randint(1, 6))
        consumer.refuses = lambda value: any(ident in value for ident in stuck)
        pair.run(chance.uniform(0.4, 1.8), feed)
    before, times = came(pair), pair.times
    pair.kill("a")
    pair.run(chance.choice((0.4, 3)), feed)
    pair.start("a")
    pair.lead("a")
    killed_s = (pair.now - pair.began_ns) // S
    pair.run(3, feed)
    again = came(pair) - before
    assert any(not covered(pair, times, ident, at) for ident, at, _ in before)
    expected = {one: 1 for one in before if not covered(pair, times, one[0], one[1])}
    assert {one: n for one, n in again.items() if one in before} == expected
    fresh = [one for one in again if one not in before]
    # What had not come at all is due now: the same window never comes with another value.
    assert not {(ident, at) for ident, at, _ in fresh} & {(ident, at) for ident, at, _ in before}
    assert all(at <= killed_s + 3 for _, at, _ in fresh)
    pair.run(40, feed)
    total = came(pair)
    assert len({(ident, at) for ident, at, _ in total}) == len(total), "a window came with two values"
