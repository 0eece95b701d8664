"""Which instance of a placement holds which shards, for pages."""

from m3cluster.placement.model import Instance, ShardState
from m3x.pages import Holder, stretches

__all__ = ["holder"]

_KINDS = {
    ShardState.AVAILABLE: "available",
    ShardState.INITIALIZING: "initializing",
    ShardState.LEAVING: "leaving",
}


def holder(one: Instance, num_shards: int, leader: str | None, now_ns: int, note: str = "") -> Holder:
    """The row of an instance. ``leader``: of its shard set; None: not known. ``note`` stands before the number of that set."""
    states = {}
    for shard in one.shards:
        left_s = (shard.cutover_ns - now_ns) / 1e9
        waits = f"cut over in {left_s:.0f} s" if left_s > 0 else ""
        states[shard.id] = (_KINDS.get(shard.state, "none"), waits)
    role = "" if leader is None else "leader" if leader == one.id else "follower"
    return Holder(one.id, role, f"{note}shard set {one.shard_set_id}", stretches(states, num_shards))
