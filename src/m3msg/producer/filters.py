"""Filters of consumer services: which messages a service does not get. Semantics: docs/m3/m3msg.md, filters.

A filter sees a whole block at once and answers with a mask; a message goes out only if all filters of the service let it pass.
"""

import re
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from m3cluster.topic import Filters
from m3metrics.policy import StoragePolicy
from m3msg.producer.block import NO_MASK, Block

__all__ = [
    "Filter",
    "FilterError",
    "PercentageFilter",
    "PolicyTable",
    "ShardSetFilter",
    "StoragePolicyFilter",
    "build",
    "mask_of",
]

_MAX_KNOWN = 1024
_RANGE = re.compile(r"0*([0-9]{1,10})(?:\.\.0*([0-9]{1,10}))?")
_LAST_SHARD = 0xFFFFFFFF


class FilterError(ValueError):
    """A filter that cannot be understood."""


class PolicyTable:
    """Storage policies of all batches as small numbers, so that blocks can join batches whose own numbering differs."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._known: dict[tuple[str, ...], NDArray[np.uint16]] = {}

    def numbers(self, names: tuple[str, ...]) -> NDArray[np.uint16]:
        """uint16 per name: its number here."""
        table = self._known.get(names)
        if table is None:
            for name in names:
                if name not in self._numbers:
                    self._numbers[name] = len(self.names)
                    self.names.append(name)
            table = np.array([self._numbers[name] for name in names], np.uint16)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[names] = table
        return table


class Filter(Protocol):
    """One condition."""

    kind: str
    """M3's name, for figures."""

    def mask(self, block: Block) -> NDArray[np.bool_] | None:
        """bool per message: True where it passes; None: all pass."""


class ShardSetFilter:
    """Passes messages of the given topic shards."""

    kind = "ShardSetFilter"

    def __init__(self, *shards: Collection[int]) -> None:
        """A ``range`` stays one, however long it is."""
        self._shards = shards

    @property
    def shards(self) -> frozenset[int]:
        """All of them."""
        return frozenset().union(*self._shards)

    @classmethod
    def parse(cls, texts: str | Sequence[str]) -> "ShardSetFilter":
        """``n`` or ``a..b``, both ends included, or several of these (docs/m3/m3msg.md, filters). Raises ``FilterError``."""
        shards = []
        for text in [texts] if isinstance(texts, str) else texts:
            match = _RANGE.fullmatch(text)
            if match is None:
                raise FilterError(f"shard set {text!r} is neither a number nor a range like 0..31")
            first, last = int(match[1]), int(match[2] or match[1])
            if first > last:
                raise FilterError(f"shard set {text!r} ends before it begins")
            if last > _LAST_SHARD:
                raise FilterError(f"shard set {text!r} goes beyond {_LAST_SHARD}, the last shard that a topic can have")
            shards.append(range(first, last + 1))
        return cls(*shards)

    def mask(self, block: Block) -> NDArray[np.bool_]:
        """By topic shard."""
        passes = np.zeros(len(block.shards), np.bool_)
        for some in self._shards:
            if isinstance(some, range):
                passes |= (block.shards >= some.start) & (block.shards <= np.uint32(some.stop - 1))
            else:
                passes |= np.isin(block.shards, np.array(sorted(some), np.uint32))
        return passes


class StoragePolicyFilter:
    """Passes messages of equal window and retention; the precision does not count. Messages without a policy pass."""

    kind = "StoragePolicyFilter"

    def __init__(self, policies: Sequence[str], table: PolicyTable) -> None:
        try:
            self._policies = [StoragePolicy.parse(text) for text in policies]
        except ValueError as error:
            raise FilterError(f"storage policy filter {list(policies)}: {error}") from error
        self._table = table
        self._passes = np.zeros(0, np.bool_)

    def mask(self, block: Block) -> NDArray[np.bool_] | None:
        """By the policy that the batch names for each message."""
        if block.policies is None:
            return None
        if len(self._passes) < len(self._table.names):
            self._passes = np.array([self._wanted(name) for name in self._table.names], np.bool_)
        mask: NDArray[np.bool_] = self._passes[block.policies]
        return mask

    def _wanted(self, name: str) -> bool:
        try:
            policy = StoragePolicy.parse(name)
        except ValueError:
            return True
        return any(policy.equivalent(other) for other in self._policies)


class PercentageFilter:
    """Passes a random share of the messages; the number is a fraction, whatever its name says (docs/m3/m3msg.md, filters)."""

    kind = "PercentageFilter"

    def __init__(self, fraction: float, seed: int | None = None) -> None:
        self._bound = int(min(max(fraction, 0.0), 1.0) * (1 << 24))
        self._random = np.random.default_rng(seed)

    def mask(self, block: Block) -> NDArray[np.bool_]:
        """By a draw for each message."""
        draw: NDArray[np.bool_] = self._random.integers(0, 1 << 24, len(block), dtype=np.uint32) < self._bound
        return draw


def build(filters: Filters, table: PolicyTable) -> list[Filter]:
    """The dynamic filters of a topic, in M3's order. Raises ``FilterError``."""
    chain: list[Filter] = []
    if filters.shard_set is not None:
        chain.append(ShardSetFilter.parse(filters.shard_set))
    if filters.storage_policies is not None:
        chain.append(StoragePolicyFilter(filters.storage_policies, table))
    if filters.percentage is not None:
        chain.append(PercentageFilter(filters.percentage))
    if filters.routing_traffic_types is not None:
        raise FilterError("routing policy filters need a routing policy configuration, which is not supported")
    return chain


def mask_of(chain: Sequence[Filter], block: Block) -> NDArray[np.uint8]:
    """The joint mask of all filters, uint8 per message; empty: everything passes."""
    joint: NDArray[np.bool_] | None = None
    for condition in chain:
        mask = condition.mask(block)
        if mask is not None:
            joint = mask if joint is None else joint & mask
    if joint is None or joint.all():
        return NO_MASK
    return joint.view(np.uint8)
