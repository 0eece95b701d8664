"""Messages in the order in which their entries were made, and in others: each value reaches its own series."""

import random

from tests.aggregator.engine.engine_calls import NOW, SECOND, engine_of, options, send
from tests.aggregator.engine.test_slim import counter, gauge, values

from m3metrics.aggregation import AggregationType

SUM, LAST = AggregationType.SUM, AggregationType.LAST


def test_any_order_of_known_series_adds_to_the_same_series() -> None:
    """Runs of the order in which they came first, gaps in it, repeats, other orders; entries that expired are made anew elsewhere."""
    r = random.Random(5)
    engine = engine_of(options(counter_prefix="", entry_ttl_ns=5 * SECOND))
    ids = [b"series-%04d" % k for k in range(900)]
    now = NOW
    for window in range(5):
        expected: dict[bytes, int] = {}
        for turn in range(4):
            chosen = list(ids)
            if turn == 1:
                chosen = [ident for ident in ids if r.random() < 0.9]
            elif turn == 2:
                starts = sorted(r.sample(range(len(ids)), 12))
                chosen = [ident for start in r.sample(starts, 12) for ident in ids[start : start + r.randint(1, 300)]]
            elif turn == 3:
                r.shuffle(chosen)
            batch = [(ident, r.randint(1, 99)) for ident in chosen]
            assert send(engine, [counter(ident, value, SUM) for ident, value in batch], now, segments=3) == []
            for ident, value in batch:
                expected[ident] = expected.get(ident, 0) + value
        target = now + 10 * SECOND
        found = values(engine, target)
        assert {ident.removesuffix(b"sum"): value for ident, (value, _) in found.items()} == expected, window
        now = target
        r.shuffle(ids)
        # A third of them is there when the others expire; rows that become free are used in another order.
        assert send(engine, [counter(ident, 0, SUM) for ident in ids[:300]], now) == []
        engine.expire(now + 3 * SECOND)
        assert {ident.removesuffix(b"sum") for ident in values(engine, now + 10 * SECOND)} == set(ids[:300])
        now += 10 * SECOND


def test_the_same_id_of_another_type_is_another_series() -> None:
    engine = engine_of(options(counter_prefix="", gauge_transform="empty"))
    ids = [b"series-%03d" % k for k in range(20)]
    for _ in range(3):
        for message in ([counter(ident, 1, SUM) for ident in ids], [gauge(ident, 2.0, LAST) for ident in ids]):
            assert send(engine, message, NOW) == []
    assert engine.stats()[1]["engine.entries"] == 40
