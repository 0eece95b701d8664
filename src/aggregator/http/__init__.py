"""The HTTP server of an instance: M3's ``/health``, ``/status``, ``/resign``, and ``/ready``, ``/shards`` and a page for people.

Open ``app`` first: the routes, against the ``StatusSource`` (``source``) that the supervisor implements. ``page`` renders the HTML.
Imports ``m3x`` only.
"""

from aggregator.http.app import create_app, rights
from aggregator.http.source import BUSY, ListRow, Load, Readiness, ShardRow, StatusSource

__all__ = ["BUSY", "ListRow", "Load", "Readiness", "ShardRow", "StatusSource", "create_app", "rights"]
