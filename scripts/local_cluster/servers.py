"""The KV of the cluster: a file, or a server that is started for it."""

from pathlib import Path
from typing import Any, Protocol

from local_stack.processes import Service

__all__ = ["KV", "EmbeddedKV", "kv_of"]


class KV(Protocol):
    """A KV that the services can be pointed at."""

    def start(self, services: list[Service]) -> None:
        """Starts what it needs and adds it to ``services``. Raises ``StackError``."""

    def section(self, service: str) -> dict[str, Any]:
        """The section ``kvClient`` (aggregator) or ``clusterManagement`` (coordinator) of a service's file."""

    def m3ctl(self) -> str:
        """The options with which ``m3ctl`` reads it."""


class EmbeddedKV:
    """An SQLite file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "kv.sqlite"

    def start(self, services: list[Service]) -> None:
        """Nothing to start."""

    def section(self, service: str) -> dict[str, Any]:
        """The same for both services."""
        return {"embedded": {"path": str(self._path)}}

    def m3ctl(self) -> str:
        """The file."""
        return f"--embedded {self._path}"


def kv_of(kind: str, folder: Path) -> KV:
    """The KV that ``--kv`` names."""
    return {"embedded": EmbeddedKV}[kind](folder)
