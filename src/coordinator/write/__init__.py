"""What comes in: Prometheus remote write and carbon, turned into messages for the aggregators.

Open ``remote_write`` or ``carbon`` first: each has a core without I/O (bytes → batches) and a thin shell. ``options`` and ``media`` read
headers, ``decoding`` bodies; ``kernels`` are the compiled loops, ``series_cache`` makes repeated series cheap, ``batches`` encodes,
``sink`` is what messages are given to; ``direct`` is storage without aggregators, ``raw_series`` numbers its series. Which input gets
which answer: docs/answers.md.
Imports ``coordinator.not_kept``, ``coordinator.downsample``, ``coordinator.config``, ``coordinator.sinks`` and the ``m3*`` packages.
"""

from coordinator.write.carbon import CarbonIngester, CarbonServer
from coordinator.write.direct import DirectStore, HubDirectStore
from coordinator.write.remote_write import RemoteWriter, remote_write_routes
from coordinator.write.series_cache import SeriesCache
from coordinator.write.sink import MessageSink, RefusedError
from coordinator.write.topic import IngestTopic

__all__ = [
    "CarbonIngester",
    "CarbonServer",
    "DirectStore",
    "HubDirectStore",
    "IngestTopic",
    "MessageSink",
    "RefusedError",
    "RemoteWriter",
    "SeriesCache",
    "remote_write_routes",
]
