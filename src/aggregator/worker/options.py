"""What the supervisor tells a worker when it starts it: one JSON file."""

import msgspec

from aggregator.engine.options import EngineOptions
from aggregator.journal import JournalOptions


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Names and bounds of a worker; durations in nanoseconds."""

    index: int
    """Which worker of the instance."""
    epoch: int
    """Incarnation of this worker, counted by the supervisor."""
    front_epoch: int
    """Incarnation of the front that runs when this worker starts; later ones come as ``ipc.Attach``."""
    run_dir: str
    """Where the ``ipc://`` sockets of the instance live (``aggregator.ipc``)."""
    parent_pid: int
    """The supervisor: the worker ends with it."""
    engine: EngineOptions
    max_series: int = 1 << 24
    """Address space for this many entries is reserved; memory is taken as they come."""
    output_window_bytes: int = 8 << 20
    """Bytes of flushed output that the supervisor takes before it gives more credit; as many of final output as of forwarded metrics."""
    goodbye_timeout_ns: int = 10_000_000_000
    """How long running flushes may still wait for output credit after the front has said goodbye."""
    journal: JournalOptions | None = None
    """None: what is acked is in memory only."""
    log_level: str = "info"
