"""Placements: the model, its stored bytes, what is valid, how a new one is laid out.

``model``      the structs (open this first)
``codec``      structs ↔ protobuf bytes
``validate``   the rules that every stored placement meets
``options``    kinds of placement
``times``      cutover times
``select``     which candidates take part; ``mirror_select`` pairs them to shard sets
``algorithm``  what can be done with a placement: ``sharded``, ``mirrored``, ``nonsharded``
``layout``     distribution of shards by weight and isolation group, ``marking`` of shards that have arrived
``service``    placements in the store
``holding``    which instance holds which shards, for pages
``errors``     what goes wrong, ``describe`` placements as M3's texts print them

Imports ``m3cluster.proto``, ``m3cluster.kv``, ``m3cluster.keys`` and ``m3x`` only.
"""

from m3cluster.placement.codec import (
    decode_placement,
    decode_staged_placement,
    encode_placement,
    encode_staged_placement,
)
from m3cluster.placement.errors import PlacementError
from m3cluster.placement.model import NEVER_NS, Instance, Placement, Shard, ShardState
from m3cluster.placement.options import PlacementOptions
from m3cluster.placement.service import (
    NoPlacementError,
    PlacementExistsError,
    PlacementService,
    VersionNotKeptError,
    read_placement,
)
from m3cluster.placement.times import CutoverTimes
from m3cluster.placement.validate import InvalidPlacementError, validate

__all__ = [
    "NEVER_NS",
    "CutoverTimes",
    "Instance",
    "InvalidPlacementError",
    "NoPlacementError",
    "Placement",
    "PlacementError",
    "PlacementExistsError",
    "PlacementOptions",
    "PlacementService",
    "Shard",
    "ShardState",
    "VersionNotKeptError",
    "decode_placement",
    "decode_staged_placement",
    "encode_placement",
    "encode_staged_placement",
    "read_placement",
    "validate",
]
