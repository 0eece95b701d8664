"""What write processes are forked with: their modules and all kernels, loaded once (``m3x.processes.zygote``)."""

import argparse  # noqa: F401 - each of them reads its arguments
import functools

import coordinator.writers.process  # noqa: F401
from coordinator.warmup import warm

__all__ = ["load"]


@functools.cache
def load() -> None:
    """Loads every kernel from the cache, or compiles it: once, also for those who are forked. One thread, nothing opened."""
    warm(lambda step: None)
