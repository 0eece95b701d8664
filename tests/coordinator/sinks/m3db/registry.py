"""Namespaces as tests of the sink need them."""

from m3db.namespaces import Aggregation, Namespace, Namespaces, Retention, StagingState

SECOND = 10**9
HOUR = 3600 * SECOND


def registered(
    name: str = "agg", resolution_ns: int = 10 * SECOND, retention_ns: int = 48 * HOUR, **more: object
) -> Namespace:
    """Ready; takes what is at most ten minutes old and two minutes ahead."""
    retention = Retention(retention_ns, 2 * HOUR, buffer_future_ns=120 * SECOND, buffer_past_ns=600 * SECOND)
    fields = {
        "retention": retention,
        "aggregations": (Aggregation(resolution_ns),),
        "staging": StagingState.READY,
        **more,
    }
    return Namespace(name, **fields)  # type: ignore[arg-type]


def registry_of(*namespaces: Namespace) -> Namespaces:
    """A registry with these."""
    return Namespaces({one.name: one for one in namespaces}, 1)
