"""Compiles the kernels of the coordinator, or loads them from numba's cache.

Called at set-up: ``python -m aggregator.warmup --also coordinator.warmup``.
"""

from collections.abc import Callable

import coordinator.ingest.suffix_kernels
import coordinator.query.kernels
import coordinator.sinks.kernels
import coordinator.sinks.m3db.kernels
import coordinator.sinks.prom_remote.symbols
import coordinator.sinks.type_kernels
import coordinator.store.kernels
import coordinator.store.label_kernels
import coordinator.store.series_kernels
import coordinator.write.kernels
import coordinator.write.series_cache
import m3db.reader
import m3db.tallies
import m3db.write.warmup
import m3metrics.kernels
import m3msg.kernels
import m3msg.legacy.kernels
import m3msg.producer.kernels
import m3x.byte_table
import m3x.checksum

__all__ = ["warm"]

_STEPS: tuple[tuple[str, Callable[[], None]], ...] = (
    ("table", m3x.byte_table.warm),
    ("checksum", m3x.checksum.warm),
    ("metrics", m3metrics.kernels.warm),
    ("m3msg", m3msg.kernels.warm),
    ("producer", m3msg.producer.kernels.warm),
    ("raw TCP", m3msg.legacy.kernels.warm),
    ("write", coordinator.write.kernels.warm),
    ("series cache", coordinator.write.series_cache.warm),
    ("ingest", coordinator.ingest.suffix_kernels.warm),
    ("store", coordinator.store.kernels.warm),
    ("series", coordinator.store.series_kernels.warm),
    ("labels", coordinator.store.label_kernels.warm),
    ("sinks", coordinator.sinks.kernels.warm),
    ("types", coordinator.sinks.type_kernels.warm),
    ("m3db sink", coordinator.sinks.m3db.kernels.warm),
    ("prom-remote", coordinator.sinks.prom_remote.symbols.warm),
    ("m3db writes", m3db.write.warmup.warm),
    ("m3db copies", m3db.tallies.warm),
    ("query", coordinator.query.kernels.warm),
    ("m3db reads", m3db.reader.warm),
)


def warm(progress: Callable[[str], None]) -> None:
    """Calls every kernel once with the dtypes of the service; ``progress`` hears of each step."""
    for name, step in _STEPS:
        progress(name)
        step()
