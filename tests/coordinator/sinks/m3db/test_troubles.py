"""Lines for people."""

import pytest
from tests.coordinator.sinks.m3db.registry import registered, registry_of

from coordinator.sinks.m3db.targets import Targets
from coordinator.sinks.m3db.troubles import late_lines, namespace_lines, shard_lines, short_shards
from coordinator.sinks.status import SinkStatus
from m3db.consistency import CopyRules, WriteLevel
from m3db.host import HostStatus
from m3db.topology import Host, Topology

KEY = "_kv/e/m3db.node.namespaces"
TOPOLOGY = Topology.static([Host(name, f"{name}:9000") for name in "abcd"], 4, 3)


def statuses(connected: str) -> list[HostStatus]:
    return [HostStatus(name, f"{name}:9000", 2 if name in connected else 0, 2, None, "", 0, True) for name in "abcd"]


def test_namespaces_that_are_not_known_not_there_or_not_usable_are_said() -> None:
    targets = Targets()
    assert namespace_lines(targets, KEY, None) == [f"M3DB: the KV has not said yet which namespaces M3DB has: {KEY}"]
    targets.put(None)
    (line,) = namespace_lines(targets, KEY, None)
    assert line.startswith(f"M3DB: M3DB has no namespace yet ({KEY})")
    targets.put(registry_of(registered(aggregations=())))
    assert namespace_lines(targets, KEY, None) == ["M3DB: no aggregations present for namespace agg"]
    targets.put(registry_of(registered()))
    assert namespace_lines(targets, KEY, None) == []
    (line,) = namespace_lines(targets, KEY, (3, ValueError("broken")))
    assert "cannot be used (version 3: broken)" in line


@pytest.mark.parametrize(
    ("connected", "level", "short"),
    [
        ("abcd", WriteLevel.ALL, []),
        ("abc", WriteLevel.MAJORITY, []),
        ("abc", WriteLevel.ALL, [0, 1, 2]),
        ("ab", WriteLevel.MAJORITY, [1, 2]),
        ("ab", WriteLevel.ONE, []),
        ("", WriteLevel.MAJORITY, [0, 1, 2, 3]),
        ("", WriteLevel.NONE, []),
    ],
)
def test_shards_on_too_few_connected_nodes(connected: str, level: WriteLevel, short: list[int]) -> None:
    """Four nodes have four shards three times: all but d, all but c, all but b, all but a."""
    owners = [sorted(TOPOLOGY.hosts[k].id for k in row) for row in TOPOLOGY.owners.tolist()]
    expected = [
        shard
        for shard, names in enumerate(owners)
        if len(set(names) & set(connected)) < {"none": 0, "one": 1, "majority": 2, "all": 3}[level]
    ]
    assert len(expected) == len(short)
    rules = CopyRules(level=level)
    assert short_shards(TOPOLOGY, statuses(connected), rules) == expected
    lines = shard_lines(TOPOLOGY, statuses(connected), rules)
    assert len(lines) == bool(short)
    assert all(f"{len(short)} of 4 shards" in line and level in line for line in lines)


def test_without_a_topology_shards_are_not_short() -> None:
    assert shard_lines(None, [], CopyRules()) == []


@pytest.mark.parametrize(
    ("age_s", "said"),
    [
        (0.0, None),
        (299.0, None),
        (300.0, "values have waited for 5m0s, and namespace agg takes what is at most 10m0s old (bufferPast): in 5m0s"),
        (540.5, "in 59s its nodes take the first of them no more"),
        (601.0, "its nodes take the oldest of them no more: these are refused, and counted"),
    ],
)
def test_an_age_that_nears_the_limit_is_said_from_half_of_it_on(age_s: float, said: str | None) -> None:
    targets = Targets()
    targets.put(registry_of(registered(), registered("cold", 20 * 10**9, cold_writes_enabled=True)))
    lines = late_lines([SinkStatus(name="m3db", age_s=age_s), SinkStatus(name="x", age_s=1e9)], "m3db", targets)
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]


def test_with_cold_writes_retention_is_the_limit() -> None:
    targets = Targets()
    targets.put(registry_of(registered(cold_writes_enabled=True)))
    (line,) = late_lines([SinkStatus(name="m3db", age_s=25 * 3600.0)], "m3db", targets)
    assert "at most 48h0m0s old (retention)" in line
