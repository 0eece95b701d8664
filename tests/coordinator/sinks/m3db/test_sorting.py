"""What of a batch may be sent now."""

from collections.abc import Sequence

import numpy as np
import pytest
from tests.coordinator.sinks.batches import LONG, SHORT, Row, batch_of
from tests.coordinator.sinks.m3db.registry import HOUR, SECOND, registered, registry_of

from coordinator.config import Namespace
from coordinator.sinks.m3db.sorting import Absences, Sendable, sort
from coordinator.sinks.m3db.targets import Targets
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import RefusedWhy
from coordinator.sinks.values import UNAGGREGATED, Destination, TimeUnit
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy

NOW = 1_700_000_000 * SECOND + SECOND // 2
SERIES = encode_tags([(b"a", b"b")])
FINE = Destination.of(StoragePolicy.parse("10s@1ns:2d"))


def targets_of(**more: object) -> Targets:
    targets = Targets()
    targets.put(registry_of(registered(**more), registered("raw", 0)))  # type: ignore[arg-type]
    return targets


def sorted_of(
    rows: Sequence[Row], targets: Targets | None = None, absences: Absences | None = None, **more: int
) -> Sendable:
    batch = batch_of(SeriesTable(), rows)
    return sort(batch, targets or targets_of(), absences or Absences(0), more.get("now", NOW), more.get("offset", 0))


