"""What plain and compiled readers of m3tsz share: units, how a stream ends, sizes (docs/m3/m3db_reading.md, m3tsz streams)."""

import enum

from m3db.errors import M3DBError

__all__ = [
    "MARKER", "MARKER_BITS", "MAX_MULTIPLIER", "MIN_POINT_BITS", "UNIT_NS", "StreamEnd", "StreamError", "Unit", "first_unit",
]  # fmt: skip

MARKER = 0x100
"""The nine bits that begin a marker; two more say which."""
MARKER_BITS = 11
MAX_MULTIPLIER = 6
"""Whole numbers are stored times ten to the power of at most this."""
MIN_POINT_BITS = 3
"""No point takes less: a bit for its time, two for its value."""


class Unit(enum.IntEnum):
    """Of a timestamp, numbered as in a stream. Those longer than a second have no way to write a time, but may be named."""

    NONE = 0
    SECOND = 1
    MILLISECOND = 2
    MICROSECOND = 3
    NANOSECOND = 4
    MINUTE = 5
    HOUR = 6
    DAY = 7
    YEAR = 8

    @property
    def short(self) -> str:
        """As M3 writes it in texts."""
        return ("unknown", "s", "ms", "us", "ns", "m", "h", "d", "y")[self]


UNIT_NS = (0, 10**9, 10**6, 10**3, 1)
"""Nanoseconds of the units that times can be written in, by number."""


class StreamEnd(enum.IntEnum):
    """How the reading of a stream ended."""

    MARKER = 0
    """With its end marker: it is whole."""
    TRUNCATED = 1
    NO_UNIT = 2
    """A time without a unit that says how to read it."""
    MULTIPLIER = 3
    ANNOTATION = 4
    """The length of an annotation is no length."""

    @property
    def text(self) -> str:
        """What is wrong with the stream."""
        return _TEXTS[self]


_TEXTS = {
    StreamEnd.MARKER: "whole",
    StreamEnd.TRUNCATED: "ends within a point",
    StreamEnd.NO_UNIT: "a time without a known unit",
    StreamEnd.MULTIPLIER: f"a multiplier above {MAX_MULTIPLIER}",
    StreamEnd.ANNOTATION: "an annotation of an impossible length",
}


class StreamError(M3DBError):
    """A stream that is not whole; the points before are good."""

    def __init__(self, end: StreamEnd) -> None:
        super().__init__(f"bad m3tsz stream: {end.text}")
        self.end = end


def first_unit(start_ns: int) -> Unit:
    """In which a stream that starts there begins to count."""
    return Unit.NONE if start_ns % UNIT_NS[Unit.SECOND] else Unit.SECOND
