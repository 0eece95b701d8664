"""Shards move under load: a second pair joins, takes half of the shards at the cutover, and gives them back before it leaves.

The producer follows the placement as M3's does: a sample goes to the instances whose cutover and cutoff of its shard enclose its time.
Every window from the start to the end is judged; no replica lacks any.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from lab.failover.cluster import NUM_SHARDS, Cluster
from lab.failover.consumer import Consumer
from lab.failover.judge import Verdict, judge
from lab.failover.load import COUNTERS, Load, Replica
from lab.failover.plan import Timing
from lab.kv import ENVIRONMENT
from lab.waiting import wait_until
from m3cluster.kv import Store
from m3cluster.placement.model import Placement
from m3cluster.placement.options import PlacementOptions
from m3cluster.placement.service import PlacementService
from m3cluster.placement.times import CutoverTimes

__all__ = ["Scaling", "scaling"]

_NEVER = 1 << 62
_LEAST_LEAD_S = 25.0
"""A placement is changed at least so long before the next whole minute: new instances have to be up by then."""
_AFTER_S = 45.0
"""So long after a cutover the last windows of before are settled."""


@dataclass(slots=True)
class Scaling:
    """A pair under load, and what happened to it."""

    timing: Timing
    cluster: Cluster
    consumer: Consumer
    load: Load
    moved: list[int] = field(default_factory=list)
    """Shards that changed hands at each cutover."""

    def begin(self) -> int:
        """Waits until the first pair is warm; the first window to judge."""
        self._follow(self._change(lambda service: service.placement()))
        replicas = list(self.load.replicas.values())
        wait_until("the producer is connected", lambda: all(r.connected for r in replicas), 120)
        wait_until("somebody leads", self.cluster.leader, 120)
        wait_until("both are candidates", lambda: self.cluster.candidates() == 2, 180, every_s=0.5)
        resolution = self.load.resolution_ns
        return (time.time_ns() // resolution + 1) * resolution

    def out(self) -> int:
        """The second pair joins; returns its cutover (Unix ns) when that is long past."""
        for name, group in (("a2", "a"), ("b2", "b")):
            instance = self.cluster.add(name, 2, group)
            instance.start()
            self.load.add(Replica(name, instance.socket_address, cutover_ns=np.full(len(self.load.ids), _NEVER)))
        placed = [self.cluster.placed(name) for name in ("a2", "b2")]
        cutover = self._at_cutover(lambda service: service.add(placed))
        if self.cluster.leader(2) is None:
            raise RuntimeError("nobody leads the new shard set")
        return cutover

    def back(self) -> int:
        """The second pair gives everything back and ends; returns the cutover when that is long past."""
        cutover = self._at_cutover(lambda service: service.remove(["a2", "b2"]))
        wait_until("the leaving pair leaves the election", lambda: self.cluster.leader(2) is None, 120)
        for name in ("a2", "b2"):
            self.load.remove(name)
            instance = self.cluster.instances[name]
            instance.terminate()
            if (code := instance.process.wait(60)) != 0:
                raise RuntimeError(f"{name} ended with {code}")
        return cutover

    def judge(self, first: int, end: int) -> Verdict:
        """All windows from ``first`` to before ``end``."""
        resolution = self.load.resolution_ns
        return judge(
            self.load.expected,
            self.consumer.arrivals,
            self.load.number,
            list(range(first, end, resolution)),
            resolution,
            lambda series, window: True,
            lambda series: int(self.timing.due_s(int(series >= COUNTERS)) * 1e9),
        )

    def _at_cutover(self, change: Callable[[PlacementService], Awaitable[Placement]]) -> int:
        left_s = 60 - time.time() % 60
        if left_s < _LEAST_LEAD_S:
            time.sleep(left_s + 0.5)
        placement = self._change(change)
        cutover = max(s.cutover_ns for i in placement.instances for s in i.shards)
        self.moved.append(len({s.id for i in placement.instances for s in i.shards if s.cutover_ns == cutover}))
        self._follow(placement)
        time.sleep(max((cutover - time.time_ns()) / 1e9, 0) + _AFTER_S)
        return cutover

    def _change(self, change: Callable[[PlacementService], Awaitable[Placement]]) -> Placement:
        async def run(store: Store) -> Placement:
            times = CutoverTimes.aggregator(time.time_ns())
            options = PlacementOptions(is_mirrored=True, is_staged=True, skip_port_mirroring=True, times=times)
            return await change(PlacementService(store, ENVIRONMENT, "m3aggregator", options))

        return self.cluster.kv.do(run)

    def _follow(self, placement: Placement) -> None:
        for instance in placement.instances:
            cutover, cutoff = np.full(NUM_SHARDS, _NEVER), np.zeros(NUM_SHARDS, np.int64)
            for shard in instance.shards:
                cutover[shard.id], cutoff[shard.id] = shard.cutover_ns, shard.cutoff_ns
            replica = self.load.replicas[instance.id]
            replica.cutover_ns, replica.cutoff_ns = cutover[self.load.shards], cutoff[self.load.shards]


@contextmanager
def scaling(backend: str, timing: Timing) -> Iterator[Scaling]:
    """The first pair is started and under load; everything is gone afterwards."""
    consumer = Consumer()
    load = Load(timing.resolution_s, NUM_SHARDS)
    try:
        with Cluster(backend, timing, consumer.address) as cluster:
            for name, group in (("a1", "a"), ("b1", "b")):
                instance = cluster.add(name, 1, group)
                load.add(Replica(name, instance.socket_address))
            cluster.prepare()
            for instance in cluster.instances.values():
                instance.start()
            load.start()
            yield Scaling(timing, cluster, consumer, load)
    finally:
        load.stop()
        consumer.close()
