"""The engine: everything a worker does with samples, as one pure class without sockets, clocks or threads.

Open ``engine`` first (the class), then ``tables`` (what its state looks like), ``ingest`` (what happens to a sample) and ``flush`` (what
happens to a window). Both stand on ``windows`` (what an aggregation type is: ``windows/values``) and ``state``. ``reasons`` names why
metrics are refused and what is counted, ``options`` is what it has to be told, ``passthrough`` keeps what needs no aggregation,
``snapshot`` saves and loads the state, ``warm`` compiles. May import ``aggregator.ipc``, ``m3metrics``, ``m3msg`` and ``m3x``.
"""

from aggregator.engine.engine import Engine, IngestResult
from aggregator.engine.flush.run import FlushPart, FlushRun
from aggregator.engine.options import EngineOptions
from aggregator.engine.warm import warm

__all__ = ["Engine", "EngineOptions", "FlushPart", "FlushRun", "IngestResult", "warm"]
