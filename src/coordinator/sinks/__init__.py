"""Where values go: stores behind queues on disk, each for the storage policies that it is configured for.

Open ``sink`` first: the one small interface of a store (``Sink.deliver``: a batch of columns in, a verdict per row out). ``values`` has
the columns (``annotations`` one that is there only where it is needed), and ``series`` the table that gives every series a number for
all sinks at once; then ``hub``, which is what writers see (``resends`` tells it what is sent again). Behind it, for each sink: ``queue``
(``records`` has its bytes), ``delivery`` (a core; ``lanes``, ``parking``, ``intervals``), ``deliverer`` (the shell of both), ``status``,
which ``routes`` shows over HTTP; ``kernels`` are the compiled loops. ``metric_types`` (``type_kernels``) notes which types annotations
say. The stores are ``file`` (the smallest: begin a new one from it), ``embedded``, ``prom_remote`` and ``m3db``; ``coordinator.storage``
makes them of ``coordinator.config.sinks``.

::

    7507, direct writes ──► Hub ──┬─► Queue (log on disk) ──► Delivery: window in memory, lanes, back-off ──► Sink
                                  ├─► Queue …                                                                 …
                                  └─► (one sink that is the embedded store, alone: no queue, written at once)

* ``Hub.write`` gives a batch to every sink that takes its policies, and returns when each of them has it safely: appended to its queue
  (and synced, as the queue's policy asks), or written, where there is no queue. Only then the message that brought it is acknowledged.
* A queue is a log (``m3x.segments``). Every value is appended to it; what is delivered is the copy in memory, which is bounded by
  ``window_bytes``; beyond it, and after a restart, it is read from disk again. The delivered position is on disk at least every
  second, so that after a crash at most the values since then are delivered twice.
* ``Delivery`` splits what is read into lanes by series; a lane has one request under way at a time, so a sink that is *ordered* gets each
  series in order. A sink that is not gets the newest values first when it lags, and the backlog beside them.
* Errors by kind (``sink``): what may be cured by waiting holds the lane; what cannot is a refusal of single rows, counted by reason.

The queue's records carry policies and tags, no indices of this run's configuration: a queue outlives changes of the file.
Imports ``m3metrics`` and ``m3x``; the stores also ``m3db``, ``coordinator.store``, ``coordinator.config`` and ``coordinator.prompb``.
"""

from coordinator.sinks.annotations import Annotations
from coordinator.sinks.embedded import EmbeddedSink
from coordinator.sinks.file import FileSink
from coordinator.sinks.hub import Hub, NotYetSafeError, QueuedSink, open_hub
from coordinator.sinks.queue import QueueOptions
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import Delivered, HeldError, Parked, Refused, RefusedWhy, Sink, TryAgainError
from coordinator.sinks.status import SinkStatus
from coordinator.sinks.values import Destination, TimeUnit, Values

__all__ = [
    "Annotations",
    "Delivered",
    "Destination",
    "EmbeddedSink",
    "FileSink",
    "HeldError",
    "Hub",
    "NotYetSafeError",
    "Parked",
    "QueueOptions",
    "QueuedSink",
    "Refused",
    "RefusedWhy",
    "SeriesTable",
    "Sink",
    "SinkStatus",
    "TimeUnit",
    "TryAgainError",
    "Values",
    "open_hub",
]
