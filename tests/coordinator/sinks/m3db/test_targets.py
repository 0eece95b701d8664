"""Which namespace values go to, and which times it takes."""

import pytest
from tests.coordinator.sinks.m3db.registry import HOUR, SECOND, registered, registry_of

from coordinator.config import Namespace
from coordinator.sinks.m3db.targets import Limits, Target, Targets
from m3db.namespaces import StagingState

NOW = 1_700_000_000 * SECOND + 999_999_999
TEN = (10 * SECOND, 48 * HOUR)
LIMITS = Limits(600 * SECOND, 120 * SECOND, 48 * HOUR)


@pytest.mark.parametrize(
    ("limits", "first_ns", "end_ns"),
    [
        (LIMITS, NOW - 600 * SECOND - 999_999_999, NOW + 120 * SECOND - 999_999_999),
        (
            Limits(600 * SECOND, 120 * SECOND, 48 * HOUR, cold_writes=True),
            NOW - 48 * HOUR,
            NOW + 120 * SECOND - 999_999_999,
        ),
        (Limits(600 * SECOND, 120 * SECOND, 48 * HOUR, HOUR, cold_writes=True), NOW - 48 * HOUR, NOW + HOUR),
    ],
    ids=["buffers", "cold writes", "retention of the future"],
)
def test_times_that_are_taken(limits: Limits, first_ns: int, end_ns: int) -> None:
    assert limits.at(NOW) == (first_ns, end_ns)


def test_the_registry_says_what_there_is_and_nothing_before_it() -> None:
    targets = Targets()
    assert (targets.known, targets.fixed, targets.current) == (False, False, {})
    targets.put(None)
    assert (targets.known, targets.current) == (True, {})
    targets.put(registry_of(registered()))
    assert targets.current == {TEN: Target("agg", LIMITS)}
    assert targets.taken == {TEN}


def test_a_namespace_that_goes_is_taken_for_ever() -> None:
    targets = Targets()
    targets.put(registry_of(registered(), registered("raw", 0)))
    targets.put(registry_of(registered("raw", 0)))
    assert targets.current.keys() == {(0, 0)}
    assert targets.taken == {TEN, (0, 0)}


def test_a_namespace_that_is_not_ready_is_named_and_not_used() -> None:
    targets = Targets()
    targets.put(registry_of(registered(staging=StagingState.INITIALIZING)))
    assert targets.current == {}
    (line,) = targets.problems
    assert "namespace agg has non-ready staging state" in line


def test_those_of_the_file_get_their_limits_from_the_registry() -> None:
    """Which says nothing else of them: neither whether they are ready nor their retention."""
    targets = Targets([Namespace("agg", *TEN), Namespace("raw", 0, 6 * HOUR)])
    assert targets.known
    assert targets.fixed
    assert targets.current == {TEN: Target("agg", None), (0, 0): Target("raw", None)}
    targets.put(registry_of(registered(staging=StagingState.UNKNOWN), registered("other", 20 * SECOND)))
    assert targets.current == {TEN: Target("agg", LIMITS), (0, 0): Target("raw", None)}
    targets.put(None)
    assert targets.current[TEN] == Target("agg", None)
