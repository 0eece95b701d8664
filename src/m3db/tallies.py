"""Which rows of a write are decided, as answers of hosts come in; and which rows go to which hosts together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3db import tally_kernels as kernels
from m3db.consistency import PENDING, Copies, CopyRules, copies_of
from m3db.topology import Host, Topology

__all__ = ["BAD", "ERROR", "SUCCESS", "Part", "Routing", "WriteTally", "warm"]

SUCCESS, ERROR, BAD = 0, 1, 2
"""What a host says of one row."""
_WORTHWHILE_ROWS = 128
"""So many rows of the same hosts on average are worth requests of their own, which are encoded once for all of these hosts."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows for the same hosts: one encoding."""

    hosts: tuple[int, ...]
    """Indices of hosts in the topology."""
    rows: NDArray[np.int64] | None
    """Ascending; None: all rows."""


class Routing:
    """A topology as writes use it. It does not change: another topology has another one."""

    def __init__(self, topology: Topology, rules: CopyRules) -> None:
        self.topology = topology
        self.copies: Copies = copies_of(topology, rules)
        self.initial: NDArray[np.uint8] = np.empty(topology.num_shards, np.uint8)
        """By shard, the state of its rows before anybody has answered."""
        kernels.begin(self.copies.counted, self.copies.partners, self.copies.needed, self.initial)
        self._targeted = _targeted(topology, self.copies)
        sets: dict[bytes, int] = {}
        self._set_of_shard = np.array(
            [sets.setdefault(column.tobytes(), len(sets)) for column in self._targeted.T], np.int64
        )
        self._sets = [tuple(np.flatnonzero(np.frombuffer(key, np.bool_)).tolist()) for key in sets]

    def parts(self, shards: NDArray[np.uint32]) -> list[Part]:
        """All rows, each for every host that it goes to. Hosts share an encoding where that does not make many small requests."""
        if len(self._sets) == 1:
            return [Part(self._sets[0], None)] if len(shards) else []
        if len(shards) >= _WORTHWHILE_ROWS * len(self._sets):
            return self._by_set(shards)
        return self._by_host(shards)

    def _by_set(self, shards: NDArray[np.uint32]) -> list[Part]:
        bounds, order = np.zeros(len(self._sets) + 1, np.int64), np.empty(len(shards), np.int64)
        kernels.group(shards, self._set_of_shard, bounds, order)
        return [
            Part(self._sets[number], order[bounds[number] : bounds[number + 1]])
            for number in np.flatnonzero(np.diff(bounds)).tolist()
        ]

    def _by_host(self, shards: NDArray[np.uint32]) -> list[Part]:
        found = ((host, np.flatnonzero(targeted[shards])) for host, targeted in enumerate(self._targeted))
        return [Part((host,), rows) for host, rows in found if len(rows)]


class WriteTally:
    """One attempt to write rows; ``shards`` has the shard of each."""

    def __init__(self, routing: Routing, shards: NDArray[np.uint32]) -> None:
        self._routing = routing
        self._shards = shards
        self._succeeded, self._failed, self._bad = (np.zeros(len(shards), np.uint32) for _ in range(3))
        self.states: NDArray[np.uint8] = routing.initial[shards]
        """``RowState`` of each row, or ``PENDING``."""
        self.undecided = int(np.count_nonzero(self.states == PENDING))
        """How many rows are PENDING."""

    def answered(self, host: int, rows: NDArray[np.int64], outcomes: NDArray[np.uint8]) -> None:
        """A host (by index) has answered for ``rows``, which went to it once each: SUCCESS, ERROR or BAD for each of them."""
        copies = self._routing.copies
        self.undecided -= int(
            kernels.record(
                rows, outcomes, self._routing.topology.slots[host], self._shards, copies.counted, copies.partners,
                copies.needed, self._succeeded, self._failed, self._bad, self.states,
            )
        )  # fmt: skip

    def copies_failed(self) -> NDArray[np.uint8]:
        """Of each row, how many copies answered with an error that is no bad request."""
        return _bits(self._failed & ~self._bad)

    def copies_refused(self) -> NDArray[np.uint8]:
        """Of each row, how many copies answered with a bad request."""
        return _bits(self._bad)


def _bits(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    if not words.any():
        return np.zeros(len(words), np.uint8)
    counts: NDArray[np.uint8] = np.unpackbits(words.view(np.uint8).reshape(-1, 4), axis=1).sum(1, np.uint8)
    return counts


def _targeted(topology: Topology, copies: Copies) -> NDArray[np.bool_]:
    """Of shape (hosts, shards): whether a write to the shard goes to the host."""
    slots = topology.slots
    bits = np.where(slots >= 0, np.uint32(1) << np.maximum(slots, 0).astype(np.uint32), np.uint32(0))
    chosen: NDArray[np.bool_] = (bits & copies.targets[np.newaxis, :]) != 0
    return chosen


def warm() -> None:
    """Compiles what writes call."""
    routing = Routing(Topology.static([Host("a", "a:1"), Host("b", "b:1")], 2, 1), CopyRules())
    shards = np.array([0, 1], np.uint32)
    routing._by_set(shards)
    tally = WriteTally(routing, shards)
    tally.answered(0, np.zeros(1, np.int64), np.zeros(1, np.uint8))
