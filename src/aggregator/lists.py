"""Lists: what is aggregated and flushed together, and how their windows are aligned. The word of all layers, from the engine to the KV.

A list (kind, resolution, times forwarded) exists once per shard; M3 calls it a metric list (docs/m3/aggregation.md, lists).
"""

from typing import NamedTuple

from m3x.golang import YEAR_ONE_NS

__all__ = ["KINDS", "KIND_FORWARDED", "KIND_STANDARD", "KIND_TIMED", "ListId", "truncate"]

KIND_STANDARD, KIND_TIMED, KIND_FORWARDED = KINDS = (0, 1, 2)
"""Untimed metrics, timed ones, and rollups of either."""
_NAMES = ("standard", "timed", "forwarded")


class ListId(NamedTuple):
    """Names a list within a shard."""

    kind: int
    resolution_ns: int
    times_forwarded: int = 0

    def __str__(self) -> str:
        hops = f"×{self.times_forwarded}" if self.kind == KIND_FORWARDED else ""
        return f"{_NAMES[self.kind]}{hops} {self.resolution_ns / 1e9:g}s"


def truncate(time_ns: int, interval_ns: int) -> int:
    """Down to a multiple of the interval since the year 1, as Go does it (weeks and odd intervals differ from the Unix epoch)."""
    return time_ns - (time_ns + YEAR_ONE_NS) % interval_ns
