"""What comes in: Prometheus remote write, OTLP, InfluxDB's line protocol, JSON and carbon, turned into messages for the aggregators.

Open ``remote_write`` or ``carbon`` first: each has a core without I/O (bytes → batches) and a thin shell. Which input gets which answer:
docs/answers.md. How each protocol is sent: docs/sending.md.

``options``, ``media``   headers; ``bodies``, ``decoding`` the body, ``attributes`` what a series says of itself besides its labels
``prometheus``           remote write, 1.0 and 2.0; ``native_histograms`` makes classic ones of those in it, if asked to,
                         ``declared`` passes on what is said of metrics
``sender``               what a protocol over HTTP is to ``remote_write``, which has what all of them share; ``outcome`` what they answer
``otlp``, ``influx``, ``json_write``  such protocols, ``building`` makes their columns, ``steps``, ``turns`` let others go on
                         beside large bodies; ``routes`` where they are
``carbon_line``          one line, plainly; ``carbon_rules`` what becomes of it, ``carbon_follow`` as namespaces come and go
``remembered``           lists the series of the cache, for dry runs of rules; ``carbon_dry_run`` that of carbon's
``series_cache``         makes repeated series cheap, ``key_log`` has their labels; ``interest`` says which ones rules are asked about
``growth``               tells which names new series have
``known``                the usual remote write, all of whose series are known, at once; ``shortcut`` answers it without an application
``series_labels``        sorted, renamed, valid tags of a series; ``storage_pass`` stores samples as they are
``batches``              encodes, ``door`` judges how late samples are; ``sink`` is what the messages are given to (a producer, not a store)
``limits``               what a tenant may send, ``active_series`` how many series; ``poisoned`` names who repeats what is refused for good
``topic``, ``readiness``  whether messages can be sent at all, ``legacy`` the same over raw TCP; ``acks`` waits for what the aggregators say
``forwarding``           remote writes that go to other coordinators as well, ``shadow`` which part of them
``repeats``              what both know of requests that will come again
``direct``               storage without aggregators; ``raw_series`` numbers its series
``kernels``              the door of the compiled loops: ``request_kernels``, ``symbol_kernels``, ``cache_kernels``, ``prepare_kernels``,
                         ``known_kernels``, ``id_kernels``, ``interest_kernels``, ``carbon_kernels``, ``limit_kernels``

Imports ``coordinator.not_kept``, ``coordinator.downsample``, ``coordinator.config``, ``coordinator.sinks`` and the ``m3*`` packages.
"""

from coordinator.write.acks import Acks
from coordinator.write.bodies import BodyRoom
from coordinator.write.carbon import CarbonIngester, CarbonServer
from coordinator.write.direct import DirectStore, HubDirectStore
from coordinator.write.door import Door
from coordinator.write.forwarding import Forwarding
from coordinator.write.growth import Grown, growth_routes
from coordinator.write.legacy import RawTCP
from coordinator.write.limits import Limiter
from coordinator.write.remembered import Remembered, remembered_route
from coordinator.write.remote_write import RemoteWriter
from coordinator.write.routes import remote_write_routes, sender_routes, writes_first
from coordinator.write.series_cache import SeriesCache
from coordinator.write.shortcut import RemoteWriteShortcut
from coordinator.write.sink import AggregatorSink, MessageSink, RefusedError
from coordinator.write.topic import IngestTopic

__all__ = [
    "Acks",
    "AggregatorSink",
    "BodyRoom",
    "CarbonIngester",
    "CarbonServer",
    "DirectStore",
    "Door",
    "Forwarding",
    "Grown",
    "HubDirectStore",
    "IngestTopic",
    "Limiter",
    "MessageSink",
    "RawTCP",
    "RefusedError",
    "Remembered",
    "RemoteWriteShortcut",
    "RemoteWriter",
    "SeriesCache",
    "growth_routes",
    "remembered_route",
    "remote_write_routes",
    "sender_routes",
    "writes_first",
]
