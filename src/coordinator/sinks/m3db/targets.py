"""Which namespace of M3DB values go to, and which times its nodes take. Pure.

Namespaces are those of the file, whose buffers only the registry knows, or those of the registry (docs/m3/m3db_cluster.md, namespaces).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.config import Namespace
from m3db.namespaces import Namespace as Registered
from m3db.namespaces import Namespaces, targets_of

__all__ = ["Attributes", "Limits", "Target", "Targets"]

_SECOND = 1_000_000_000
Attributes = tuple[int, int]
"""Resolution and retention in ns; (0, 0): raw samples."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Which times nodes take, by their own clock; all in nanoseconds (docs/m3/m3db_cluster.md, times that are taken)."""

    buffer_past_ns: int
    buffer_future_ns: int
    retention_ns: int
    future_retention_ns: int = 0
    cold_writes: bool = False

    @classmethod
    def of(cls, namespace: Registered) -> "Limits":
        """Those of a namespace in the registry."""
        retention = namespace.retention
        return cls(
            retention.buffer_past_ns,
            retention.buffer_future_ns,
            retention.period_ns,
            retention.future_period_ns,
            namespace.cold_writes_enabled,
        )

    def at(self, now_ns: int) -> tuple[int, int]:
        """The times that are taken now: ``[first, end)``."""
        first, end = _second(now_ns - self.buffer_past_ns), _second(now_ns + self.buffer_future_ns)
        if self.cold_writes:
            first, end = min(first, now_ns - self.retention_ns), max(end, now_ns + self.future_retention_ns)
        return first, end


@dataclass(frozen=True, slots=True)
class Target:
    """Where values of one resolution and retention go."""

    name: str
    limits: Limits | None
    """None: they are not known here, so that only the nodes judge."""


class Targets:
    """``fixed``: the namespaces of the file; None: those of the registry, as far as they are ready."""

    def __init__(self, fixed: Sequence[Namespace] | None = None) -> None:
        self._fixed = fixed
        self._by_attributes: dict[Attributes, Target] = {}
        self.taken: set[Attributes] = set()
        """Attributes that have had a namespace at some time."""
        self.problems: list[str] = []
        """Why some namespaces of the registry are not used."""
        self.known = fixed is not None
        """Whether it has been heard at all which namespaces there are."""
        if fixed is not None:
            self._use(self._of_file(None))

    @property
    def fixed(self) -> bool:
        """Whether there will be no others."""
        return self._fixed is not None

    @property
    def current(self) -> dict[Attributes, Target]:
        """All of them."""
        return self._by_attributes

    def put(self, registry: Namespaces | None) -> None:
        """What the registry says from now on; None: there is none."""
        if self._fixed is not None:
            self._use(self._of_file(registry))
            return
        self.known = True
        found, self.problems = targets_of(registry) if registry is not None else ({}, [])
        self._use({key: Target(one.namespace.name, Limits.of(one.namespace)) for key, one in found.items()})

    def _use(self, found: dict[Attributes, Target]) -> None:
        self._by_attributes = found
        self.taken |= found.keys()

    def _of_file(self, registry: Namespaces | None) -> dict[Attributes, Target]:
        assert self._fixed is not None
        known = registry.by_name if registry is not None else {}
        return {
            (one.resolution_ns, one.retention_ns) if one.aggregated else (0, 0): Target(
                one.name, Limits.of(known[one.name]) if one.name in known else None
            )
            for one in self._fixed
        }


def _second(time_ns: int) -> int:
    return time_ns - time_ns % _SECOND
