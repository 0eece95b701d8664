"""Port 7507: aggregated values from aggregators over m3msg into the store.

Open ``server`` first (``IngestServer``, and the ``Ingester`` behind it without a socket); ``translate`` turns messages into
columns, ``suffixes`` (compiled: ``suffix_kernels``) labels of what stands behind ids; ``outlet`` is where these go; ``refusals`` remembers
what was not stored. Imports ``coordinator.sinks``,
``coordinator.store``, ``m3msg``, ``m3metrics`` and ``m3x`` only.
"""

from coordinator.ingest.outlet import HubOutlet, Outlet, StoreOutlet
from coordinator.ingest.server import Ingester, IngestOptions, IngestServer
from coordinator.ingest.translate import Translation, Translator, Verdict

__all__ = [
    "HubOutlet",
    "IngestOptions",
    "IngestServer",
    "Ingester",
    "Outlet",
    "StoreOutlet",
    "Translation",
    "Translator",
    "Verdict",
]
