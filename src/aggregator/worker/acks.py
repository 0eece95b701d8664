"""Acks of a batch that was applied before: the frames are looked at for their ids only."""

import numpy as np
from numpy.typing import NDArray

from m3msg.kernels import build_acks, scan_frames
from m3msg.rows import FRAME_ROW

__all__ = ["acks_of"]

_MAX_FRAME = (1 << 32) - 1
_MAX_ACK_FRAME = 1 << 20
_LEAST_FRAME = 6


def acks_of(payload: NDArray[np.uint8], sizes: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Ack frames for complete m3msg frames, and their bytes per connection; arguments as for ``Engine.ingest``."""
    payload = np.array(payload)
    rows = np.zeros(len(payload) // _LEAST_FRAME + 1, FRAME_ROW)
    acks = np.empty(len(payload) + len(payload) // 128 + 8 * len(sizes) + 64, np.uint8)
    ack_sizes = np.zeros(len(sizes), np.int64)
    at = written = 0
    for segment, end in enumerate(np.cumsum(sizes).tolist()):
        count, _, _ = scan_frames(payload, at, end, _MAX_FRAME, rows)
        after = int(build_acks(payload, rows, count, acks, written, _MAX_ACK_FRAME))
        ack_sizes[segment] = after - written
        at, written = end, after
    return acks[:written], ack_sizes
