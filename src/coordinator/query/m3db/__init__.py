"""Queries answered from M3DB (docs/m3/coordinator.md, reading from M3DB).

Open ``source`` first. ``fan_out`` chooses the namespaces, ``consolidate`` makes one series of several, ``tags`` has their labels,
``registry`` the namespaces of the KV, ``refusals`` says what errors of nodes are for those who asked. Cores are pure; only ``source``
waits for anything.
"""

from coordinator.query.m3db.registry import readable
from coordinator.query.m3db.source import M3DBSource

__all__ = ["M3DBSource", "readable"]
