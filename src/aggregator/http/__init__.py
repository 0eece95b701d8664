"""The HTTP server of an instance: M3's ``/health``, ``/status``, ``/resign``, and ``/ready``, ``/shards`` and a page for people.

Open ``app`` first: the routes, against the ``StatusSource`` that the supervisor implements. ``page`` renders the HTML.
Imports ``m3x`` only.
"""

from aggregator.http.app import ListRow, Readiness, ShardRow, StatusSource, create_app

__all__ = ["ListRow", "Readiness", "ShardRow", "StatusSource", "create_app"]
