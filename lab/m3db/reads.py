"""The methods of a node that read."""

from typing import Any

from lab.m3db.writes import ElementError, Reply, Told, Writer, exception

__all__ = ["Reads"]


class Reads:
    """Reads what a ``Writer`` stores."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def fetch_tagged(self, request: dict[str, Any], told: Told) -> Reply:
        """``fetchTagged``."""
        return exception(ElementError(0, "not played yet"))

    aggregate = fetch = fetch_tagged
