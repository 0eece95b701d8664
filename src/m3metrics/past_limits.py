"""How late a sample may be, by the resolution that it is aggregated to (docs/m3/coordinator.md, aggregation inside).

Used where M3 has such a table: for aggregation inside a coordinator, at its door and in its aggregator. A stand-alone aggregator has one
time for all resolutions, and adds the resolution to it.
"""

import msgspec

__all__ = ["DEFAULT_PAST_LIMITS", "PastLimits"]

_SECOND = 1_000_000_000


class PastLimits(msgspec.Struct, frozen=True):
    """``limits``: (resolution, how late) in nanoseconds, never empty. M3 expects them in ascending order and does not look."""

    limits: tuple[tuple[int, int], ...]

    def of(self, resolution_ns: int) -> int:
        """How late samples of a resolution may be: as the last entry before the first longer one says, or the first one of all."""
        found = self.limits[0][1]
        for resolution, past_ns in self.limits:
            if resolution_ns < resolution:
                break
            found = past_ns
        return found


DEFAULT_PAST_LIMITS = PastLimits(
    ((0, 15 * _SECOND), (30 * _SECOND, 30 * _SECOND), (60 * _SECOND, 60 * _SECOND), (120 * _SECOND, 120 * _SECOND))
)
"""M3's."""
