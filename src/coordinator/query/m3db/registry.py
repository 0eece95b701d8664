"""What M3DB's registry says, as namespaces that queries may ask."""

from coordinator.config import Namespace
from m3db.namespaces import Namespaces, targets_of

__all__ = ["readable"]


def readable(registry: Namespaces | None) -> tuple[Namespace, ...]:
    """Those that are ready, with each kind of values that they keep; None, as there is no registry yet: none."""
    if registry is None:
        return ()
    targets, _ = targets_of(registry)
    return tuple(
        Namespace(one.namespace.name, one.resolution_ns, one.retention_ns, one.downsample_all)
        for one in targets.values()
    )
