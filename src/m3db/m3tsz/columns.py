"""Streams of m3tsz as columns of points."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from m3db.errors import M3DBError
from m3db.m3tsz import kernels
from m3db.m3tsz.format import MIN_POINT_BITS
from m3db.m3tsz.kernels import PADDING
from m3db.m3tsz.plain import bits_at

_T = TypeVar("_T", bound=np.generic)

__all__ = ["PADDING", "Points", "TooManyPointsError", "decode", "joined"]


class TooManyPointsError(M3DBError):
    """Streams hold more points than their reader wants to keep."""


@dataclass(frozen=True, slots=True)
class Points:
    """The points of n streams, one stream after the other; a row is a point."""

    stops: NDArray[np.int64]
    """By stream: the row behind its last one; its first is the stop of the stream before it."""
    ends: NDArray[np.uint8]
    """By stream: a ``StreamEnd``."""
    time_ns: NDArray[np.int64]
    bits: NDArray[np.uint64]
    """Of the double."""
    unit: NDArray[np.uint8]
    """A ``Unit``, or a number that is none."""
    notes: NDArray[np.int64]
    """Annotations, k x 3, ascending: row, first bit in the arena, bytes."""

    def annotation(self, note: int, arena: NDArray[np.uint8]) -> bytes:
        """The bytes of a row of ``notes``; ``arena`` is what was decoded."""
        _, at, size = self.notes[note].tolist()
        last = (at + 8 * size + 7) // 8
        return bits_at(arena[at // 8 : last].tobytes(), at % 8, 8 * size).to_bytes(size, "big")


def joined(streams: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """An arena of some streams with the padding that ``decode`` needs, and start and size of each."""
    size = np.array([len(stream) for stream in streams], np.int64)
    at = np.cumsum(size) - size
    # Writable, as kernels are compiled for.
    return np.frombuffer(bytearray(b"".join([*streams, bytes(PADDING)])), np.uint8), at, size


def decode(arena: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64], *, most: int = 1 << 28) -> Points:
    """The points of the streams ``arena[at[i]:at[i] + size[i]]``; of one that is not whole those before it goes wrong.

    At least ``PADDING`` bytes follow each stream in the arena, whatever they are. Raises ``TooManyPointsError`` above ``most`` points; a
    point takes 64 bytes at most while columns grow, and 17 afterwards.
    """
    if len(at) and int((at + size).max()) + PADDING > len(arena):
        raise ValueError(f"{PADDING} bytes have to follow the last stream")
    total = int(size.sum())
    limit = min(total * 8 // MIN_POINT_BITS, most)
    room = min(limit, total + 16)
    time_ns, bits, unit = np.empty(room, np.int64), np.empty(room, np.uint64), np.empty(room, np.uint8)
    notes = np.empty((16, 3), np.int64)
    stops, ends = np.zeros(len(at), np.int64), np.zeros(len(at), np.uint8)
    done, rows, noted = 0, 0, 0
    while done < len(at):
        done, rows, noted, full = kernels.decode(
            arena, at, size, done, rows, noted, time_ns, bits, unit, notes, stops, ends
        )
        if full == kernels.NO_ROWS:
            if room == limit:
                raise TooManyPointsError(f"more than {most} points in {total} bytes")
            room = min(2 * room, limit)
            time_ns, bits, unit = _grown(time_ns, rows, room), _grown(bits, rows, room), _grown(unit, rows, room)
        elif full == kernels.NO_NOTES:
            notes = _grown(notes, noted, 2 * len(notes))
    return Points(stops, ends, time_ns[:rows], bits[:rows], unit[:rows], notes[:noted])


def _grown(array: NDArray[_T], used: int, room: int) -> NDArray[_T]:
    grown = np.empty((room, *array.shape[1:]), array.dtype)
    grown[:used] = array[:used]
    return grown
