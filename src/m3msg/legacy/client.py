"""The client of raw TCP: each metric goes to every instance that owns its shard, as the placement says.

An instance gets the metrics of a shard from some time before its cutover until some time after its cutoff. M3 compares a timed metric's own
time with these, here it is the time of sending for all. What no instance takes is dropped and counted.
"""

import asyncio
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from m3cluster.following import follow
from m3cluster.kv import Store, Value
from m3cluster.placement import Placement, Shard, decode_staged_placement
from m3cluster.placement.model import NEVER_NS
from m3msg.batch import MessageBatch
from m3msg.legacy.kernels import PREFIX_BOUND, put_records
from m3msg.legacy.lane import Lane
from m3msg.legacy.options import LegacyOptions
from m3x.clock import wall_ns
from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["LegacyClient"]

log = logger(__name__)

_LOOK_S = 1.0
"""Shards are cut over and cut off by time alone."""


class LegacyClient:
    """See the module; ``run`` it as long as it is used. ``scope``: that of M3's aggregator client."""

    def __init__(self, options: LegacyOptions, store: Store, scope: Scope, now_ns: Callable[[], int] = wall_ns) -> None:
        self._options = options
        self._store = store
        self._scope = scope
        self._now_ns = now_ns
        self._placement: Placement | None = None
        self._lanes: dict[str, Lane] = {}
        """By endpoint."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._takes: dict[str, NDArray[np.uint8]] = {}
        """Which shards each endpoint is sent."""
        self._closing = False

    @property
    def num_shards(self) -> int:
        """Of the placement; 0: there is none yet."""
        return 0 if self._placement is None else self._placement.num_shards

    @property
    def endpoints(self) -> frozenset[str]:
        """Of the instances of the placement."""
        return frozenset(self._lanes)

    @property
    def writing(self) -> int:
        """Instances that are connected, and have not been written all that waits for them."""
        return sum(not (lane.error or lane.idle.is_set()) for lane in self._lanes.values())

    def trouble(self) -> str | None:
        """Why nothing can be sent; None: it can."""
        key = self._options.placement_key
        if self._placement is None:
            return f"no placement of the aggregators yet under the key {key}"
        if not any(takes.any() for takes in self._takes.values()):
            return f"the placement under the key {key} has no instance that takes metrics now"
        return None

    def problems(self) -> list[str]:
        """Instances that cannot be reached, one line each."""
        return [
            f"aggregator {lane.endpoint} is not reached over raw TCP ({lane.error}): is it running with rawtcp, and is that its endpoint "
            "in the placement?"
            for lane in self._lanes.values()
            if lane.error
        ]

    def produce(self, batch: MessageBatch) -> int:
        """Takes messages, whose shards are those of the placement; returns how many go nowhere."""
        sent = np.zeros(max(self.num_shards, 1), np.uint8)
        out = np.empty(batch.size_bytes + PREFIX_BOUND * len(batch), np.uint8)
        for endpoint, takes in self._takes.items():
            nbytes, count = put_records(batch.payload, batch.offsets, batch.shards, takes, out)
            sent |= takes
            if count:
                self._scope.count("total-bytes-sent", int(nbytes))
                self._lanes[endpoint].put(out[:nbytes].tobytes(), int(count))
        taken = sent[np.minimum(batch.shards, len(sent) - 1)]
        if dropped := len(batch) - int(np.count_nonzero(taken)):
            self._scope.count("dropped", dropped)
            log.warning_limited("metrics are dropped: no instance takes their shards", metrics=dropped)
        return dropped

    async def run(self) -> None:
        """Follows the placement until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(follow(self._store, self._options.placement_key, _placement_of, self._changed))
                group.create_task(self._look())
        finally:
            await self._stop(list(self._tasks))

    async def close(self, timeout_s: float) -> None:
        """Waits until what waits is written, so long at most, and only for instances that are connected."""
        waiting = [asyncio.create_task(lane.idle.wait()) for lane in self._lanes.values() if not lane.error]
        if waiting:
            _, left = await asyncio.wait(waiting, timeout=timeout_s)
            for task in left:
                task.cancel()
        if left_bytes := sum(lane.queue.nbytes for lane in self._lanes.values()):
            log.warning("metrics are lost: their aggregators did not take them", bytes=left_bytes)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._choose()
            for endpoint, lane in self._lanes.items():
                self._scope.tagged(instance=endpoint).gauge("writer-manager.writer.queue.bytes", lane.queue.nbytes)

    def _changed(self, placement: Placement | None) -> None:
        if placement is None:
            log.warning(
                "the placement of the aggregators is gone; the last one counts", key=self._options.placement_key
            )
            return
        self._placement = placement
        endpoints = {instance.endpoint for instance in placement.instances}
        for endpoint in endpoints - self._lanes.keys():
            lane = self._lanes[endpoint] = Lane(endpoint, self._options, self._scope.sub("writer-manager.writer.queue"))
            self._tasks[endpoint] = asyncio.create_task(lane.run(), name=f"aggregator {endpoint}")
        for endpoint in self._lanes.keys() - endpoints:
            self._takes.pop(endpoint, None)
            self._lanes.pop(endpoint)
            self._tasks.pop(endpoint).cancel()
        self._choose()
        log.info("aggregators", version=placement.version, instances=sorted(endpoints), shards=placement.num_shards)

    def _choose(self) -> None:
        """Which shards are sent to whom now."""
        if self._placement is None:
            return
        now_ns = self._now_ns()
        found: dict[str, NDArray[np.uint8]] = {}
        for instance in self._placement.instances:
            # Several may be behind one endpoint.
            takes = found.setdefault(instance.endpoint, np.zeros(self._placement.num_shards, np.uint8))
            for shard in instance.shards:
                if shard.id < len(takes) and self._is_open(shard, now_ns):
                    takes[shard.id] = 1
        self._takes = found

    def _is_open(self, shard: Shard, now_ns: int) -> bool:
        until_ns = NEVER_NS if shard.cutoff_ns == NEVER_NS else shard.cutoff_ns + self._options.linger_ns
        return shard.cutover_ns - self._options.warmup_ns <= now_ns <= until_ns

    async def _stop(self, endpoints: list[str]) -> None:
        for endpoint in endpoints:
            self._tasks[endpoint].cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def _placement_of(value: Value) -> Placement:
    return decode_staged_placement(value.data, value.version)
