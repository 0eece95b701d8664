"""Compiles the kernels of the coordinator, or loads them from numba's cache.

Called at set-up: ``python -m aggregator.warmup --also coordinator.warmup``.
"""

from collections.abc import Callable

import coordinator.query.kernels
import coordinator.store.kernels
import coordinator.write.kernels

__all__ = ["warm"]

_STEPS: tuple[tuple[str, Callable[[], None]], ...] = (
    ("write", coordinator.write.kernels.warm),
    ("store", coordinator.store.kernels.warm),
    ("query", coordinator.query.kernels.warm),
)


def warm(progress: Callable[[str], None]) -> None:
    """Calls every kernel once with the dtypes of the service; ``progress`` hears of each step."""
    for name, step in _STEPS:
        progress(name)
        step()
