"""What makes processes a cluster: configurations laid over files, placements, and the two topics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec.structs import replace

from lab.kv import ENVIRONMENT, ZONE
from m3cluster.keys import placement_key, topic_key
from m3cluster.kv import Store
from m3cluster.placement import encode_placement, encode_staged_placement
from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic, encode_topic

__all__ = ["LOCAL", "ROOT", "aggregator_overlay", "coordinator_overlay", "member", "overlaid", "write_cluster"]

ROOT = Path(__file__).resolve().parents[1]
LOCAL = ROOT / "configs/local"
"""The configurations of services on loopback."""
_TTL_NS = 300 * 10**9
_CUT_OVER = Shard(0, ShardState.AVAILABLE)


def aggregator_overlay(m3msg: str, http: str, metrics: str, kv: Mapping[str, Any]) -> dict[str, Any]:
    """The addresses (``host:port``) of an aggregator, and its section ``kvClient``."""
    return {
        "m3msg": {"server": {"listenAddress": m3msg}},
        "http": {"listenAddress": http},
        "metrics": {"prometheus": {"listenAddress": metrics}},
        "kvClient": dict(kv),
    }


def coordinator_overlay(
    ports: tuple[int, int, int, int], kv: Mapping[str, Any], folder: Path
) -> dict[str, Any]:  # fmt: skip
    """A coordinator on loopback with its store in ``folder``; ``ports``: HTTP, metrics, carbon, m3msg; ``kv``: ``clusterManagement``."""
    http, metrics, carbon, ingest = (f"127.0.0.1:{port}" for port in ports)
    return {
        "listenAddress": http,
        "metrics": {"prometheus": {"listenAddress": metrics}},
        "carbon": {"ingester": {"listenAddress": carbon}},
        "ingest": {"m3msg": {"server": {"listenAddress": ingest}}},
        "clusterManagement": dict(kv),
        "embeddedStorage": {"path": str(folder / "metrics.duckdb")},
    }


def overlaid(config: Path, overlay: Mapping[str, Any], file: Path) -> list[str]:
    """Writes the overlay to ``file``; the options that name both files."""
    file.write_text(yaml.safe_dump(dict(overlay), sort_keys=False))
    return ["-f", str(config), "-f", str(file)]


def member(name: str, address: str, group: str = "a", shard_set: int = 1) -> Instance:
    """An instance as a placement names it, without shards."""
    port = int(address.rsplit(":", 1)[1])
    return Instance(
        id=name, isolation_group=group, zone=ZONE, weight=1, endpoint=address, hostname=name, port=port,
        shard_set_id=shard_set,
    )  # fmt: skip


async def write_cluster(
    store: Store,
    aggregators: Sequence[Instance],
    consumer: str,
    num_shards: int,
    shard: Shard = _CUT_OVER,
    *,
    others: Mapping[str, str] | None = None,
) -> None:
    """Writes placements and topics: the aggregators mirror each other, ``consumer`` (``host:port``) takes the output.

    ``shard``: state and times of all shards (default: already cut over). ``others``: further consumer services of the output, each with its
    one address.
    """
    takers = {"m3coordinator": consumer, **(others or {})}
    shards = tuple(replace(shard, id=number) for number in range(num_shards))
    placement = Placement(
        tuple(replace(one, shards=shards) for one in aggregators),
        num_shards=num_shards,
        replica_factor=len(aggregators),
        is_sharded=True,
        is_mirrored=True,
        max_shard_set_id=1,
    )
    await store.set(placement_key(ENVIRONMENT, "m3aggregator"), encode_staged_placement(placement))
    for service, address in takers.items():
        output = Placement((member("sink", address),), replica_factor=1)
        await store.set(placement_key(ENVIRONMENT, service), encode_placement(output))
    for name, services, kind in (
        ("aggregator_ingest", ["m3aggregator"], ConsumptionType.REPLICATED),
        ("aggregated_metrics", [*takers], ConsumptionType.SHARED),
    ):
        consumers = tuple(ConsumerService(ServiceID(one, ENVIRONMENT, ZONE), kind, _TTL_NS) for one in services)
        await store.set(topic_key(ENVIRONMENT, name), encode_topic(Topic(name, num_shards, consumers)))