def test_columns_are_those_of_nodes() -> None:
    rows = [
        Row(SERIES, NOW - 999_999_999, 1.0, SHORT),
        Row(SERIES, NOW, 2.0, UNAGGREGATED),
        Row(SERIES, NOW, 3.0, FINE),
    ]
    found = sorted_of(rows)
    assert found.rows.tolist() == [0, 1, 2]
    assert [found.namespaces[k] for k in found.namespace.tolist()] == [b"agg", b"raw", b"agg"]
    assert found.timestamp.tolist() == [(NOW - 999_999_999) // SECOND, NOW // 10**6, NOW]
    assert found.time_type.tolist() == [TimeUnit.SECONDS, TimeUnit.MILLISECONDS, TimeUnit.NANOSECONDS]
    assert found.raw.tolist() == [False, True, False]
    assert not found.others.refused
    assert not found.others.parked


def test_of_two_values_for_one_time_the_later_one_is_sent() -> None:
    rows = [
        Row(SERIES, NOW - 2, 1.0), Row(b"other", NOW, 2.0), Row(SERIES, NOW - 1, 3.0), Row(SERIES, NOW - SECOND, 4.0),
        Row(SERIES, NOW, 5.0, UNAGGREGATED), Row(SERIES, NOW - 999 * SECOND, 6.0), Row(SERIES, NOW - 999 * SECOND, 7.0),
    ]  # fmt: skip
    found = sorted_of(rows)
    # The seconds of the first and the third are the same; of what is too old nothing is sent, and all of it is told.
    assert found.rows.tolist() == [1, 2, 3, 4]
    assert [one.rows.tolist() for one in found.others.refused] == [[5, 6]]


def test_times_are_cut_towards_zero_after_the_offset() -> None:
    targets = Targets([Namespace("agg", 10 * SECOND, 48 * HOUR)])
    rows = [Row(b"%d" % time_ns, time_ns) for time_ns in (-1, -SECOND, SECOND - 1, 15 * SECOND)]
    assert sorted_of(rows, targets).timestamp.tolist() == [0, -1, 0, 15]
    assert sorted_of(rows, targets, offset=15 * SECOND).timestamp.tolist() == [-15, -16, -14, 0]


@pytest.mark.parametrize(
    ("late_ns", "taken"),
    [(600 * SECOND - SECOND // 2, True), (600 * SECOND + SECOND // 2, True), (601 * SECOND + SECOND // 2, False)],
)
def test_what_is_too_old_is_refused_before_it_is_sent(late_ns: int, *, taken: bool) -> None:
    """To the second: the limit is cut to whole seconds, and so is the time that is sent."""
    found = sorted_of([Row(SERIES, NOW - late_ns), Row(SERIES, NOW)])
    assert found.rows.tolist() == ([0, 1] if taken else [1])
    if not taken:
        (refused,) = found.others.refused
        assert (refused.why, refused.rows.tolist()) == (RefusedWhy.TOO_OLD, [0])
        assert refused.text == "datapoint too far in past for namespace agg: 10m1s old, beyond its bufferPast 10m0s"


def test_with_cold_writes_retention_is_the_limit() -> None:
    targets = targets_of(cold_writes_enabled=True)
    found = sorted_of([Row(SERIES, NOW - 47 * HOUR), Row(SERIES, NOW - 49 * HOUR)], targets)
    assert found.rows.tolist() == [0]
    (refused,) = found.others.refused
    assert (refused.why, refused.rows.tolist()) == (RefusedWhy.OUTSIDE_RETENTION, [1])
    assert "retention 48h0m0s" in refused.text


@pytest.mark.parametrize("ahead_s", [120, 121, 130, 3700])
def test_what_is_too_new_comes_again_as_soon_as_it_fits(ahead_s: int) -> None:
    time_ns = (NOW // SECOND + ahead_s) * SECOND
    found = sorted_of([Row(SERIES, time_ns), Row(SERIES, NOW)])
    assert found.rows.tolist() == [1]
    (parked,) = found.others.parked
    assert parked.rows.tolist() == [0]
    assert "too far in future for namespace agg (bufferFuture 2m0s)" in parked.text
    assert parked.due_in_s is not None
    due_ns = NOW + round(parked.due_in_s * SECOND)
    assert sorted_of([Row(SERIES, time_ns)], now=due_ns).rows.tolist() == [0]
    assert not len(sorted_of([Row(SERIES, time_ns)], now=due_ns - SECOND).rows)


def test_what_is_more_than_an_hour_too_new_has_a_wrong_time() -> None:
    found = sorted_of([Row(SERIES, NOW + 4000 * SECOND), Row(SERIES, NOW + 200 * SECOND)])
    (refused,), (parked,) = found.others.refused, found.others.parked
    assert (refused.why, refused.rows.tolist()) == (RefusedWhy.OUTSIDE_RETENTION, [0])
    assert parked.rows.tolist() == [1]


def test_many_times_are_parked_in_few_groups_each_until_all_of_it_fits() -> None:
    times = [NOW + (130 + 30 * k) * SECOND for k in range(100)]
    parked = sorted_of([Row(SERIES, time_ns) for time_ns in times]).others.parked
    assert 8 <= len(parked) <= 17
    assert sorted(row for one in parked for row in one.rows.tolist()) == list(range(100))
    for one in parked:
        assert one.due_in_s is not None
        mine = [Row(SERIES, times[row]) for row in one.rows.tolist()]
        assert len(sorted_of(mine, now=NOW + round(one.due_in_s * SECOND)).rows) == len(mine)


def test_without_limits_only_nodes_judge() -> None:
    targets = Targets([Namespace("agg", 10 * SECOND, 48 * HOUR)])
    assert sorted_of([Row(SERIES, 0), Row(SERIES, 2 * NOW)], targets).rows.tolist() == [0, 1]


def test_what_has_no_namespace_any_more_waits_a_while() -> None:
    absences = Absences(60 * SECOND)
    rows = [Row(SERIES, NOW, 1.0, LONG), Row(SERIES, NOW)]
    found = sorted_of(rows, absences=absences)
    assert found.rows.tolist() == [1]
    (parked,) = found.others.parked
    assert (parked.rows.tolist(), parked.text) == ([0], "no namespace of M3DB has the policy 1m@1s:40d any more")
    found = sorted_of(rows, absences=absences, now=NOW + 60 * SECOND)
    (refused,) = found.others.refused
    assert (refused.why, refused.rows.tolist()) == (RefusedWhy.NO_NAMESPACE, [0])


def test_one_that_came_back_has_its_while_again() -> None:
    absences, rows = Absences(60 * SECOND), [Row(SERIES, NOW, 1.0, SHORT)]
    none = Targets()
    none.put(None)
    assert sorted_of(rows, none, absences).others.parked
    assert len(sorted_of(rows, targets_of(), absences, now=NOW + 30 * SECOND).rows) == 1
    assert sorted_of(rows, none, absences, now=NOW + 61 * SECOND).others.parked
    assert sorted_of(rows, none, absences, now=NOW + 200 * SECOND).others.refused


def test_that_is_sure_at_once_where_nothing_can_come() -> None:
    (refused,) = sorted_of([Row(SERIES, NOW, 1.0, LONG)]).others.refused
    assert refused.why is RefusedWhy.NO_NAMESPACE
    assert np.array_equal(refused.rows, [0])
