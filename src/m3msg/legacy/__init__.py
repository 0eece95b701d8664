"""M3's older way from metrics to aggregators: raw TCP, without topic and without acks (docs/m3/metrics.md, raw TCP stream).

``client``   which instances a metric goes to, by the placement: open it first
``lane``     what waits for one instance, and the connection to it
``kernels``  compiled: messages as records
``options``  what a client is told
"""

from collections.abc import Callable

from m3msg.legacy import kernels
from m3msg.legacy.client import LegacyClient
from m3msg.legacy.options import LegacyOptions

__all__ = ["LegacyClient", "LegacyOptions", "warm"]


def warm(progress: Callable[[str], None]) -> None:
    """Compiles the kernels, or loads them from the cache."""
    progress("m3msg.legacy: records")
    kernels.warm()
