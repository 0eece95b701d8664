"""What sender and consumer know of the series: how their ids look, and which value each has in each window."""

import struct

import numpy as np
from numpy.typing import NDArray

from bench.messages import Frames, build

__all__ = ["FIRST_DIGIT", "KNOWN_LETTER", "LETTER_AT", "RESOLUTION_S", "known_frames", "storm_frames", "values_of"]

RESOLUTION_S = 5
KNOWN_LETTER = ord("h")
"""Of the metric name of known series; new ones have another one there."""
LETTER_AT = 4 + 2 + len(b"__name__") + 2
"""Where the metric name begins in an id."""
FIRST_DIGIT = LETTER_AT + len(b"http_requests_total_something")
"""Where the eight digits of a known series are."""
_MARK = b"00000000"


def values_of(series: NDArray[np.int64], window: int) -> NDArray[np.float64]:
    """The value of each series in a window (its number since the epoch)."""
    return ((series * 31 + window * 7) % 9973 + 1).astype(np.float64)


def known_frames(series: int) -> Frames:
    """One message of each known series, in the order of their numbers."""
    frames = build("timed", series, series, RESOLUTION_S)
    frames.name(np.arange(series))
    return frames


def storm_frames(count: int) -> Frames:
    """``count`` messages that are given other ids before they are sent."""
    tags = (
        (b"__name__", b"storm_requests_total"),
        (b"dc", b"sjc1"),
        (b"host", b"host" + _MARK[4:]),
        (b"pod", b"pod-" + _MARK),
    )
    parts = b"".join(struct.pack("<H", len(x)) + x for tag in tags for x in tag)
    ident = struct.pack("<HH", 10101, len(tags)) + parts
    return build("timed", count, count, RESOLUTION_S, series_id=ident)
