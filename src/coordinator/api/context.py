"""What the handlers of the admin API work on."""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from coordinator.api.answers import APIError
from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE
from m3cluster.kv import Store
from m3x.clock import wall_ns

__all__ = ["MINUTE_NS", "AdminContext"]

MINUTE_NS = 60 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class AdminContext:
    """The store, where it is asked, time and chance.

    ``zones`` are the zones that ``store`` stands for; any other one is an error. ``window_ns`` is the unit that shard cutovers of
    m3aggregator are rounded up to: the largest resolution, a minute if there is none.
    """

    store: Store
    environment: str = DEFAULT_ENVIRONMENT
    zone: str = DEFAULT_ZONE
    zones: Collection[str] = field(default_factory=lambda: (DEFAULT_ZONE,))
    window_ns: Callable[[], int] = lambda: MINUTE_NS
    clock: Callable[[], int] = wall_ns
    rng: random.Random | None = None
    kv_environment: str = ""
    """The environment of ``/api/v1/kvstore``; empty: ``environment``."""

    def store_of(self, zone: str) -> Store:
        """The store of a zone; raises ``APIError`` with M3's text if there is none."""
        if zone not in self.zones:
            raise APIError(500, f"no etcd cluster found for zone: {zone}")
        return self.store
