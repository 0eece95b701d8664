"""Who leads each shard set of the aggregators, as the KV says."""

from collections.abc import Iterable

from m3cluster.keys import election_prefix
from m3cluster.kv import KVError, Store
from m3cluster.placement.model import Placement
from m3cluster.topic import ServiceID
from m3metrics.shard import shard_of
from m3x.clock import boot_ns

__all__ = ["Leaders", "owners"]

_ELECTION = "shardset/%d/lock"
"""M3's default (``electionKeyFmt``)."""
_KEPT_NS = 4 * 10**9


class Leaders:
    """``of`` reads the keys of the elections, each at most once in four seconds. ``environment``: of services that name none."""

    def __init__(self, store: Store, environment: str) -> None:
        self._store = store
        self._environment = environment
        self._found: dict[str, tuple[int, str]] = {}

    async def of(self, service: ServiceID, shard_sets: Iterable[int]) -> dict[int, str]:
        """Shard set → value of the leader's key, which is its instance id by default; without those whose leader is not known."""
        leaders = {}
        for number in shard_sets:
            election = _ELECTION.replace("%d", str(number))
            prefix = election_prefix(service.environment or self._environment, service.name, election)
            read_ns, leader = self._found.get(prefix, (0, ""))
            if boot_ns() - read_ns > _KEPT_NS:
                leader = await self._read(prefix)
                self._found[prefix] = boot_ns(), leader
            if leader:
                leaders[number] = leader
        return leaders

    async def _read(self, prefix: str) -> str:
        try:
            keys = await self._store.keys(prefix + "/")
        except KVError:
            return ""
        return next((value.data.decode(errors="replace") for _, value in keys), "")


def owners(placement: Placement, ident: bytes) -> tuple[int, list[tuple[str, int]]]:
    """Shard of an id, and the instances that hold it with their shard sets."""
    shard = shard_of(ident, placement.num_shards)
    return shard, [(i.id, i.shard_set_id) for i in placement.instances if any(s.id == shard for s in i.shards)]
