"""Placements ↔ their stored bytes (docs/m3/cluster.md, stored placements)."""

import cramjam
import numpy as np

from m3cluster.placement.errors import PlacementError
from m3cluster.placement.model import NEVER_NS, Instance, Placement, Shard, ShardState
from m3cluster.proto import DecodeError, MessageValue, decode, encode
from m3cluster.proto.messages import COMPRESS_MODE, PLACEMENT, PLACEMENT_SNAPSHOTS
from m3metrics.shard import too_many_shards

__all__ = [
    "NullShardError",
    "decode_placement",
    "decode_staged_placement",
    "encode_placement",
    "encode_staged_placement",
    "instance_from_message",
    "placement_from_message",
    "placement_to_message",
]

_MAX_PLAIN_BYTES = 64 << 20
"""Of a placement that is stored compressed: that of ten thousand instances and a million shards has about half of it."""


class NullShardError(PlacementError):
    """A request in which a shard is null: M3 panics over it."""


def encode_placement(placement: Placement) -> bytes:
    """The bytes of a plain placement (placementpb.Placement): m3db, m3coordinator."""
    return encode(PLACEMENT, placement_to_message(placement))


def decode_placement(data: bytes, version: int) -> Placement:
    """The placement of stored bytes; ``version`` is the key's. Raises ``DecodeError``."""
    return placement_from_message(decode(PLACEMENT, data), version)


def encode_staged_placement(placement: Placement, *, compress: bool = False) -> bytes:
    """The bytes of a staged placement (placementpb.PlacementSnapshots with one snapshot): m3aggregator.

    ``compress`` stores the snapshot as a ZSTD frame, which M3 can read but never writes through its API.
    """
    if compress:
        packed = bytes(cramjam.zstd.compress(encode_placement(placement)))
        mode = COMPRESS_MODE.numbers["ZSTD"]
        return encode(PLACEMENT_SNAPSHOTS, {"compress_mode": mode, "compressed_placement": packed})
    return encode(PLACEMENT_SNAPSHOTS, {"snapshots": [placement_to_message(placement)]})


def decode_staged_placement(data: bytes, version: int) -> Placement:
    """The snapshot with the greatest cutover time, decompressed if need be. Raises ``DecodeError`` (also for no snapshot at all)."""
    message = decode(PLACEMENT_SNAPSHOTS, data)
    name = PLACEMENT_SNAPSHOTS.name
    if message["compress_mode"] == COMPRESS_MODE.numbers["ZSTD"]:
        if not message["compressed_placement"]:
            raise DecodeError(name, "placement snapshots is compressed but compressed placement is nil")
        return decode_placement(_decompressed(message["compressed_placement"]), version)
    if not message["snapshots"]:
        raise DecodeError(name, "placement snapshots is empty")
    return placement_from_message(max(message["snapshots"], key=lambda s: s["cutover_time"]), version)


def _decompressed(data: bytes) -> bytes:
    # Memory is used as it is written to: a frame of a few bytes that says to be huge costs no more than the limit.
    plain = np.empty(_MAX_PLAIN_BYTES, np.uint8).data
    try:
        size = cramjam.zstd.decompress_into(data, plain)
    except cramjam.DecompressionError as error:
        what = f"compressed placement is not a ZSTD frame of at most {_MAX_PLAIN_BYTES} bytes: {error}"
        raise DecodeError(PLACEMENT_SNAPSHOTS.name, what) from error
    return bytes(plain[:size])


def placement_to_message(placement: Placement) -> MessageValue:
    """The placement as a message of table ``PLACEMENT``."""
    return {
        "instances": {i.id: _instance_to_message(i) for i in placement.instances},
        "replica_factor": placement.replica_factor,
        "num_shards": placement.num_shards,
        "is_sharded": placement.is_sharded,
        "cutover_time": placement.cutover_time_ns,
        "is_mirrored": placement.is_mirrored,
        "max_shard_set_id": placement.max_shard_set_id,
        "is_subclustered": placement.is_subclustered,
        "instances_per_subcluster": placement.instances_per_subcluster,
    }


def placement_from_message(message: MessageValue, version: int = 0) -> Placement:
    """The placement of a message of table ``PLACEMENT``. As in M3 the map's keys do not matter, the instances' ids do.

    Raises ``DecodeError`` for an instance that is null and for too many shards, and as ``instance_from_message`` does.
    """
    if wrong := too_many_shards(message["num_shards"]):
        raise DecodeError(PLACEMENT.name, wrong)
    instances = {i.id: i for i in map(instance_from_message, message["instances"].values())}
    return Placement(
        instances=tuple(instances[key] for key in sorted(instances)),
        num_shards=message["num_shards"],
        replica_factor=message["replica_factor"],
        is_sharded=message["is_sharded"],
        is_mirrored=message["is_mirrored"],
        cutover_time_ns=message["cutover_time"],
        max_shard_set_id=message["max_shard_set_id"],
        version=version,
        is_subclustered=message["is_subclustered"],
        instances_per_subcluster=message["instances_per_subcluster"],
    )


def instance_from_message(message: MessageValue | None) -> Instance:
    """The instance of a message of table ``INSTANCE``; of shards with the same id the last one counts.

    Raises ``DecodeError`` for null and for a shard state that does not exist, ``NullShardError``.
    """
    if message is None:
        raise DecodeError("placementpb.Instance", "nil placement instance proto")
    if None in message["shards"]:
        raise NullShardError(f"instance {message['id']} has a shard that is null")
    shards = {s.id: s for s in map(_shard_from_message, message["shards"])}
    metadata = message["metadata"] or {}
    return Instance(
        id=message["id"],
        isolation_group=message["isolation_group"],
        zone=message["zone"],
        weight=message["weight"],
        endpoint=message["endpoint"],
        shards=tuple(shards[key] for key in sorted(shards)),
        shard_set_id=message["shard_set_id"],
        hostname=message["hostname"],
        port=message["port"],
        debug_port=metadata.get("debug_port", 0),
        subcluster_id=message["subcluster_id"],
    )


def _instance_to_message(instance: Instance) -> MessageValue:
    return {
        "id": instance.id,
        "isolation_group": instance.isolation_group,
        "zone": instance.zone,
        "weight": instance.weight,
        "endpoint": instance.endpoint,
        "shards": [_shard_to_message(s) for s in instance.shards],
        "shard_set_id": instance.shard_set_id,
        "hostname": instance.hostname,
        "port": instance.port,
        "metadata": {"debug_port": instance.debug_port},
        "subcluster_id": instance.subcluster_id,
    }


def _shard_from_message(message: MessageValue) -> Shard:
    if message["state"] not in (0, 1, 2):
        raise DecodeError("placementpb.Shard", "invalid proto shard state", f"{message['state']}")
    redirect = message["redirect_to_shard_id"]
    return Shard(
        id=message["id"],
        state=ShardState(message["state"]),
        source_id=message["source_id"],
        cutover_ns=message["cutover_nanos"],
        cutoff_ns=message["cutoff_nanos"] or NEVER_NS,
        redirect_to=None if redirect is None else redirect["value"],
    )


def _shard_to_message(shard: Shard) -> MessageValue:
    return {
        "id": shard.id,
        "state": int(shard.state),
        "source_id": shard.source_id,
        "cutover_nanos": shard.cutover_ns,
        "cutoff_nanos": 0 if shard.cutoff_ns == NEVER_NS else shard.cutoff_ns,
        "redirect_to_shard_id": None if shard.redirect_to is None else {"value": shard.redirect_to},
    }
