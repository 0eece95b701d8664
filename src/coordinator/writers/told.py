"""What write processes and the main process tell each other, over their link and in the file of options."""

import msgspec

from coordinator.config.cluster import Namespace
from coordinator.write import Grown
from m3x.instrument import Report

__all__ = [
    "CONFIGURATION",
    "DIRECT", "END", "HELLO", "NAMESPACES", "SERIES", "STATE", "DirectAnswer", "Hello", "State", "Stored", "ToldNamespaces",
    "WorkerOptions",
]  # fmt: skip

HELLO, STATE, DIRECT = "hello", "state", "direct"
"""Calls of a write process; the main process asks for a state, too."""
NAMESPACES, SERIES, CONFIGURATION, END = "namespaces", "series", "configuration", "end"
"""Calls of the main process."""


class WorkerOptions(msgspec.Struct, frozen=True):
    """What one incarnation of a write process is told."""

    index: int
    workers: int
    epoch: int
    run_dir: str
    data_dir: str
    inside_kv: str
    """The KV of the aggregator inside; empty: there is none."""
    identity: str
    """Of the coordinator, where its remote writes are forwarded."""


class Hello(msgspec.Struct, frozen=True):
    """Who opens a link."""

    index: int
    epoch: int


class ToldNamespaces(msgspec.Struct, frozen=True):
    """Those of storage now."""

    known: bool
    namespaces: list[Namespace]


class State(msgspec.Struct, frozen=True):
    """How a write process is."""

    figures: Report = Report()
    reasons: list[str] = []
    problems: list[str] = []
    notes: list[str] = []
    grown: Grown = Grown()
    declared: list[tuple[bytes, bytes, bytes]] = []
    """What is new of metric families: name, help, unit."""


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """A sample that storage refused: a row of what was handed over."""

    row: int
    reason: str
    text: str


class DirectAnswer(msgspec.Struct, frozen=True):
    """What became of samples for stores."""

    again: bool = False
    """They were not read: series and destinations are to be defined anew."""
    failed: str = ""
    """Storage failed; empty: it did not."""
    refused: list[Stored] = []
