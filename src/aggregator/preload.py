"""What front and workers are forked with: their modules and all kernels, loaded once (``m3x.processes.zygote``)."""

import functools
import importlib

from aggregator.warmup import PACKAGES
from m3x.warming import warm_module

__all__ = ["load"]

_MODULES = ("argparse", "aggregator.front", "aggregator.worker")
_ELSEWHERE = "m3metrics.kernels"
"""Its kernels are parts of the engine's here, and called by others only."""


@functools.cache
def load() -> None:
    """Imports, and loads every kernel from the cache, or compiles it: once, also for those who are forked. One thread, nothing opened."""
    for name in _MODULES:
        importlib.import_module(name)
    for name in PACKAGES:
        if name != _ELSEWHERE:
            warm_module(name, lambda step: None)
