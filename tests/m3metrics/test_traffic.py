"""The sample of which names send most, cost most and are refused most."""

import pytest
from tests.m3metrics.test_growth import Clock

from m3metrics.traffic import MOST_AT_ONCE, NameRate, Refusals, Traffic, TrafficReport, merged_traffic


def send(traffic: Traffic, names: list[bytes]) -> int:
    """A batch with one message of each name in this order; how many of them were looked at."""
    chosen = traffic.passed(len(names))
    for number in chosen:
        traffic.add(names[number], 1, 2, 8)
    return len(chosen)


def test_of_few_messages_each_counts() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    for _ in range(50):
        clock.now_s += 0.1
        send(traffic, [b"up"])
        send(traffic, [b"http_requests"])
    report = traffic.report()
    assert (report.messages, report.looked_at) == (100, 100)
    for rates, of_each in ((report.samples, 10), (report.updates, 20), (report.timer_bytes, 80)):
        assert {one.name: one.per_second for one in rates} == pytest.approx({"http_requests": of_each, "up": of_each})


@pytest.mark.parametrize("batch", [7, 1000, 30_000])
def test_bursts_that_always_come_in_one_order_are_seen_as_they_are(batch: int) -> None:
    """30,000 messages every ten seconds: half of one name first, then a third, then a sixth."""
    clock = Clock()
    traffic = Traffic(clock)
    burst = [b"a"] * 15_000 + [b"b"] * 10_000 + [b"c"] * 5000
    looked_at = 0
    for _ in range(60):
        for first in range(0, len(burst), batch):
            looked_at += send(traffic, burst[first : first + batch])
        clock.now_s += 10
        report = traffic.report()
    assert looked_at == report.looked_at
    assert 60 * 20 <= looked_at <= 60 * 4 * MOST_AT_ONCE
    rates = {one.name: one.per_second for one in report.samples}
    for name, share in (("a", 1 / 2), ("b", 1 / 3), ("c", 1 / 6)):
        assert rates[name] == pytest.approx(3000 * share, rel=0.25)


def test_looks_a_second_are_few_however_many_messages_come() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    looked_at = []
    for second in range(20):
        looked_at.append(0)
        for _ in range(100):
            clock.now_s += 0.01
            looked_at[-1] += send(traffic, [b"up"] * (10_000 if second >= 10 else 3))
    # Also in the second in which it becomes a thousand times more.
    assert max(looked_at) <= 8 * MOST_AT_ONCE
    assert max(looked_at[12:]) <= 2 * MOST_AT_ONCE
    assert min(looked_at) > 5


def test_what_has_stopped_gives_way_and_names_are_bounded() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    for k in range(3000):
        clock.now_s += 0.1
        send(traffic, [b"name_%d" % k, b"hot"])
    assert traffic.report(1000).samples[0].name == "hot"
    assert len(traffic.report(1000).samples) <= 256
    for _ in range(3000):
        clock.now_s += 0.1
        send(traffic, [b"new"])
    rates = {one.name: one.per_second for one in traffic.report(1000).samples}
    assert rates["new"] == pytest.approx(10, rel=0.1)
    assert rates["hot"] < 0.5


def test_refusals_have_their_reason() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    clock.now_s += 10
    traffic.refused(b"up", "frame", 30)
    traffic.refused(b"a" * 1000, "memory-limit", 20)
    report = traffic.report()
    assert [(one.name, one.reason) for one in report.refused] == [("up", "frame"), ("a" * 256, "memory-limit")]
    assert [one.per_second for one in report.refused] == pytest.approx([3, 2])


def test_reports_of_several_workers_add_up() -> None:
    one = TrafficReport(
        10, 5, [NameRate("up", 1), NameRate("down", 3)], [NameRate("up", 2)], [], [Refusals("up", "frame", 1)]
    )
    two = TrafficReport(
        20, 6, [NameRate("up", 4)], [], [NameRate("t", 8)], [Refusals("up", "frame", 1), Refusals("up", "decode", 5)]
    )
    assert merged_traffic([one, two]) == TrafficReport(
        30, 11, [NameRate("up", 5), NameRate("down", 3)], [NameRate("up", 2)], [NameRate("t", 8)],
        [Refusals("up", "decode", 5), Refusals("up", "frame", 2)],
    )  # fmt: skip
    assert merged_traffic([]) == TrafficReport()


def test_what_is_told_later_counts_as_when_it_was_chosen() -> None:
    clock = Clock()
    traffic = Traffic(clock)
    assert traffic.passed(1) == [0]
    assert traffic.step == 1
    chosen, step = traffic.passed(64_000), 2000
    assert traffic.step == step
    assert len(chosen) >= 16
    traffic.add(b"later", 1, 1, 0, 1)
    traffic.add(b"now", 1, 1, 0)
    clock.now_s += 10
    assert {one.name: one.per_second for one in traffic.report().samples} == {"later": 0.1, "now": step / 10}
