"""The embedded store as one sink of several: what it takes, and what it refuses in the words of sinks."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.coordinator.sinks.batches import LONG, SHORT, Row, batch_of

from coordinator.config import Namespace
from coordinator.downsample.policies import policy_of
from coordinator.sinks.embedded import EmbeddedSink
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import RefusedWhy
from coordinator.sinks.values import UNAGGREGATED, Destination
from coordinator.store import Store, StoreOptions, open_store
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy

NOW_NS = 1_767_355_200_000_000_000
S = 1_000_000_000
HOUR = 3600 * S
NAMESPACES = [Namespace("raw", 0, HOUR), Namespace("short", *SHORT.attributes), Namespace("long", *LONG.attributes)]
UP, DOWN, MORE = (encode_tags([(b"__name__", name)]) for name in (b"up", b"down", b"more"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """With room for two series."""
    policies = [policy_of(one.resolution_ns, one.retention_ns) for one in NAMESPACES]
    options = StoreOptions(max_series=2)
    async with open_store(tmp_path / "m.duckdb", policies, options, clock=lambda: NOW_NS) as opened:
        yield opened


async def _stored(store: Store, destination: Destination, retention_ns: int = 0) -> int:
    """How many points the namespace has."""
    index = store.policy_index(destination.attributes[0], retention_ns or destination.attributes[1])
    found = await store.select([], 0, NOW_NS // 1_000_000 + 3_600_000, policies=[index])
    return len(found.time_ms)


async def test_values_go_to_the_namespace_of_their_policy_once(store: Store) -> None:
    sink = EmbeddedSink.of(store, NAMESPACES)
    rows = [Row(UP, NOW_NS), Row(UP, NOW_NS, 2.0, LONG), Row(DOWN, NOW_NS), Row(UP, NOW_NS, 4.0, UNAGGREGATED)]
    for again in (False, True):
        assert (await sink.deliver(batch_of(SeriesTable(), rows), again=again)).refused == []
    assert await _stored(store, SHORT) == 2
    assert await _stored(store, LONG) == 1
    assert await _stored(store, UNAGGREGATED, HOUR) == 1


async def test_what_is_refused_is_final_and_named(store: Store) -> None:
    sink = EmbeddedSink.of(store, NAMESPACES)
    elsewhere = Destination.of(StoragePolicy.parse("5m:1y"))
    rows = [
        Row(UP, NOW_NS, 1.0, elsewhere),
        Row(UP, NOW_NS),
        Row(b"plain", NOW_NS),
        Row(DOWN, NOW_NS - 49 * HOUR),
        Row(MORE, NOW_NS),
        Row(b"plain", NOW_NS, 1.0, LONG),
    ]
    refused = (await sink.deliver(batch_of(SeriesTable(), rows), again=False)).refused
    assert {one.why: (one.rows.tolist(), one.text) for one in refused} == {
        RefusedWhy.NO_NAMESPACE: ([0], "the embedded store has no namespace for 5m:1y"),
        RefusedWhy.BAD_ID: ([2, 5], "header magic number does not match expected value"),
        RefusedWhy.OUTSIDE_RETENTION: ([3], "datapoint too far in past or in future"),
        RefusedWhy.TOO_MANY_SERIES: ([4], "storage holds as many series as it may"),
    }
    assert await _stored(store, SHORT) == 1


async def test_which_values_it_takes(store: Store) -> None:
    whole = EmbeddedSink.of(store, NAMESPACES)
    assert [whole.takes(one) for one in (SHORT, LONG, UNAGGREGATED)] == [True, True, True]
    part = EmbeddedSink.of(store, NAMESPACES, wanted=frozenset({LONG.attributes}))
    assert [part.takes(one) for one in (SHORT, LONG, UNAGGREGATED)] == [False, True, False]
    # An endpoint for raw samples has no retention: they cannot be kept.
    endless = EmbeddedSink.of(store, [Namespace("endpoint", 0, 0), *NAMESPACES[1:]])
    assert not endless.takes(UNAGGREGATED)
