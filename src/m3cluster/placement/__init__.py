"""Placements: the model, its stored bytes, what is valid, how a new one is laid out.

``model``      the structs (open this first)
``codec``      structs ↔ protobuf bytes

Imports ``m3cluster.proto`` and ``m3cluster.kv`` only.
"""

from m3cluster.placement.codec import (
    decode_placement,
    decode_staged_placement,
    encode_placement,
    encode_staged_placement,
)
from m3cluster.placement.model import NEVER_NS, Instance, Placement, Shard, ShardState

__all__ = [
    "NEVER_NS",
    "Instance",
    "Placement",
    "Shard",
    "ShardState",
    "decode_placement",
    "decode_staged_placement",
    "encode_placement",
    "encode_staged_placement",
]
