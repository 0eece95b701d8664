"""What can be wrong with the set-up of an instance: each as one line that says what, where, and what to do.

``…_fault``: metrics are lost, or nothing is served, until it is mended (a reason of ``/ready``). ``…_warning``: all works, but not as it
was meant (a note of ``/ready``). None: nothing is wrong. Pure, but for ``connect_error`` and ``try_endpoint``.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from aggregator.supervisor.placement import View, nearest_ids
from m3cluster.topic import Topic
from m3x.endpoints import connect

__all__ = [
    "connect_error",
    "endpoint_warning",
    "host_id_fault",
    "ingest_topic_warning",
    "no_placement_fault",
    "output_topic_fault",
    "replicas_warning",
    "shard_counts_fault",
    "try_endpoint",
]

_PLACEMENT_API = "/api/v1/services/m3aggregator/placement"
_CONNECT_S = 3.0
_LOOK_S = 0.5
_AGAIN_S = 5.0


def no_placement_fault(key: str) -> str:
    """Nothing is under the placement's key."""
    return f"no placement yet under the key {key}: create it with POST {_PLACEMENT_API}/init of a coordinator"


def host_id_fault(seen: View) -> str | None:
    """The placement does not know us."""
    if seen.instance is not None:
        return None
    near = ", ".join(nearest_ids(seen.placement, seen.instance_id)) or "none at all"
    return (
        f"instance {seen.instance_id} is not in the placement of version {seen.placement.version}, which has: {near}; "
        f"set hostID/instanceID to one of these, or add this instance with POST {_PLACEMENT_API}"
    )


def replicas_warning(seen: View) -> str | None:
    """One failure would take all replicas of our shards: the shard set is too small, or shares an isolation group."""
    if seen.instance is None:
        return None
    factor, groups = seen.placement.replica_factor, defaultdict(list)
    for instance in seen.placement.instances:
        if instance.shard_set_id == seen.shard_set:
            groups[instance.isolation_group].append(instance.id)
    size = sum(map(len, groups.values()))
    if size < factor:
        return (
            f"shard set {seen.shard_set} has {size} of the {factor} instances that the replication factor asks for; "
            f"add instances with POST {_PLACEMENT_API}, each in an isolation group of its own"
        )
    for group, ids in sorted(groups.items()):
        if len(ids) > 1 and len(groups) < factor:
            return (
                f"isolation group {group or '(none)'} holds {' and '.join(sorted(ids))} of shard set {seen.shard_set}: replication "
                f"factor {factor} needs {factor} different isolation groups, or one failure takes every replica; "
                f"move one of them with POST {_PLACEMENT_API}/replace"
            )
    return None


def shard_counts_fault(topic: Topic | None, seen: View | None) -> str | None:
    """Producers compute a message's shard with the topic's count, instances with the placement's."""
    if topic is None or seen is None or topic.number_of_shards == seen.placement.num_shards:
        return None
    return (
        f"topic {topic.name} has {topic.number_of_shards} shards and the placement {seen.placement.num_shards}: metrics would "
        f"be lost; both must be equal: delete the topic with DELETE /api/v1/topic and create it with "
        f'POST /api/v1/topic/init {{"numberOfShards": {seen.placement.num_shards}}}'
    )


def output_topic_fault(name: str, topic: Topic | None) -> str | None:
    """What is aggregated goes nowhere."""
    if topic is None:
        return (
            f"topic {name} does not exist: create it with POST /api/v1/topic/init of a coordinator (Topic-Name: {name})"
        )
    if not topic.consumer_services:
        return f"topic {name} has no consumer service: nobody gets what is aggregated; add one with POST /api/v1/topic"
    return None


def ingest_topic_warning(name: str, topic: Topic | None, service: str) -> str | None:
    """Coordinators do not send to us; producers that do without the topic may."""
    if topic is None:
        return (
            f"topic {name} does not exist: coordinators send nothing; create it with POST /api/v1/topic/init "
            f"(Topic-Name: {name})"
        )
    if all(consumer.service_id.name != service for consumer in topic.consumer_services):
        return (
            f"topic {name} does not have {service} among its consumer services: coordinators send nothing here; add it with "
            f"POST /api/v1/topic (Topic-Name: {name}), consumption type REPLICATED"
        )
    return None


def endpoint_warning(seen: View, listening: str, error: str | None) -> str | None:
    """``error`` is why our own endpoint cannot be connected to from here, ``listening`` where we take metrics."""
    if error is None or seen.instance is None:
        return None
    return (
        f"the placement says that this instance is reached at {seen.instance.endpoint or '(no endpoint)'}, and a connection to it from "
        f"here fails ({error}); it listens on {listening}: correct m3msg.server.listenAddress, a firewall, or the endpoint with "
        f"POST {_PLACEMENT_API}/set"
    )


async def connect_error(endpoint: str) -> str | None:
    """Why a connection to it fails; None: it does not."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            (await connect(endpoint)).close()
    except TimeoutError:
        return f"no answer within {_CONNECT_S:g} s"
    except (OSError, ValueError) as error:
        return str(error)
    return None


async def try_endpoint(
    seen: Callable[[], View], listening: Callable[[], str], say: Callable[[str | None], None]
) -> None:
    """Whether others could connect to us: tried until it works, and again when the placement names another endpoint."""
    reached = None
    while True:
        await asyncio.sleep(_LOOK_S if reached is None else _AGAIN_S)
        now, address = seen(), listening()
        if now.instance is None or not address or now.instance.endpoint == reached:
            continue
        error = await connect_error(now.instance.endpoint)
        say(endpoint_warning(now, address, error))
        reached = now.instance.endpoint if error is None else None
        if error is not None:
            await asyncio.sleep(_AGAIN_S)
