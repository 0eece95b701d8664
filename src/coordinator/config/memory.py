"""How the memory limit of a coordinator is shared out among its parts."""

from m3x.config import Section

__all__ = ["MemoryShares", "memory_shares"]


class MemoryShares(Section, frozen=True):
    """Upper bounds in bytes; the rest of the limit is for programs and series."""

    windows: int
    """``instance.memoryLimitBytes`` of the aggregator inside; 0: there is none."""
    store: int
    """DuckDB."""
    write_cache: int
    buffer: int
    """Messages that the aggregators have not acknowledged, for each of them."""
    sink_window: int
    """What of each queue is in memory."""
    bodies: int
    """Bodies of writes that are being read or are not answered yet."""


def memory_shares(limit: int, sinks: int, *, inside: bool) -> MemoryShares:
    """The shares of a limit with so many queues before stores. ``inside``: aggregation happens here."""
    if inside:
        return MemoryShares(
            windows=limit // 3,
            store=limit // 8,
            write_cache=limit // 8,
            buffer=limit // 16,
            sink_window=limit // 16 // max(sinks, 1),
            bodies=limit // 32,
        )
    return MemoryShares(
        windows=0,
        store=limit // 8,
        write_cache=limit // 4,
        buffer=limit // 8,
        sink_window=limit // 8 // max(sinks, 1),
        bodies=limit // 8,
    )
