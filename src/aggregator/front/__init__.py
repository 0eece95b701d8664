"""The front process: connections of producers (m3msg, raw TCP) in, batches for the workers out, acks back (docs/architecture.md §2, §4).

Started by the supervisor as ``python -m aggregator.front --options FILE``. Imports ``aggregator.ipc``, ``m3msg`` and ``m3x`` only. Open
``process`` first (the loop), then ``flow`` (order, credits, waiting: a state machine without I/O).

``options``   what the supervisor says at start
``process``   the loop and the supervisor's commands
``flow``      streams to the workers
``intake``    sockets → frames → batches
``clients``   the connections: accepting, writing acks, closing
``secure``    what they have to speak where there is TLS
``links``     the ZeroMQ sockets
``doors``     the listening sockets
``kernels``   compiled: cut frames, partition
``ids``       compiled: where metric ids are
``records``   compiled: records of raw TCP as frames
``figures``   names of the counters
"""

from collections.abc import Callable

from aggregator.front import kernels, records
from aggregator.front.options import FrontOptions, RawOptions
from aggregator.front.process import run

__all__ = ["FrontOptions", "RawOptions", "run", "warm"]


def warm(progress: Callable[[str], None]) -> None:
    """Compiles the kernels, or loads them from the cache."""
    progress("aggregator.front: frames and routing")
    kernels.warm()
    records.warm()
