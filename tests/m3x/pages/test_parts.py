"""Figures in, HTML out."""

import re

import numpy as np
import pytest

from m3x.instrument import Registry
from m3x.pages import (
    Chart,
    Edge,
    History,
    Holder,
    Lane,
    Line,
    Stage,
    Stretch,
    amount,
    bullets,
    chart,
    facts,
    flow,
    frame,
    growth,
    shard_map,
    size,
    stretches,
    table,
    traffic,
)
from m3x.pages.history import EVERY_S

NASTY = "<script>alert('&')</script>"
NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.4, "0.4"), (0.123, "0.12"), (7, "7"), (12.6, "13"), (1234, "1,234"), (12_345, "12.3 k"),
        (234_567, "235 k"), (4_500_000, "4.5 M"), (2.5e9, "2.5 G"), (NAN, "–"),
    ],
)  # fmt: skip
def test_amounts(value: float, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"), (812, "812 B"), (3200, "3.1 KiB"), (200 << 10, "200 KiB"), (1 << 20, "1.0 MiB"), (3 << 29, "1.5 GiB"),
        (5 << 40, "5.0 TiB"), (NAN, "–"),
    ],
)  # fmt: skip
def test_sizes(value: float, text: str) -> None:
    assert size(value) == text


def test_whatever_is_shown_is_escaped() -> None:
    holder = Holder(NASTY, NASTY, NASTY, [Stretch(0, 3, "available", NASTY)])
    parts = [
        bullets(NASTY, [NASTY], "notes"),
        facts([(NASTY, NASTY)]),
        table([NASTY], [["safe"]], caption=NASTY),
        flow([Lane(NASTY, [Stage(NASTY, [NASTY], NASTY), Edge(1.0, NASTY, NASTY, NASTY)])]),
        chart(Chart(NASTY, [Line(NASTY, np.ones(3))], NASTY, lambda _: NASTY)),
        shard_map([holder]),
        growth([(NASTY, 1, 2)], [(NASTY, 1, 2, 3)]),
        traffic(2, 1, [(NASTY, 1.0)], [], [(NASTY, 1.0)], [(NASTY, NASTY, 1.0)]),
        frame(NASTY, NASTY, "", NASTY, "", {NASTY: NASTY}).partition("<script>")[0],
    ]
    for part in parts:
        assert "&lt;script" in part
        assert "<script" not in part


def test_names_that_grow() -> None:
    text = growth([(f"name{i}", 1234, 20_000) for i in range(12)], [("pod", 5, 6, 7)])
    assert text.count("name") == 10 + len(["metric name", "label name"])
    assert "<td class=text>pod</td><td>7</td><td>5</td><td>6</td>" in text
    assert "No new series" in growth([], [])


def test_names_that_send_most() -> None:
    rates = [(f"name{i}", 1234.0 - i) for i in range(12)]
    text = traffic(1000, 100, rates, rates[:2], [], [])
    assert text.count("name") == 10 + 2 + 2 * len(["metric name"])
    assert "Estimated from 100 of 1,000 messages since the start, one of 10" in text
    assert "refusals" not in text
    assert "By timers" not in text
    assert "No samples so far" in traffic(0, 0, [], [], [], [])


def test_a_lane_says_what_waits_and_what_is_wrong() -> None:
    text = flow([Lane("in", [Stage("a", ["fine"]), Edge(12.0, waiting="3 B wait"), Stage("b", trouble="is away")])])
    assert '<li class="stage"><b>a</b><span>fine</span></li>' in text
    assert '<li class="edge moving">' in text
    assert "3 B wait" in text
    assert '<li class="stage bad"><b>b</b><span class="trouble">is away</span></li>' in text
    assert '<li class="edge">' in flow([Lane("in", [Stage("a"), Edge(NAN), Stage("b")])])


def test_shards_next_to_each_other_are_one_stretch() -> None:
    states = {shard: ("available", "") for shard in (0, 1, 2, 5)} | {3: ("initializing", "cut over in 9 s")}
    found = stretches(states, 8)
    assert [(one.first, one.last, one.kind) for one in found] == [
        (0, 2, "available"), (3, 3, "initializing"), (4, 4, "none"), (5, 5, "available"), (6, 7, "none"),
    ]  # fmt: skip
    text = shard_map([Holder("one", "leader", "", found)])
    assert 'aria-label="shards 0–2 available; shard 3 initializing, cut over in 9 s; shard 5 available"' in text
    assert "flex-grow:3" in text
    assert 'aria-label="no shards"' in shard_map([Holder("two", "", "", stretches({}, 8))])


def test_a_chart_has_gaps_where_nothing_is_known_and_says_its_figures() -> None:
    text = chart(Chart("Rate", [Line("in", np.array([1.0, 2.0, NAN, 4.0, 3.0]))], "today"))
    (path,) = re.findall(r'<path class="k0" d="([^"]*)"', text)
    assert path.count("M") == 2
    assert "now 3, at most 4" in text
    assert '<path class="k0"' not in chart(Chart("Rate", [Line("in", np.full(5, NAN))], 5.0))
    assert "now –, at most –" in chart(Chart("Rate", [Line("in", np.full(5, NAN))], 5.0))


@pytest.mark.parametrize(
    ("known", "said"), [(0, "2 minutes"), (10, "2 minutes"), (24, "2 minutes"), (120, "10 minutes"), (720, "hour")]
)
def test_a_chart_begins_with_what_is_known(known: int, said: str) -> None:
    values = np.full(720, NAN)
    values[720 - known :] = 1.0
    text = chart(Chart("Rate", [Line("in", values), Line("out", np.full(720, NAN))], 5.0))
    assert f"the last {said}</span>" in text


def test_peaks_of_many_points_stay() -> None:
    values = np.zeros(7200)
    values[3001] = 5.0
    values[:100] = NAN
    text = chart(Chart("Rate", [Line("in", values)], "today"))
    assert "at most 5" in text
    assert len(re.findall(r"[ML]", text.partition('<path class="k0"')[2].partition("/>")[0])) <= 360


def test_a_history_has_rates_over_all_labels_and_begins_anew_with_a_counter() -> None:
    registry = Registry()
    scope = registry.scope("svc")
    history = History(registry, "svc", ["seen", "held", "never"])
    scope.tagged(side="a").count("seen", 10)
    scope.gauge("held", 7)
    history.take()
    assert np.isnan(history.rate("seen"))
    scope.tagged(side="a").count("seen", 10)
    scope.tagged(side="b").count("seen", 5)
    history.take()
    assert history.rate("seen") == 15 / EVERY_S
    assert history.now("held") == 7
    assert np.isnan(history.rate("never"))
    # What was never counted takes nothing away from what was.
    assert history.rate("never", "seen") == 15 / EVERY_S
    assert np.isnan(history.now("never"))
    scope.tagged(side="a").count("seen", -18)
    history.take()
    assert history.rate("seen") == 7 / EVERY_S
    assert len(history.values("seen")) == len(history.rates("seen")) + 1
    with pytest.raises(KeyError):
        history.now("svc_seen")
