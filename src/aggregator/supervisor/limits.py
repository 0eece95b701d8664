"""Limits that change at run time: those of the configuration until the KV names others (docs/m3/aggregation.md, runtime options)."""

from collections.abc import Callable

from aggregator.config import ServiceConfig, new_metric_limit
from aggregator.ipc import RuntimeOptions
from m3cluster.kv import Value
from m3cluster.placement.model import Placement
from m3cluster.proto import decode
from m3cluster.proto.messages import INT64_PROTO
from m3x.log import logger

__all__ = ["Limits", "limit_of"]

log = logger(__name__)


class Limits:
    """Values per metric and new metrics, per second; ``changed`` is called when the KV has changed one of them."""

    def __init__(self, config: ServiceConfig, changed: Callable[[], None]) -> None:
        self._told_values: int | None = None
        self._told_new: int | None = None
        """What the KV says."""
        self._changed = changed
        self._set_defaults(config)

    def _set_defaults(self, config: ServiceConfig) -> None:
        self._default_values = config.runtime_options.write_values_per_metric_limit_per_second
        self._default_new = config.runtime_options.write_new_metric_limit_cluster_per_second

    @property
    def _values(self) -> int:
        return self._default_values if self._told_values is None else self._told_values

    @property
    def _new(self) -> int:
        return self._default_new if self._told_new is None else self._told_new

    def configure(self, config: ServiceConfig) -> None:
        """The configuration has changed; what the KV says stays in effect."""
        before = self._values, self._new
        self._set_defaults(config)
        if before != (self._values, self._new):
            log.info("limits of the configuration changed", values=self._values, new=self._new)
            self._changed()

    def values_changed(self, limit: int | None) -> None:
        """What the KV says of values per metric; None: nothing (any more)."""
        self._told_values = limit
        log.info("limit changed", limit="values", per_second=self._values)
        self._changed()

    def new_changed(self, limit: int | None) -> None:
        """What the KV says of new metrics of the whole cluster; None: nothing (any more)."""
        self._told_new = limit
        log.info("limit changed", limit="new", per_second=self._new)
        self._changed()

    def options(self, placement: Placement) -> RuntimeOptions:
        """The command for workers."""
        new = new_metric_limit(self._new, placement.num_shards, placement.replica_factor)
        return RuntimeOptions(self._values, new)


def limit_of(value: Value) -> int:
    """The limit that a key holds; a negative one counts as none. Raises ``ValueError``."""
    return max(int(decode(INT64_PROTO, value.data)["value"]), 0)
