"""The worker process: a thin shell around the engine (docs/architecture.md §2, §4).

Started by the supervisor as ``python -m aggregator.worker --options FILE``. Imports ``aggregator.ipc``, ``aggregator.engine``,
``aggregator.journal``, ``m3msg.batch`` and ``m3x``. Open ``process`` first.

``options``  what the supervisor says at start
``process``  the loop: the ordered stream, acks, flush output, reports
``flushes``  running flushes and output credit: a state machine without I/O
``durable``  the journal: replayed first, then written before anything is answered
``snapshots``  a forked child writes what the engine is
``acks``     acks of what an incarnation before has applied
``links``    the ZeroMQ sockets
"""

from aggregator.worker.options import WorkerOptions
from aggregator.worker.process import run

__all__ = ["WorkerOptions", "run"]
