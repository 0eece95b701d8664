"""What follows from the engine's options: how late forwarded metrics may be."""

import pytest

from aggregator.engine.options import EngineOptions, forwarding_delay_ns, max_jitter_ns

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


@pytest.mark.parametrize(
    ("interval_s", "jitter_s"), [(1, 1), (10, 10), (60, 60), (600, 300), (3600, 900), (6 * 3600, 90 * 60)]
)
def test_max_jitter_as_in_m3(interval_s: int, jitter_s: int) -> None:
    jitters = ((MINUTE, 1.0), (10 * MINUTE, 0.5), (60 * MINUTE, 0.25))
    assert max_jitter_ns(jitters, interval_s * SECOND) == jitter_s * SECOND


@pytest.mark.parametrize(
    ("jitter", "resolution_s", "times", "delay_s"),
    [
        (True, 1, 1, 6), (True, 1, 3, 16), (True, 10, 1, 10), (True, 10, 3, 20), (True, 600, 1, 155),
        (True, 600, 3, 165), (False, 1, 1, 6), (False, 1, 3, 16), (False, 10, 1, 15), (False, 10, 3, 25),
        (False, 600, 1, 605), (False, 600, 3, 615),
    ],
)  # fmt: skip
def test_forwarding_delay_as_in_m3(jitter: bool, resolution_s: int, times: int, delay_s: int) -> None:
    jitters = ((5 * SECOND, 1.0), (10 * SECOND, 0.5), (MINUTE, 0.5), (10 * MINUTE, 0.25)) if jitter else ()
    assert forwarding_delay_ns(jitters, 5 * SECOND, 0, resolution_s * SECOND, times) == delay_s * SECOND


def test_a_constant_forwarding_delay_wins() -> None:
    options = EngineOptions(
        num_shards=1,
        topic_shards=1,
        forwarding_max_single_delay_ns=5 * SECOND,
        forwarding_max_const_delay_ns=MINUTE,
        flush_jitters=((MINUTE, 1.0),),
    )
    assert options.forwarding_delay_ns(10 * SECOND, 2) == 80 * SECOND
