"""How many copies have to answer: levels, and what became of a write or a read (docs/m3/m3db_cluster.md, consistency).

``judge`` is the authority on one row of a write; ``m3db.tallies`` does the same for many rows in compiled code.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3db.topology import ShardState, Topology

__all__ = [
    "PENDING",
    "ConnectLevel",
    "Copies",
    "CopyRules",
    "ReadLevel",
    "ReadTally",
    "RowState",
    "WriteLevel",
    "connected_enough",
    "copies_of",
    "judge",
    "majority",
    "read_achieved",
    "read_decided",
    "write_achieved",
]


class WriteLevel(enum.StrEnum):
    """``writeConsistencyLevel``."""

    NONE = "none"
    ONE = "one"
    MAJORITY = "majority"
    ALL = "all"


class ReadLevel(enum.StrEnum):
    """``readConsistencyLevel``."""

    NONE = "none"
    ONE = "one"
    UNSTRICT_MAJORITY = "unstrict_majority"
    MAJORITY = "majority"
    UNSTRICT_ALL = "unstrict_all"
    ALL = "all"


class ConnectLevel(enum.StrEnum):
    """``connectConsistencyLevel``."""

    ANY = "any"
    NONE = "none"
    ONE = "one"
    MAJORITY = "majority"
    ALL = "all"


class RowState(enum.IntEnum):
    """What became of one row of a write."""

    WRITTEN = 0
    RETRY = 1
    """Too few copies have it; later it may succeed."""
    REFUSED = 2
    """So many copies say that the request is bad that the level is out of reach, whatever the others say: sending it again is in vain."""


PENDING = 3
"""Beside ``RowState``: the copies that have answered do not decide yet."""


def majority(replicas: int) -> int:
    """More than half of the replicas; copies beyond their number, while shards move, do not change it."""
    return replicas // 2 + 1


def write_achieved(level: WriteLevel, replicas: int, enqueued: int, successes: int) -> bool:
    """Whether a write that went to ``enqueued`` copies has succeeded on enough."""
    if level is WriteLevel.ALL:
        return successes == enqueued
    return successes >= {WriteLevel.NONE: 0, WriteLevel.ONE: 1, WriteLevel.MAJORITY: majority(replicas)}[level]


def read_achieved(level: ReadLevel, replicas: int, enqueued: int, successes: int) -> bool:
    """Whether a read from ``enqueued`` copies has succeeded on enough; the unstrict levels are content with one in the end."""
    if level is ReadLevel.ALL:
        return successes == enqueued
    if level is ReadLevel.MAJORITY:
        return successes >= majority(replicas)
    return level is ReadLevel.NONE or successes > 0


def read_decided(level: ReadLevel, replicas: int, remaining: int, successes: int) -> bool:
    """Whether waiting for the ``remaining`` copies is over."""
    if not remaining:
        return True
    if level in (ReadLevel.NONE, ReadLevel.ONE):
        return successes > 0
    return level in (ReadLevel.MAJORITY, ReadLevel.UNSTRICT_MAJORITY) and successes >= majority(replicas)


@dataclass(frozen=True, slots=True)
class CopyRules:
    """Which copies a write goes to, and which of them count."""

    level: WriteLevel = WriteLevel.MAJORITY
    write_initializing: bool = True
    """``writeShardsInitializing``."""
    leaving_counts: bool = False
    """``shardsLeavingCountTowardsConsistency``."""
    pair_counts: bool = False
    """``shardsLeavingAndInitializingCountTowardsConsistency``."""


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """For each shard of a topology what a write needs: bit n of a mask is slot n."""

    targets: NDArray[np.uint32]
    """Copies that are written to."""
    counted: NDArray[np.uint32]
    """Those whose success counts by itself."""
    partners: NDArray[np.int8]
    """Of shape (shards, widest): of a LEAVING copy the slot that takes its place, if the two count as one when both succeed; else -1.
    Where no two count as one it has no columns."""
    needed: NDArray[np.uint8]
    """Successes that are enough."""


def copies_of(topology: Topology, rules: CopyRules) -> Copies:
    """The copies of all shards under ``rules``.

    At level ``all`` every copy that is written to has to succeed, in whatever state its shard is: it is the only level where a copy that
    does not count otherwise decides.
    """
    present, states = topology.owners >= 0, topology.states
    targeted = present & ((states != ShardState.INITIALIZING) | rules.write_initializing)
    counting = targeted & ((states == ShardState.AVAILABLE) | (rules.leaving_counts & (states == ShardState.LEAVING)))
    partners = np.empty((topology.num_shards, 0), np.int8)
    targets = _mask(targeted)
    if rules.level is WriteLevel.ALL:
        return Copies(targets, targets, partners, targeted.sum(axis=1).astype(np.uint8))
    if rules.pair_counts and rules.write_initializing:
        leaving = targeted & (states == ShardState.LEAVING)
        partners = np.where(leaving, topology.partners, np.int8(-1))
    needed = {WriteLevel.NONE: 0, WriteLevel.ONE: 1}.get(rules.level, majority(topology.replicas))
    return Copies(targets, _mask(counting), partners, np.full(topology.num_shards, needed, np.uint8))


def judge(counted: int, partners: Sequence[int], needed: int, succeeded: int, failed: int, bad: int) -> int:
    """The state of a row (``RowState`` or ``PENDING``) once the copies of the masks have answered; ``bad`` is part of ``failed``.

    It has failed as soon as the level is out of reach. It is refused if the bad requests alone put it there; where it never was in reach,
    if every copy that counts said so.
    """

    def count(single: int, both: int) -> int:
        pairs = ((1 << slot) | (1 << other) for slot, other in enumerate(partners) if other >= 0)
        return (counted & single).bit_count() + sum(pair & both == pair for pair in pairs)

    if count(succeeded, succeeded) >= needed:
        return RowState.WRITTEN
    if count(~failed, ~failed) >= needed:
        return PENDING
    most, without_bad = count(~0, ~0), count(~bad, ~bad)
    if without_bad < most and (without_bad == 0 if most < needed else without_bad < needed):
        return RowState.REFUSED
    return RowState.RETRY


def connected_enough(level: ConnectLevel, topology: Topology, connected: NDArray[np.bool_]) -> bool:
    """Whether every shard has enough hosts of those that are ``connected`` (by index); ``any`` is judged as ``all``."""
    if level is ConnectLevel.NONE:
        return True
    there = (topology.owners >= 0) & connected[topology.owners]
    counts = there.sum(axis=1)
    wanted = {ConnectLevel.ONE: np.uint8(1), ConnectLevel.MAJORITY: np.uint8(majority(topology.replicas))}
    return bool((counts >= wanted.get(level, topology.copies)).all())


class ReadTally:
    """How far a read from all hosts has come, for every shard; a host has answered for all its shards at once."""

    def __init__(self, level: ReadLevel, topology: Topology) -> None:
        self._level = level
        self._topology = topology
        self._remaining = topology.copies.astype(np.int64)
        self._successes = np.zeros(topology.num_shards, np.int64)
        self._listed = topology.slots >= 0

    def answered(self, host: int, ok: bool) -> None:
        """The host of that index has answered; ``ok``: with a result. Shards that are not AVAILABLE there do not count as read."""
        listed = np.flatnonzero(self._listed[host])
        self._remaining[listed] -= 1
        if ok:
            available = self._topology.states[listed, self._topology.slots[host, listed]] == ShardState.AVAILABLE
            self._successes[listed[available]] += 1

    @property
    def decided(self) -> bool:
        """Whether no further answer is worth waiting for."""
        return not self._open().any()

    def short(self) -> NDArray[np.int64]:
        """The shards that were not read as the level asks, ascending."""
        enough = {ReadLevel.NONE: np.int64(0), ReadLevel.MAJORITY: np.int64(majority(self._topology.replicas))}
        wanted = self._topology.copies if self._level is ReadLevel.ALL else enough.get(self._level, np.int64(1))
        return np.flatnonzero(self._successes < wanted)

    def _open(self) -> NDArray[np.bool_]:
        waiting: NDArray[np.bool_] = self._remaining > 0
        if self._level in (ReadLevel.NONE, ReadLevel.ONE):
            waiting &= self._successes == 0
        elif self._level in (ReadLevel.MAJORITY, ReadLevel.UNSTRICT_MAJORITY):
            waiting &= self._successes < majority(self._topology.replicas)
        return waiting


def _mask(chosen: NDArray[np.bool_]) -> NDArray[np.uint32]:
    bits = np.uint32(1) << np.arange(chosen.shape[1], dtype=np.uint32)
    masks: NDArray[np.uint32] = np.where(chosen, bits, np.uint32(0)).sum(axis=1, dtype=np.uint32)
    return masks
