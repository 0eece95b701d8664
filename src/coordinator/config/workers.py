"""``workers``: how many processes take writes, and what of the coordinator's limits each of them may take."""

import os

import msgspec

from coordinator.config.coordinator import CoordinatorConfig

__all__ = ["ALL", "Shares", "share_in_use", "shares_of", "worker_count"]


class Shares(msgspec.Struct, frozen=True):
    """The share of one process in limits that are the coordinator's: one of ``parts``; 0: it needs none."""

    parts: int = 1

    def of(self, limit: int, least: int = 0) -> int:
        """What it may take of a limit; if it needs any, ``least`` where the limit has so much."""
        return max(limit // self.parts, min(least, limit)) if self.parts else 0


ALL = Shares()
"""Of a coordinator that is one process."""


def worker_count(config: CoordinatorConfig, wanted: int = 0) -> int:
    """How many processes take writes; 1: the coordinator is one process. ``wanted``: of the command line; 0: nothing said."""
    if not config.takes_samples:
        return 1
    return wanted or config.workers or len(os.sched_getaffinity(0))


def shares_of(config: CoordinatorConfig, workers: int) -> tuple[Shares, Shares]:
    """Of the main process, and of each write process: the main process takes only carbon, if that is configured."""
    if workers == 1:
        return ALL, ALL
    return Shares(workers + 1 if _takes_carbon(config) else 0), share_in_use(config, workers)


def share_in_use(config: CoordinatorConfig, in_use: int) -> Shares:
    """Of each of the write processes that take connections, so many, in limits on what comes over connections."""
    return Shares(in_use + _takes_carbon(config))


def _takes_carbon(config: CoordinatorConfig) -> bool:
    return config.takes_samples and config.carbon.ingester is not None
