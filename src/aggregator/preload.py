"""What front and workers are forked with: their modules and all kernels, loaded once (``m3x.processes.zygote``)."""

import importlib

from aggregator.warmup import PACKAGES, warm_package

__all__ = ["load"]

_MODULES = ("argparse", "aggregator.front", "aggregator.worker")


def load() -> None:
    """Imports, and loads every kernel from the cache, or compiles it. One thread, nothing opened."""
    for name in _MODULES:
        importlib.import_module(name)
    for name in PACKAGES:
        warm_package(name, lambda step: None)
