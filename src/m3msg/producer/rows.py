"""The columns of the producer: a row per copy of a message, and what a lane knows about each of its shards."""

import numpy as np

COPY_ROW = np.dtype(
    [
        ("id", np.uint64),  # message id within its message writer, from 1
        ("message", np.uint32),  # index in the block
        ("writer", np.uint32),  # replicated shard id, which goes on the wire as Metadata.shard
        ("size", np.uint32),  # payload bytes
        ("state", np.uint8),
        ("link", np.uint8),  # connection of the lane: writer mod number of connections
    ],
    align=True,
)
"""One row per copy of a message in one consumer instance's queue, in order of connection, then shard, then arrival."""

RUN_ROW = np.dtype([("first_id", np.uint64), ("start", np.uint32), ("count", np.uint32)], align=True)
"""Per shard: which rows of a parcel are its messages; their ids are consecutive, so an ack finds its row by subtraction."""

SHARD_ROW = np.dtype([("last_id", np.uint64), ("writer", np.uint32), ("link", np.uint32)], align=True)
"""Per shard of a lane: the message writer (docs/m3/m3msg.md, message writers)."""

NO_WRITER = 0xFFFFFFFF
"""``SHARD_ROW.writer`` of a shard that the lane does not serve."""

QUEUED = 1
"""To be sent, first time or after a reconnect."""
SENT = 2
"""Sent, and counted in the window of its connection."""
WAITING = 3
"""Sent at least a retry interval ago and not acked: out of the window, sent again when its time comes."""
ACKED = 4
DROPPED = 5
"""Given up because the buffer was full."""
EXPIRED = 6
"""Older than the TTL of the topic."""
CLOSED = 7
"""Its message writer is gone: the replica is not wanted any more."""
FENCED = 8
"""Removed because the right to write was lost."""
MOVED = 9
"""Lives on in a parcel of another lane."""
ABANDONED = 10
"""Not acked when the producer was closed."""
UNWANTED = 11
"""Its consumer service is not in the topic any more."""

OUTCOME_FILTERED = 0
OUTCOME_UNWANTED = 1
OUTCOME_ACKED = 2
OUTCOME_CLOSED = 3
OUTCOME_LOST = 4
OUTCOME_FENCED = 5
"""How a message ended for one consumer service; for several services the greatest counts. ``UNWANTED``: the service left the topic, so
that an ack of another one is enough; ``CLOSED``: the service is still there, but not the instance that was to take the message."""
NUM_OUTCOMES = 6

BIT_PENDING = 1
BIT_ACKED = 2
BIT_LOST = 4
BIT_CLOSED = 8
BIT_FENCED = 16
BIT_UNWANTED = 32
"""What the copies of a message came to; ``collect`` joins them."""

FRAME_OVERHEAD = 64
"""Bytes of a frame beyond its value, at most: prefix, metadata with three varints, tag and length of the value."""
