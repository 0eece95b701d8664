"""Which namespaces are asked."""

import pytest

from coordinator.config import Namespace
from coordinator.query import QueryError
from coordinator.query.m3db.fan_out import FanOut, Part, fan_out
from coordinator.query.source import Restriction
from m3metrics.policy import StoragePolicy

M = 60 * 10**9
H = 60 * M
NOW = 1_800_000_000 * 10**9
RAW = Namespace("raw", 0, 24 * H)


def agg(name: str, resolution_ns: int, retention_ns: int, every: bool = True, latency_ns: int = 0) -> Namespace:
    return Namespace(name, resolution_ns, retention_ns, downsample_all=every, data_latency_ns=latency_ns)


def plan(namespaces: list[Namespace], back_ns: int, *, paths: bool = False, **restricted: object) -> FanOut:
    restriction = Restriction(**restricted)  # type: ignore[arg-type]
    return fan_out(namespaces, NOW - back_ns, NOW, NOW, restriction, paths=paths)


def names(found: FanOut) -> tuple[bool, list[str]]:
    return found.covers, [part.namespace.name for part in found.parts]


ALL = [
    RAW, agg("all_48h", M, 48 * H), agg("some_48h", M // 2, 48 * H, every=False), agg("all_30d", 5 * M, 720 * H),
    agg("some_60d", 5 * M, 1440 * H, every=False), agg("coarse_30d", 10 * M, 720 * H, every=False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("back_ns", "expected"),
    [
        (0, (True, ["raw"])),
        (24 * H, (True, ["raw"])),
        (24 * H + 1, (True, ["all_48h", "some_48h"])),
        (48 * H, (True, ["all_48h", "some_48h"])),
        # Of the coarser complete one nothing finer reaches back so far.
        (49 * H, (True, ["all_30d"])),
        (721 * H, (False, ["all_30d", "some_60d"])),
        (2000 * H, (False, ["all_30d", "some_60d"])),
    ],
)
def test_by_how_far_the_range_goes_back(back_ns: int, expected: tuple[bool, list[str]]) -> None:
    assert names(plan(ALL, back_ns)) == expected


@pytest.mark.parametrize(
    ("namespaces", "back_ns", "expected"),
    [
        # The unaggregated one keeps as long as the longest complete one.
        ([RAW, agg("a", M, 24 * H)], 48 * H, (False, ["raw"])),
        ([RAW, agg("a", M, 24 * H), agg("b", M, 25 * H, every=False)], 48 * H, (False, ["raw", "b"])),
        # As long, and finer.
        ([RAW, agg("a", 5 * M, 48 * H), agg("b", M, 48 * H, every=False)], 96 * H, (False, ["a", "b"])),
        # None has every series.
        ([RAW, agg("a", M, 48 * H, every=False), agg("b", M, 96 * H, every=False)], 72 * H, (False, ["a", "b", "raw"])),
        ([agg("a", M, 48 * H, every=False)], 24 * H, (True, ["a"])),
        # Without an unaggregated namespace (in M3 an error).
        ([agg("a", M, 48 * H), agg("b", 5 * M, 96 * H)], 24 * H, (True, ["a"])),
        # One namespace of M3DB for two kinds of values.
        ([RAW, agg("x", 10 * M, 48 * H, every=False), agg("x", H, 48 * H)], 36 * H, (True, ["x"])),
    ],
)
def test_other_sets_of_namespaces(namespaces: list[Namespace], back_ns: int, expected: tuple[bool, list[str]]) -> None:
    assert names(plan(namespaces, back_ns)) == expected


def test_paths_are_looked_for_in_all_aggregated_namespaces() -> None:
    aggregated = [one.name for one in ALL[1:]]
    assert names(plan(ALL, 0, paths=True)) == (True, aggregated)
    assert names(plan(ALL, 100 * H, paths=True)) == (False, aggregated)


def test_restrictions() -> None:
    policy = StoragePolicy.parse("5m:30d")
    assert names(plan(ALL, 0, policy=policy)) == (True, ["all_30d"])
    assert names(plan(ALL, 1000 * H, policy=policy, aggregated=True)) == (False, ["all_30d"])
    assert names(plan(ALL, 30 * H, aggregated=False)) == (False, ["raw"])
    assert names(plan(ALL, 0, aggregated=True)) == (True, ["all_48h", "some_48h"])
    with pytest.raises(QueryError, match="could not find namespace for storage policy: 1m:30d"):
        plan(ALL, 0, policy=StoragePolicy.parse("1m:30d"))
    with pytest.raises(QueryError, match="could not find unaggregated namespace"):
        plan(ALL[1:], 0, aggregated=False)
    with pytest.raises(QueryError, match="no namespaces configured") as caught:
        plan([], 0)
    assert caught.value.status == 500


def test_what_comes_late_is_taken_from_the_unaggregated_namespace() -> None:
    late = agg("late", 7 * M, 48 * H, latency_ns=H)
    # Rounded down from the year 1, as Go does.
    until = NOW - H - (NOW - H + 62_135_596_800 * 10**9) % (7 * M)
    found = plan([RAW, late], 30 * H)
    assert found.parts == (Part(late, last_ns=until), Part(RAW, first_ns=until))
    assert [part.narrowed(NOW - 30 * H, NOW) for part in found.parts] == [(NOW - 30 * H, until), (until, NOW)]
    assert found.order() == [0, 1]
    early = fan_out([RAW, late], NOW - 30 * H, until, NOW, Restriction())
    assert early.parts == (Part(late),)
    recent = fan_out([agg("raw", M, H), late], NOW - M, NOW, NOW, Restriction())
    assert names(recent) == (True, ["raw"])
    # Nothing of it is there yet.
    only = fan_out([Namespace("raw", 0, M // 2), late], NOW - M, NOW, NOW, Restriction())
    assert names(only) == (True, ["raw"])


def test_the_order_of_preference() -> None:
    finest = plan(ALL, 30 * H)
    assert [finest.parts[i].namespace.name for i in finest.order()] == ["some_48h", "all_48h"]
    longest = plan(ALL, 2000 * H)
    assert [longest.parts[i].namespace.name for i in longest.order()] == ["some_60d", "all_30d"]
