"""``embeddedAggregator``: aggregation inside the coordinator, M3's default without ``downsample.remoteAggregator`` (docs/architecture.md,
"Aggregation inside the coordinator"). Not a key of M3."""

import os
from pathlib import Path
from typing import Literal

from m3x.config import Section

__all__ = ["LONGEST_RUN_DIRECTORY", "EmbeddedAggregatorConfig", "MemoryShares", "machine_bytes", "memory_shares"]

LONGEST_RUN_DIRECTORY = 36
"""What the aggregator makes below it may have ``aggregator.config.LONGEST_RUN_DIRECTORY`` characters and its own names."""

_MIB = 1 << 20
_LEAST_BYTES = 256 * _MIB


class EmbeddedAggregatorConfig(Section, frozen=True):
    """``embeddedAggregator``."""

    enabled: bool = True
    """False: without ``remoteAggregator`` nothing is aggregated, in a coordinator that only reads, say."""
    workers: int = 0
    """Processes that aggregate; 0: one for every two CPUs."""
    directory: str = "aggregator"
    """Journals, and the state of its own cluster of one. A relative path is taken below the data directory."""
    run_directory: str = ""
    """Its sockets; empty: a private temporary directory."""
    journal_sync: Literal["os", "interval", "always"] = "os"
    """What an acknowledged sample survives beside the death of processes: nothing, a power cut but for 100 ms, any power cut."""
    memory_limit_bytes: int = 0
    """Of this coordinator, its aggregator and its embedded store together (``memory_shares``); 0: half of what the machine has."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, found {self.workers}")
        if not self.directory:
            raise ValueError("directory must not be empty")
        if self.run_directory and len(str(Path(self.run_directory).resolve())) > LONGEST_RUN_DIRECTORY:
            raise ValueError(
                f"runDirectory is too long for the names of sockets: {self.run_directory!r} has more than "
                f"{LONGEST_RUN_DIRECTORY} characters"
            )
        if self.memory_limit_bytes and self.memory_limit_bytes < _LEAST_BYTES:
            raise ValueError(f"memoryLimitBytes must be at least {_LEAST_BYTES}, found {self.memory_limit_bytes}")

    @property
    def worker_count(self) -> int:
        """``workers``, or what 0 means on this machine."""
        return self.workers or max((os.cpu_count() or 1) // 2, 1)

    @property
    def limit_bytes(self) -> int:
        """``memoryLimitBytes``, or what 0 means on this machine."""
        return self.memory_limit_bytes or max(machine_bytes() // 2, _LEAST_BYTES)


class MemoryShares(Section, frozen=True):
    """Upper bounds in bytes; together they are at most three quarters of the limit, the rest is for programs and series."""

    windows: int
    """``instance.memoryLimitBytes`` of the aggregator: beyond it new series are refused, at twice as much every value."""
    store: int
    """DuckDB."""
    write_cache: int
    buffer: int
    """Messages that the aggregator has not acknowledged."""
    sink_window: int
    """What of each queue is in memory."""


def memory_shares(limit: int, sinks: int) -> MemoryShares:
    """The shares of a limit with so many queues before stores; twice ``windows`` is what windows may take."""
    return MemoryShares(
        windows=limit // 6,
        store=limit // 8,
        write_cache=limit // 8,
        buffer=limit // 16,
        sink_window=limit // 16 // max(sinks, 1),
    )


def machine_bytes() -> int:
    """Memory of the machine, or of the control group that we are in."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            found = min(found, int(text))
    return found
