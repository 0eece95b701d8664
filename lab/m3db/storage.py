"""What a node holds, in memory: per namespace and series the tags of its first write, and per block the points as M3 keeps them.

A block has *runs* of points in ascending order. A point goes behind the first run whose last point is older; it is dropped if the last
point of a run before that one has its time, value and annotation; if no run takes it, a new one begins. Of points of the same time the
one of the run that began last is what is read.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lab.m3db.series import Tags

__all__ = ["Point", "Series", "Storage"]


@dataclass(frozen=True, slots=True)
class Point:
    """A point. ``bits``: of the double. ``unit``: the TimeType that it came with."""

    time_ns: int
    bits: int
    unit: int = 0
    annotation: bytes = b""

    @property
    def value(self) -> float:
        """The double."""
        return float(struct.unpack(">d", struct.pack(">Q", self.bits))[0])

    def repeats(self, other: "Point") -> bool:
        """Whether storing it behind ``other`` of the same time changes nothing; a NaN is equal to nothing."""
        return self.value == other.value and self.annotation == other.annotation


@dataclass(slots=True)
class Series:
    """One series."""

    id: bytes
    block_bytes: bytes
    """The tag block of its first write."""
    tags: Tags
    blocks: dict[int, list[list[Point]]] = field(default_factory=dict)
    """Start of a block → runs."""

    def write(self, point: Point, block_ns: int) -> None:
        """Stores a point."""
        runs = self.blocks.setdefault(point.time_ns // block_ns * block_ns, [])
        for run in runs:
            if point.time_ns == run[-1].time_ns and point.repeats(run[-1]):
                return
            if point.time_ns > run[-1].time_ns:
                run.append(point)
                return
        runs.append([point])

    def points(self) -> list[Point]:
        """What is read: one point for each time, in order."""
        found = {
            point.time_ns: point for _, runs in sorted(self.blocks.items()) for run in runs for point in run
        }  # fmt: skip
        return [found[time_ns] for time_ns in sorted(found)]


class Storage:
    """All namespaces of a node."""

    def __init__(self) -> None:
        self._namespaces: dict[str, dict[bytes, Series]] = {}
        self.writes = 0
        """Points that were accepted, repeats included."""

    def find(self, namespace: str, series_id: bytes) -> Series | None:
        """A series that is known."""
        return self._namespaces.get(namespace, {}).get(series_id)

    def know(self, namespace: str, series_id: bytes, block_bytes: bytes = b"", tags: Tags | None = None) -> Series:
        """A series, without points if it is new."""
        known = self._namespaces.setdefault(namespace, {})
        series = known.get(series_id)
        if series is None:
            series = known[series_id] = Series(series_id, block_bytes, tags or [])
        return series

    def write(
        self, namespace: str, series_id: bytes, block_bytes: bytes, tags: Tags, point: Point, block_ns: int
    ) -> None:
        """Stores a point, of a new series if need be."""
        self.know(namespace, series_id, block_bytes, tags).write(point, block_ns)
        self.writes += 1

    def series(self, namespace: str) -> list[Series]:
        """All series, in the order of their first write."""
        return list(self._namespaces.get(namespace, {}).values())

    def values(self, namespace: str) -> Iterator[tuple[bytes, Point]]:
        """Id and point of everything that would be read."""
        for series in self.series(namespace):
            for point in series.points():
                yield series.id, point

    def clear(self) -> None:
        """Forgets everything."""
        self._namespaces.clear()

    def dump(self) -> dict[str, Any]:
        """All of it as JSON has it; NaN travels as bits."""
        return {
            namespace: [
                {
                    "id": series.id.hex(),
                    "tags": series.block_bytes.hex(),
                    "runs": [
                        [[p.time_ns, f"{p.bits:016x}", p.unit, p.annotation.hex()] for p in run]
                        for _, runs in sorted(series.blocks.items())
                        for run in runs
                    ],
                }
                for series in known.values()
            ]
            for namespace, known in self._namespaces.items()
        }
