"""Namespaces of the registry."""

from coordinator.config import Namespace
from coordinator.query.m3db.registry import readable
from m3db.namespaces import Aggregation, Namespaces, Retention, StagingState
from m3db.namespaces import Namespace as Registered

H = 3600 * 10**9
S = 10**9


def registered(
    name: str, hours: int, *aggregations: Aggregation, staging: StagingState = StagingState.READY
) -> Registered:
    return Registered(name, Retention(hours * H, H), aggregations=aggregations, staging=staging)


def test_each_kind_of_values_of_what_is_ready() -> None:
    both = registered("both", 6, Aggregation(), Aggregation(10 * S, downsample_all=False))
    coarse = registered("coarse", 48, Aggregation(60 * S))
    new = registered("new", 96, Aggregation(60 * S), staging=StagingState.UNKNOWN)
    found = readable(Namespaces({one.name: one for one in (both, coarse, new, registered("none", 1))}))
    assert found == (
        Namespace("both", 0, 6 * H),
        Namespace("both", 10 * S, 6 * H, downsample_all=False),
        Namespace("coarse", 60 * S, 48 * H),
    )
    assert readable(None) == ()
