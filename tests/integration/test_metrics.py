"""What M3's dashboards ask for moves under traffic, through a real pair of aggregators and a coordinator (docs/metrics.md)."""

import contextlib
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from lab.http import request
from lab.waiting import wait_until
from tests.integration.conftest import Deployment
from tests.integration.metrics_stack import Stack, samples
from tests.m3_dashboard_names import own, pattern, rows

HERE = "integration/test_metrics.py"
_AGGREGATOR = "m3aggregator_aggregator_"
RESIGNED = {f"{_AGGREGATOR}{name}" for name in ("list_flush_before_stale",)}
"""Moved when the lead changes hands, …"""
GONE = {
    f"{_AGGREGATOR}{name}"
    for name in (
        "list_flush_after_bufferend", "list_flush_before_cutover", "list_flush_between_cutoff_bufferend", "shard_set_id_same",
        "shards_close", "shards_pending_close",
    )
}  # fmt: skip
"""… when shards come and go, …"""
PARTED = {
    f"{_AGGREGATOR}{name}"
    for name in (
        "election_manager_resign_on_close", "election_manager_resign_on_close_success",
        "flush_times_manager_flush_times_unmarshal_errors", "list_writer_aggregations_removed", "shard_set_id_changed",
        "tick_flush_times_errors",
    )
}  # fmt: skip
"""… when the pair parts, and finds no flush times that can be read, …"""
IDLE = {f"{_AGGREGATOR}flush_manager_follower_not_campaigning"}
"""… and when the placement gives an instance no shard to lead."""
LABELS = {
    "m3aggregator_aggregator_addUntimed_success_latency_bucket": {"le"},
    "m3aggregator_aggregator_client_flush_success_latency": {"quantile"},
    "coordinator_fetch_success_latency": {"quantile", "source"},
    "m3aggregator_runtime_memory_gc_pause_ms": {"quantile"},
}
"""Of the kinds of metrics whose type the expressions depend on; all others are in the table."""


def left(stack: Stack, names: set[str]) -> set[str]:
    """Which of them no page has shown moved yet."""
    seen = stack.look()
    return {name for name in names if not any(pattern(name).fullmatch(one) for one in seen)}


def until(stack: Stack, names: set[str], between: Callable[[], object]) -> None:
    """Looks until all have moved."""

    def moved() -> bool:
        between()
        return not left(stack, names)

    try:
        wait_until("all names have moved", moved, 120, every_s=0.5)
    except TimeoutError:
        pytest.fail(f"not moved: {sorted(left(stack, names))}")


@pytest.fixture(scope="module")
def stack(module_deployment: Deployment) -> Stack:
    made = Stack(module_deployment)
    wait_until("an instance leads", lambda: made.leader() is not None, 90)
    wait_until("all take samples", made.ready, 90)
    return made


def test_names_labels_and_types_of_m3s_dashboards(stack: Stack) -> None:
    here = {row.name for row in rows() if row.test == HERE}
    until(stack, here - RESIGNED - GONE - PARTED - IDLE, stack.traffic)
    leader = stack.leader()
    assert leader is not None
    # It answers when another one leads, which may take longer than is waited for here.
    with contextlib.suppress(TimeoutError):
        request("POST", f"{leader.http}/resign", b"")
    until(stack, RESIGNED, stack.traffic)
    labels = labels_of(stack)
    wanted = {row.name: set(row.labels) for row in rows() if row.test == HERE} | LABELS
    lacking = {}
    for name, needed in wanted.items():
        found = set().union(*(have for one, have in labels.items() if pattern(name).fullmatch(one)))
        if needed - found:
            lacking[name] = needed - found
    assert not lacking
    shown = {name for name, test in own().items() if test == HERE}
    assert not shown - labels.keys()
    for page in (stack.page(), *map(stack.page, stack.instances)):
        well_formed(page)
    stack.shards_go()
    until(stack, GONE, lambda: None)
    stack.break_times()
    stack.part()
    until(stack, PARTED, lambda: None)
    stack.shards_later()
    until(stack, IDLE, lambda: None)


def labels_of(stack: Stack) -> dict[str, set[str]]:
    """All labels of all figures, by name."""
    found: dict[str, set[str]] = {}
    for page in (stack.page(), *map(stack.page, stack.instances)):
        for name, labels, _ in samples(page):
            found.setdefault(name, set()).update(labels)
    return found


def well_formed(page: str) -> None:
    """No figure twice, and buckets that never fall."""
    lines = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
    assert len({key for key, _ in lines}) == len(lines)
    for (one, low), (other, high) in pairwise(lines):
        if "_bucket{" in one and re.sub('le="[^"]*"', "", one) == re.sub('le="[^"]*"', "", other):
            assert float(low) <= float(high), other
