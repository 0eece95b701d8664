"""May messages be sent to the ingest topic? Decided from the topic and the placements of its consumers; pure.

Before a shard's cutover no aggregator takes its messages, and a topic without consumers would swallow everything: in both cases senders are
told to come again, with the reason and the time left.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from m3cluster.placement import Placement
from m3cluster.topic import ConsumptionType, ServiceID, Topic


@dataclass(frozen=True, slots=True)
class Opening:
    """When messages may be sent: at ``opens_ns`` (0: now); None: not before something else changes, which ``reason`` names."""

    opens_ns: int | None
    reason: str = ""

    def refusal(self, now_ns: int) -> str | None:
        """Why not at ``now_ns``; None: messages may be sent."""
        if self.opens_ns is None:
            return self.reason
        if now_ns >= self.opens_ns:
            return None
        return f"{self.reason} in {-(-(self.opens_ns - now_ns) // 1_000_000_000)} s"


def judge(
    name: str,
    topic: Topic | None,
    placements: Mapping[ServiceID, Placement | None],
    now_ns: int,
    ignore_cutover: bool = False,
) -> Opening:
    """``placements``: what is known of each consumer service. Cutoffs in the past count as no owner."""
    if topic is None:
        return Opening(None, f"the topic {name} does not exist yet: create it (POST /api/v1/topic/init)")
    if not topic.consumer_services:
        return Opening(None, f"the topic {name} has no consumer yet: add m3aggregator to it (POST /api/v1/topic)")
    opens, reason = 0, ""
    for consumer in topic.consumer_services:
        service = consumer.service_id
        placement = placements.get(service)
        if placement is None or not placement.instances:
            return Opening(
                None,
                f"the placement of {service.name} in environment {service.environment} does not exist yet: "
                f"create it (POST /api/v1/services/{service.name}/placement/init)",
            )
        if consumer.consumption_type is not ConsumptionType.REPLICATED or ignore_cutover or not placement.is_sharded:
            continue
        if placement.num_shards != topic.number_of_shards:
            return Opening(
                None,
                f"the placement of {service.name} has {placement.num_shards} shards, the topic {name} "
                f"{topic.number_of_shards}: they must be equal",
            )
        cutovers: dict[int, int] = {}
        for instance in placement.instances:
            for shard in instance.shards:
                if shard.cutoff_ns > now_ns:
                    cutovers[shard.id] = min(cutovers.get(shard.id, shard.cutover_ns), shard.cutover_ns)
        for shard_id in range(placement.num_shards):
            if shard_id not in cutovers:
                return Opening(None, f"shard {shard_id} has no owner in the placement of {service.name}")
        latest = max(cutovers.values(), default=0)
        if latest > max(opens, now_ns):
            opens, reason = latest, f"the shards of {service.name} will be cut over"
    return Opening(opens, reason)
