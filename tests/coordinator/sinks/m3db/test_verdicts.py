"""What nodes said, in the words of sinks."""

import numpy as np

from coordinator.sinks.m3db.verdicts import Verdict, judge
from coordinator.sinks.sink import RefusedWhy
from m3db.attempt import BAD_REQUEST, INTERNAL, TOO_NEW, TOO_OLD, RowError
from m3db.consistency import RowState
from m3db.session import WriteResult

WRITTEN, RETRY, REFUSED = RowState.WRITTEN, RowState.RETRY, RowState.REFUSED
PAST = "datapoint too far in past: id=x, off_by=1s"
FUTURE = "datapoint too far in future: id=x, off_by=1s"


def verdict(states: list[RowState], *errors: tuple[list[int], str, str], far: tuple[int, ...] = ()) -> Verdict:
    found = [RowError(np.array(rows, np.int64), "node1", kind, text) for rows, kind, text in errors]
    is_far = np.zeros(len(states), np.bool_)
    is_far[list(far)] = True
    return judge(WriteResult(np.array(states, np.uint8), found), is_far)


def test_refusals_are_sorted_by_what_nodes_say() -> None:
    found = verdict(
        [REFUSED, REFUSED, WRITTEN, REFUSED, REFUSED],
        ([0, 2], TOO_OLD, PAST),
        ([1], BAD_REQUEST, "tag name cannot\nbe empty"),
        ([3], TOO_NEW, FUTURE),
    )
    refused = [(one.why, one.rows.tolist(), one.text) for one in found.delivered.refused]
    assert refused == [
        (RefusedWhy.TOO_OLD, [0], f"node1: {PAST}"),
        (RefusedWhy.BAD_REQUEST, [1], "node1: tag name cannot be empty"),
        (RefusedWhy.BAD_REQUEST, [4], "refused by a majority of nodes"),
    ]
    (parked,) = found.delivered.parked
    assert (parked.rows.tolist(), parked.text) == ([3], f"node1: {FUTURE}")
    assert parked.due_in_s is not None
    assert not len(found.failed)


def test_what_is_far_ahead_is_not_waited_for() -> None:
    found = verdict([REFUSED, REFUSED], ([0, 1], TOO_NEW, FUTURE), far=(1,))
    assert [(one.why, one.rows.tolist()) for one in found.delivered.refused] == [(RefusedWhy.OUTSIDE_RETENTION, [1])]
    assert [one.rows.tolist() for one in found.delivered.parked] == [[0]]


def test_of_two_clocks_the_one_that_is_behind_is_waited_for() -> None:
    found = verdict([REFUSED], ([0], TOO_OLD, PAST), ([0], TOO_NEW, FUTURE))
    assert not found.delivered.refused
    assert [one.rows.tolist() for one in found.delivered.parked] == [[0]]


def test_what_too_few_have_written_is_told_with_what_they_said_of_the_first() -> None:
    found = verdict(
        [WRITTEN, RETRY, RETRY],
        ([2], INTERNAL, "another"),
        ([1, 2], "network", "refused"),
        ([1], INTERNAL, "x" * 1000),
    )
    assert found.failed.tolist() == [1, 2]
    assert found.why == f"too few nodes have written it: node1: refused; node1: {'x' * 300}"
    assert verdict([RETRY]).why == "too few nodes have written it: not all have answered"


def test_namespaces_that_nodes_do_not_know_are_told_apart() -> None:
    text = "Error({Type:BAD_REQUEST Message:unknown namespace: nosuch Flags:0})"
    found = verdict([RETRY, RETRY, WRITTEN], ([1, 2], "unexpected", text), ([0], INTERNAL, "x"))
    assert found.failed.tolist() == [0, 1]
    assert found.unknown.tolist() == [1]
