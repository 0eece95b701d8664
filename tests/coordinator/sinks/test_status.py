"""What is said of a sink."""

import pytest

from coordinator.sinks.status import Ages, Rate, SinkStatus
from m3x.instrument import Registry

_SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("status", "problems"),
    [
        ({}, []),
        ({"error": "503", "failing_s": 29.0}, []),
        (
            {"error": "503", "failing_s": 30.0},
            ["sink a fails: 503; 7 values wait (2 MiB, the oldest 1m5s)"],
        ),
        (
            {"error": "401", "held": True},
            [
                "sink a does not take values, and waiting alone will not cure it: 401; 7 values wait (2 MiB, the oldest 1m5s)"
            ],
        ),
        (
            {"full": True, "disk_bytes": 9 << 20, "most_bytes": 10 << 20, "error": "503", "failing_s": 40.0},
            [
                "sink a: its queue is full (9 of 10 MiB), whoever writes to it waits; "
                "7 values wait (2 MiB, the oldest 1m5s): 503"
            ],
        ),
        ({"trouble": ["cannot append"]}, ["sink a: cannot append; 7 values wait (2 MiB, the oldest 1m5s)"]),
        (
            {"dropped": 12, "dropped_ago_s": 60.0},
            ["sink a: 12 values dropped as its queue was full, the last ones 1m ago"],
        ),
        ({"dropped": 12, "dropped_ago_s": 301.0}, []),
        (
            {"unreadable": 12, "unreadable_ago_s": 60.0},
            ["sink a: 12 values lost as its queue is damaged (the log says where), found 1m ago"],
        ),
        ({"unreadable": 12, "unreadable_ago_s": 301.0}, []),
        ({"age_s": 119.0}, []),
        (
            {"age_s": 120.0, "rate_in": 5000.2, "rate_out": 7000.0},
            ["sink a is late: 7 values wait (2 MiB, the oldest 2m); 5000 values a second come, 7000 go"],
        ),
        ({"parked_values": 3, "parked_s": 29.0, "parked_why": "shard 7"}, []),
        (
            {"parked_values": 3, "parked_s": 90.0, "parked_why": "shard 7"},
            ["sink a: 3 values wait for themselves alone, the first of them since 1m30s: shard 7"],
        ),
        # One lane fails for long while others succeed.
        (
            {"age_s": 120.0, "rate_in": 5000.0, "rate_out": 4900.0, "error": "500", "failing_s": 2.0},
            ["sink a is late: 7 values wait (2 MiB, the oldest 2m); 5000 values a second come, 4900 go: 500"],
        ),
    ],
)
def test_problems(status: dict[str, object], problems: list[str]) -> None:
    known = {"name": "a", "waiting_values": 7, "waiting_bytes": 2 << 20, "age_s": 65.2}
    one = SinkStatus(**known | status)  # type: ignore[arg-type]
    assert one.problems() == problems


@pytest.mark.parametrize(
    ("status", "held"),
    [(SinkStatus(name="a"), 0), (SinkStatus(name="a", held=True), 1), (SinkStatus(name="a", trouble=["no space"]), 1)],
)
def test_held_is_a_store_or_a_queue_that_needs_somebody(status: SinkStatus, held: int) -> None:
    registry = Registry()
    status.gauge(registry.scope("sink"))
    assert f"sink_held {held}.0" in registry.render().decode().splitlines()


def test_a_rate_follows_what_happens() -> None:
    rate = Rate(0, over_s=10.0)
    for k in range(1, 61):
        rate.observe(500 * k, k * _SECOND)
    assert rate.value == pytest.approx(500, rel=0.01)
    for k in range(61, 121):
        rate.observe(30_000, k * _SECOND)
    assert rate.value < 5


def test_ages_are_known_to_a_second() -> None:
    ages = Ages()
    assert ages.at(5) is None
    for k in range(100):
        ages.note(10 * k, 100 * _SECOND + k * _SECOND // 4)
    for number in (0, 5, 444, 999):
        appended = 100 * _SECOND + number // 10 * _SECOND // 4
        found = ages.at(number)
        assert found is not None
        assert 0 <= appended - found < _SECOND
    # What is before it is forgotten.
    assert ages.at(3) is None


def test_ages_take_little_memory_for_a_long_time() -> None:
    ages = Ages()
    for k in range(100_000):
        ages.note(k, k * _SECOND)
    assert len(ages._firsts) <= 4096
    found = ages.at(50_000)
    assert found is not None
    assert 0 <= 50_000 * _SECOND - found <= 100 * _SECOND
