"""The instances of a drill: real processes on loopback with one placement, both topics and one consumer of the output."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from lab import instances
from lab.cluster import member, write_cluster
from lab.failover.kv import FaultyKV
from lab.failover.plan import Timing
from m3cluster.kv import Store
from m3cluster.placement.model import Instance

__all__ = ["NUM_SHARDS", "Aggregator", "Cluster"]

NUM_SHARDS = 16


class Aggregator(instances.Aggregator):
    """One instance of a placement's shard set and isolation group."""

    def __init__(self, name: str, folder: Path, kv: FaultyKV, timing: Timing, shard_set: int, group: str) -> None:
        super().__init__(name, folder, kv.section(name), overlay={"aggregator": _settings(name, timing)})
        self.shard_set, self.group = shard_set, group


def _settings(name: str, timing: Timing) -> dict[str, Any]:
    """The local configuration of the project with its own id, and flushes at the very moment when they are due."""
    return {
        "hostID": {"value": name},
        "bufferDurationForPastTimedMetric": f"{timing.past_s}s",
        "electionManager": {"election": {"ttlSeconds": timing.ttl_s}},
        "flushManager": {"jitterEnabled": True, "maxJitters": [{"flushInterval": "1m", "maxJitterPercent": 0.0}]},
    }


class Cluster:
    """Instances of one placement that share a KV; use as a context manager."""

    def __init__(self, backend: str, timing: Timing, consumer: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="m3drill-"))
        self.timing = timing
        self.kv = FaultyKV(backend, self.folder)
        self.instances: dict[str, Aggregator] = {}
        self._consumer = consumer

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, name: str, shard_set: int, group: str) -> Aggregator:
        """An instance that is not started yet."""
        self.instances[name] = Aggregator(name, self.folder, self.kv, self.timing, shard_set, group)
        return self.instances[name]

    def placed(self, name: str) -> Instance:
        """An instance as a placement names it, without shards."""
        one = self.instances[name]
        return member(name, one.address, one.group, one.shard_set)

    def prepare(self) -> None:
        """Writes placements, already cut over, and topics: all instances added so far mirror each other."""
        placed = [self.placed(name) for name in self.instances]
        self.kv.do(lambda store: write_cluster(store, placed, self._consumer, NUM_SHARDS))

    def leader(self, shard_set: int = 1) -> Aggregator | None:
        """The instance that says that it leads."""
        members = [i for i in self.instances.values() if i.shard_set == shard_set and i.running]
        return next((i for i in members if i.leads()), None)

    def candidates(self) -> int:
        """Instances that lead or wait for the lead."""

        async def read(store: Store) -> int:
            return len(await store.keys("_ld/"))

        return self.kv.do(read)

    def close(self) -> None:
        """Kills everything and removes the files."""
        for instance in self.instances.values():
            if instance.running:
                instance.kill()
        self.kv.close()
        shutil.rmtree(self.folder, ignore_errors=True)
