"""Placements of one service in the store: read with their versions, made, checked, written (docs/m3/cluster.md, placement service)."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence

import msgspec

from m3cluster.keys import placement_key
from m3cluster.kv import KeepsHistory, KeyNotFoundError, NotKeptError, Store, Value, VersionMismatchError
from m3cluster.placement.algorithm import choose
from m3cluster.placement.codec import (
    decode_placement,
    decode_staged_placement,
    encode_placement,
    encode_staged_placement,
)
from m3cluster.placement.describe import describe, describe_placement
from m3cluster.placement.errors import PlacementError
from m3cluster.placement.model import Instance, Placement
from m3cluster.placement.options import PlacementOptions
from m3cluster.placement.select import select_adding, select_initial, select_replacing
from m3cluster.placement.validate import InvalidPlacementError, validate
from m3metrics.shard import too_many_shards

__all__ = [
    "NoPlacementError",
    "PlacementExistsError",
    "PlacementService",
    "VersionNotKeptError",
    "read_placement",
]


class NoPlacementError(PlacementError):
    """The service has no placement."""


class PlacementExistsError(PlacementError):
    """The service has a placement already."""


class VersionNotKeptError(PlacementError):
    """An earlier version that the store does not keep."""


async def read_placement(store: Store, key: str, *, is_staged: bool) -> Placement:
    """The placement under a key, with the key's version. Raises ``NoPlacementError``, ``DecodeError``, ``KVError``."""
    try:
        value = await store.get(key)
    except KeyNotFoundError:
        raise NoPlacementError("key not found") from None
    return _decoded(value, is_staged=is_staged)


def _decoded(value: Value, *, is_staged: bool) -> Placement:
    decode: Callable[[bytes, int], Placement] = decode_staged_placement if is_staged else decode_placement
    return decode(value.data, value.version)


