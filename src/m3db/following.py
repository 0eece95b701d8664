"""Placement and registry of namespaces as the KV has them: the last good value of each counts (docs/m3/m3db_cluster.md, topology)."""

import asyncio
from collections.abc import Callable

from m3cluster.following import follow
from m3cluster.keys import kv_key, placement_key
from m3cluster.kv import Store, Value
from m3cluster.placement import decode_placement
from m3db.namespaces import REGISTRY_KEY, Namespaces, decode_registry
from m3db.topology import Topology
from m3x.log import logger

__all__ = ["Fault", "FollowedNamespaces", "FollowedTopology"]

_log = logger(__name__)

Fault = tuple[int, ValueError]
"""The version of a value that cannot be used, and why."""
_PATIENCE_S = 2.0
"""After that a missing placement is worth a word."""


class FollowedTopology:
    """The placement of the nodes; ``service`` is its name, ``seed`` that of the hash of ids."""

    def __init__(self, store: Store, environment: str, service: str, seed: int = 0) -> None:
        self.key = placement_key(environment, service)
        self.topology: Topology | None = None
        """The last good one; None: there has not been one yet."""
        self.fault: Fault | None = None
        """Of the newest value, if that is none."""
        self._store = store
        self._seed = seed

    def trouble(self) -> str | None:
        """One line for people while there is something to say; None: the placement is there and good."""
        if self.fault is not None:
            stays = (
                "the one before it stays"
                if self.topology is not None
                else "nothing can be written until it is put right"
            )
            return f"the placement {self.key} cannot be used (version {self.fault[0]}: {self.fault[1]}); {stays}"
        if self.topology is None:
            return self._store.trouble() or f"there is no placement of M3DB's nodes yet: {self.key}"
        return None

    async def run(self, changed: Callable[[Topology], None]) -> None:
        """Calls ``changed`` with every good placement, until cancelled. One that is deleted stays in use."""

        def told(topology: Topology | None) -> None:
            self.fault = None
            if topology is None:
                _log.warning("the placement of M3DB's nodes was deleted; the last one stays in use", key=self.key)
                return
            self.topology = topology
            changed(topology)

        async with asyncio.TaskGroup() as group:
            group.create_task(self._say_that_we_wait())
            await follow(self._store, self.key, self._decoded, told, self._refused)

    def _decoded(self, value: Value) -> Topology:
        return Topology.of_placement(decode_placement(value.data, value.version), self._seed)

    def _refused(self, value: Value, error: ValueError) -> None:
        self.fault = (value.version, error)
        _log.warning(
            "dynamic topology received invalid update", key=self.key, version=value.version, problem=str(error)
        )

    async def _say_that_we_wait(self) -> None:
        await asyncio.sleep(_PATIENCE_S)
        if self.topology is None:
            _log.warning(
                "waiting for dynamic topology initialization, if this takes a long time, make sure that a "
                "topology/placement is configured",
                key=self.key,
            )


class FollowedNamespaces:
    """The registry of one environment."""

    def __init__(self, store: Store, environment: str) -> None:
        self.key = kv_key(environment, REGISTRY_KEY)
        self.namespaces: Namespaces | None = None
        """The last good ones; None: there is no registry, or the KV has not said so yet."""
        self.fault: Fault | None = None
        """Of the newest value, if that is none."""
        self._store = store

    async def run(self, changed: Callable[[Namespaces | None], None]) -> None:
        """Calls ``changed`` with every good registry (None: it was deleted), until cancelled."""

        def told(namespaces: Namespaces | None) -> None:
            self.namespaces, self.fault = namespaces, None
            changed(namespaces)

        await follow(self._store, self.key, _registry, told, self._refused)

    def _refused(self, value: Value, error: ValueError) -> None:
        self.fault = (value.version, error)
        _log.warning(
            "dynamic namespace registry received invalid update, skipping",
            key=self.key,
            version=value.version,
            problem=str(error),
        )


def _registry(value: Value) -> Namespaces:
    return decode_registry(value.data, value.version)
