"""Flush times of a shard set, stored under ``_kv/{env}/shardset/{id}/flush`` (docs/m3/cluster.md, messages)."""

import msgspec

from m3cluster.proto import MessageValue, decode, encode
from m3cluster.proto.messages import SHARD_SET_FLUSH_TIMES

__all__ = ["ShardFlushTimes", "ShardSetFlushTimes", "decode_flush_times", "encode_flush_times"]


class ShardFlushTimes(msgspec.Struct, frozen=True):
    """Until when each list of one shard has been flushed: resolution (ns) → time (Unix ns; 0: not yet)."""

    standard: dict[int, int] = {}
    timed: dict[int, int] = {}
    forwarded: dict[int, dict[int, int]] = {}
    """Resolution (ns) → number of hops the metric has been forwarded → time."""
    tombstoned: bool = False


class ShardSetFlushTimes(msgspec.Struct, frozen=True):
    """Shard → its flush times; every shard that has a list appears."""

    by_shard: dict[int, ShardFlushTimes] = {}


def encode_flush_times(times: ShardSetFlushTimes) -> bytes:
    """The stored bytes (flush.ShardSetFlushTimes)."""
    by_shard = {
        shard: {
            "standard_by_resolution": t.standard,
            "tombstoned": t.tombstoned,
            "forwarded_by_resolution": {r: {"by_num_forwarded_times": hops} for r, hops in t.forwarded.items()},
            "timed_by_resolution": t.timed,
        }
        for shard, t in times.by_shard.items()
    }
    return encode(SHARD_SET_FLUSH_TIMES, {"by_shard": by_shard})


def decode_flush_times(data: bytes) -> ShardSetFlushTimes:
    """The flush times of stored bytes; 0 bytes are empty flush times. Raises ``DecodeError``."""
    message = decode(SHARD_SET_FLUSH_TIMES, data)
    return ShardSetFlushTimes({shard: _shard_times(found) for shard, found in message["by_shard"].items()})


def _shard_times(message: MessageValue | None) -> ShardFlushTimes:
    """Of an entry that has a key only, none."""
    if message is None:
        return ShardFlushTimes()
    forwarded = message["forwarded_by_resolution"].items()
    return ShardFlushTimes(
        standard=message["standard_by_resolution"],
        timed=message["timed_by_resolution"],
        forwarded={
            resolution: {} if hops is None else hops["by_num_forwarded_times"] for resolution, hops in forwarded
        },
        tombstoned=message["tombstoned"],
    )
