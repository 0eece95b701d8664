"""``embeddedAggregator``: aggregation inside the coordinator, M3's default without ``downsample.remoteAggregator`` (docs/architecture.md,
"Aggregation inside the coordinator"). Not a key of M3."""

import os
from pathlib import Path
from typing import Literal

from m3x.config import Section

__all__ = ["LEAST_BYTES", "LONGEST_RUN_DIRECTORY", "EmbeddedAggregatorConfig"]

LONGEST_RUN_DIRECTORY = 36
"""What the aggregator makes below it may have ``aggregator.config.LONGEST_RUN_DIRECTORY`` characters and its own names."""

_MIB = 1 << 20
LEAST_BYTES = 256 * _MIB
"""Of memory for all of it together."""


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
    """Of this coordinator, its aggregator and its embedded store together; 0: what the coordinator's own ``memoryLimitBytes`` says."""

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
        if self.memory_limit_bytes and self.memory_limit_bytes < LEAST_BYTES:
            raise ValueError(f"memoryLimitBytes must be at least {LEAST_BYTES}, found {self.memory_limit_bytes}")

    @property
    def worker_count(self) -> int:
        """``workers``, or what 0 means on this machine."""
        return self.workers or max((os.cpu_count() or 1) // 2, 1)
