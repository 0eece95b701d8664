"""Port 7507: aggregated values from aggregators over m3msg into the store.

Open ``server`` first (``IngestServer``, and the ``Ingester`` behind it without a socket); ``translate`` turns messages into
columns; ``refusals`` remembers what was not stored. Imports ``coordinator.store``, ``m3msg``, ``m3metrics`` and ``m3x`` only.
"""

from coordinator.ingest.server import Ingester, IngestOptions, IngestServer
from coordinator.ingest.translate import Translation, Translator, Verdict

__all__ = ["IngestOptions", "IngestServer", "Ingester", "Translation", "Translator", "Verdict"]