class PlacementService:
    """The placement of one service in one environment.

    ``dry_run`` does everything but write. ``check`` raises if the current placement must not be changed. ``rng`` decides where M3 decides
    by chance.
    """

    def __init__(
        self,
        store: Store,
        environment: str,
        service: str,
        options: PlacementOptions,
        *,
        dry_run: bool = False,
        check: Callable[[Placement], None] = validate,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._key = placement_key(environment, service)
        self._options = options
        self._dry_run = dry_run
        self._check = check
        self._algorithm = choose(options, rng)

    @property
    def key(self) -> str:
        """The placement's key."""
        return self._key

    async def placement(self) -> Placement:
        """The current placement. Raises ``NoPlacementError``, ``DecodeError``, ``KVError``."""
        return await read_placement(self._store, self._key, is_staged=self._options.is_staged)

    async def placement_for_version(self, version: int) -> Placement:
        """The placement as it was at a version. Raises as ``placement`` does, and ``PlacementError`` for a version that is none.

        Earlier ones need a store with a history (``KeepsHistory``), else they are a ``VersionNotKeptError``.
        """
        if version < 0:
            raise PlacementError("invalid version range")
        try:
            value = await self._store.get(self._key)
        except KeyNotFoundError:
            raise NoPlacementError("key not found") from None
        if version == 0:
            raise PlacementError(f"could not find version 0 for key {self._key}")
        if version > value.version:
            raise PlacementError("invalid number of placements returned: 0, expecting 1")
        if version < value.version:
            if not isinstance(self._store, KeepsHistory):
                raise VersionNotKeptError(
                    f"version {version} of {self._key} is not kept; the current version is {value.version}"
                )
            try:
                value = await self._store.get_version(self._key, version)
            except NotKeptError as error:
                raise VersionNotKeptError(str(error)) from error
        return _decoded(value, is_staged=self._options.is_staged)

    async def init(self, candidates: Iterable[Instance], num_shards: int, replica_factor: int) -> Placement:
        """Makes and stores the first placement; its ``version`` is 0, as M3 reports it, though the key's is 1.

        Raises ``PlacementExistsError``, ``PlacementError`` (no such placement can be made), ``InvalidPlacementError``, ``KVError``.
        """
        if num_shards < 0:
            raise PlacementError(f"could not build initial placement, invalid numShards {num_shards}")
        if wrong := too_many_shards(num_shards):
            raise InvalidPlacementError(wrong)
        if replica_factor <= 0:
            raise PlacementError(f"could not build initial placement, invalid replica factor {replica_factor}")
        # Thousands of shards on a hundred instances take a while.
        data, stored = await asyncio.to_thread(self._first, list(candidates), num_shards, replica_factor)
        if not self._dry_run:
            try:
                await self._store.set_if_not_exists(self._key, data)
            except VersionMismatchError:
                raise PlacementExistsError("key already has a value") from None
        return stored

    async def add(self, candidates: Iterable[Instance]) -> Placement:
        """Adds instances out of the candidates. All operations that change a placement raise ``NoPlacementError``, ``PlacementError``,
        ``InvalidPlacementError``, ``DecodeError``, ``KVError``, and answer the new placement with its version."""
        offered = list(candidates)

        def change(current: Placement) -> Placement:
            adding = select_adding(offered, current, self._options)
            placement = self._algorithm.add(current, adding)
            validate(placement)
            for instance in adding:
                if placement.instance(instance.id) is None:
                    raise PlacementError(f"unable to find added instance [{instance.id}] in new placement")
            return placement

        return await self._change(change)

    async def remove(self, ids: Sequence[str]) -> Placement:
        """Removes instances; they stay in the placement as long as they have shards that leave."""
        return await self._change(lambda current: self._algorithm.remove(current, ids))

    async def replace(
        self, leaving: Sequence[str], candidates: Iterable[Instance], *, select: bool = True
    ) -> Placement:
        """Replaces instances, by a selection of the candidates or, without ``select``, by exactly these."""
        offered = list(candidates)

        def change(current: Placement) -> Placement:
            if not select:
                return self._algorithm.replace(current, leaving, offered)
            adding = select_replacing(offered, leaving, current, self._options)
            placement = self._algorithm.replace(current, leaving, adding)
            validate(placement)
            for instance in adding:
                if placement.instance(instance.id) is None:
                    raise PlacementError(
                        f"unable to find added instance [{describe(instance)}] in new placement [{describe_placement(current)}]"
                    )
            return placement

        return await self._change(change)

    async def mark_shards_available(self, instance_id: str, shards: Iterable[int]) -> Placement:
        """Marks initializing shards of an instance available."""
        return await self._change(lambda current: self._algorithm.mark_shards_available(current, instance_id, shards))

    async def mark_instance_available(self, instance_id: str) -> Placement:
        """Marks all initializing shards of an instance available."""

        def change(current: Placement) -> Placement:
            if current.instance(instance_id) is None:
                raise PlacementError(f"could not find instance {instance_id} in placement")
            return self._algorithm.mark_instance_available(current, instance_id)

        return await self._change(change)

    async def mark_all_available(self) -> Placement:
        """Marks all initializing shards available."""
        return await self._change(self._algorithm.mark_all_available)

    async def balance(self) -> Placement:
        """Evens out the loads."""
        return await self._change(self._algorithm.balance)

    async def add_replica(self) -> Placement:
        """Adds a replica of every shard."""
        return await self._change(self._algorithm.add_replica)

    async def put(self, placement: Placement, version: int) -> int:
        """Stores a placement as it is over the one of that version (0: there is none yet); returns its version, 0 for a dry run.

        Raises ``InvalidPlacementError``, ``KVError``.
        """
        validate(placement)
        data, _ = self._encode(placement)
        return 0 if self._dry_run else await self._store.check_and_set(self._key, version, data)

    async def delete(self) -> None:
        """Deletes the placement. Raises ``NoPlacementError``, ``KVError``."""
        if self._dry_run:
            return
        try:
            await self._store.delete(self._key)
        except KeyNotFoundError:
            raise NoPlacementError("key not found") from None

    async def _change(self, change: Callable[[Placement], Placement]) -> Placement:
        current = await self.placement()
        data, stored = await asyncio.to_thread(self._changed, change, current)
        if self._dry_run:
            return stored
        version = await self._store.check_and_set(self._key, current.version, data)
        return msgspec.structs.replace(stored, version=version)

    def _changed(self, change: Callable[[Placement], Placement], current: Placement) -> tuple[bytes, Placement]:
        self._check(current)
        placement = change(current)
        validate(placement)
        return self._encode(placement)

    def _first(self, candidates: list[Instance], num_shards: int, replica_factor: int) -> tuple[bytes, Placement]:
        selected = select_initial(candidates, replica_factor, self._options)
        placement = self._algorithm.initial(selected, num_shards, replica_factor)
        validate(placement)
        return self._encode(placement)

    def _encode(self, placement: Placement) -> tuple[bytes, Placement]:
        """The bytes to store and the placement as they say it: a staged one has a cutover time of 0."""
        if not self._options.is_staged:
            return encode_placement(placement), placement
        stored = msgspec.structs.replace(placement, cutover_time_ns=0)
        return encode_staged_placement(stored), stored
