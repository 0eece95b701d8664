"""What M3 counts of placements: those that came, and what they changed for this instance."""

from aggregator.supervisor.placement import View
from m3x.instrument import Scope

__all__ = ["PlacementFigures"]


class PlacementFigures:
    """``scope``: that of the aggregator."""

    def __init__(self, scope: Scope) -> None:
        self._placement, self._manager = scope.sub("placement"), scope.sub("placement-manager")
        self._shards, self._shard_set = scope.sub("shards"), scope.sub("shard-set-id")

    def unusable(self) -> None:
        """What is in the KV is no placement."""
        self._placement.count("update-failures")
        self._manager.count("active-placement-errors")

    def changed(self, before: View | None, seen: View) -> None:
        """A placement came after another, or as the first one."""
        self._placement.count("placement-changed")
        self._manager.count("placement-updates")
        if seen.instance is None:
            self._manager.count("instance-not-found")
        else:
            self._placement.count("updated")
        had, has = (set() if before is None else set(before.owned)), set(seen.owned)
        self._shards.count("add", len(has - had))
        self._shards.count("close", len(had - has))
        self._count_shard_set(before, seen)

    def _count_shard_set(self, before: View | None, seen: View) -> None:
        old = None if before is None or before.instance is None else before.shard_set
        new = None if seen.instance is None else seen.shard_set
        if new is None:
            self._shard_set.count("clear", old is not None)
        elif old is None:
            self._shard_set.count("open")
        else:
            self._shard_set.count("same" if old == new else "changed")
