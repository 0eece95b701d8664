"""The columns that m3msg kernels fill and read: one row per frame received, per copy of a message sent, per ack."""

import numpy as np

MAX_FRAME = 4 * 1024 * 1024
"""Largest payload of a frame that M3 takes, without the four length bytes (docs/m3/m3msg.md, frames)."""

PREFIX = 4
"""Bytes of the length prefix."""

FRAME_ROW = np.dtype(
    [
        ("shard", np.uint64),  # Metadata.shard as sent; the replicated shard id, not an index into anything here
        ("id", np.uint64),
        ("sent_at", np.uint64),  # unix ns of this attempt, 0: not given
        ("frame_at", np.uint32),  # the whole frame, length prefix included
        ("frame_size", np.uint32),
        ("meta_at", np.uint32),  # tag, length and content of the metadata as an ack echoes them …
        ("meta_size", np.uint32),  # … 0: not in one canonical piece, an ack encodes shard, id and sent_at anew
        ("value_at", np.uint32),  # Message.value
        ("value_size", np.uint32),
    ],
    align=True,
)
"""One row per ``Message`` frame; byte ranges are positions in the scanned buffer."""

SCAN_MORE = 0
"""Every complete frame has a row; the rest is the beginning of a frame."""
SCAN_FULL = 1
"""No row was left; scan again from the returned position."""
SCAN_OVERSIZE = 2
"""The frame at the returned position is longer than allowed: the stream cannot be followed any further."""
SCAN_MALFORMED = 3
"""The frame at the returned position is not a ``Message`` (or ``Ack``)."""

SCAN_REASONS = {
    SCAN_OVERSIZE: "the frame is longer than the largest size allowed",
    SCAN_MALFORMED: "the frame is not valid protobuf of the expected message",
}
"""What to tell a reader of logs."""

ACK_ROW = np.dtype([("shard", np.uint64), ("id", np.uint64)], align=True)
"""One acked metadata; ``sentAtNanos`` of acks is not used (docs/m3/m3msg.md, ack routing)."""
