"""The answers of several nodes as one: each series once, its points ascending (docs/m3/m3db_reading.md, merging)."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from m3db.errors import M3DBError
from m3db.read import merge_kernels as kernels
from m3db.read.fetch import TaggedAnswer
from m3x.byte_table import ByteTable

__all__ = ["ByteColumn", "EqualTimes", "Fetched", "OrderError", "merge"]

_T = TypeVar("_T", bound=np.generic)


class EqualTimes(enum.StrEnum):
    """``iterateEqualTimestampStrategy``: which point of several nodes at the same time stays."""

    LAST_PUSHED = "iterate_last_pushed"
    HIGHEST_VALUE = "iterate_highest_value"
    LOWEST_VALUE = "iterate_lowest_value"
    HIGHEST_FREQUENCY_VALUE = "iterate_highest_frequency_value"


_RULES = dict(zip(EqualTimes, (kernels.LAST, kernels.HIGHEST, kernels.LOWEST, kernels.MOST), strict=True))


class OrderError(M3DBError):
    """A stream that goes back in time, as nodes write none."""


@dataclass(frozen=True, slots=True)
class ByteColumn:
    """Byte strings: the ``i``-th is ``arena[at[i]:at[i] + size[i]]``."""

    arena: NDArray[np.uint8]
    at: NDArray[np.int64]
    size: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, index: int) -> bytes:
        at = int(self.at[index])
        return self.arena[at : at + int(self.size[index])].tobytes()


@dataclass(frozen=True, slots=True)
class Fetched:
    """Series in no order: the points of series ``i`` are ``[offsets[i], offsets[i + 1])``, ascending in time; there may be none."""

    ids: ByteColumn
    tags: ByteColumn
    """Encoded, in the order in which they were written first."""
    offsets: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    bits: NDArray[np.uint64]
    """Of the doubles."""
    exhaustive: bool
    """Whether these are all series that match."""

    def __len__(self) -> int:
        """The number of series."""
        return len(self.ids)

    @property
    def values(self) -> NDArray[np.float64]:
        """The values of all points."""
        return self.bits.view(np.float64)


def merge(
    answers: Sequence[TaggedAnswer],
    start_ns: int,
    end_ns: int,
    *,
    series_limit: int = 0,
    equal_times: EqualTimes = EqualTimes.LAST_PUSHED,
) -> Fetched:
    """All series of some answers with their points in ``[start_ns, end_ns)``; of points at the same time one.

    Of more than ``series_limit`` series (0: no limit) those with the least ids stay, as in M3, and the result is not exhaustive. Raises
    ``OrderError``.
    """
    numbers, ids = _number(answers)
    exhaustive = all(answer.exhaustive for answer in answers)
    if 0 < series_limit < len(ids):
        numbers, ids = _limited(numbers, ids, series_limit)
        exhaustive = False
    offsets, time_ns, bits = _points(answers, numbers, len(ids), start_ns, end_ns, _RULES[equal_times])
    return Fetched(ids, _tags(answers, numbers, len(ids)), offsets, time_ns, bits, exhaustive)


def _number(answers: Sequence[TaggedAnswer]) -> tuple[list[NDArray[np.int64]], ByteColumn]:
    """The number of each answer's elements among all series, and the ids of these."""
    table = ByteTable()
    numbers = [
        table.number(answer.body, answer.elements["id_at"].copy(), answer.elements["id_size"].copy())
        for answer in answers
    ]
    arena, at, size = table.ranges()
    return numbers, ByteColumn(arena, at.copy(), size.copy())


def _limited(
    numbers: list[NDArray[np.int64]], ids: ByteColumn, limit: int
) -> tuple[list[NDArray[np.int64]], ByteColumn]:
    """Only the ``limit`` least ids; -1 for elements of others."""
    kept = np.array(sorted(range(len(ids)), key=ids.__getitem__)[:limit])
    renumbered = np.full(len(ids), -1, np.int64)
    renumbered[kept] = np.arange(limit)
    return [renumbered[some] for some in numbers], ByteColumn(ids.arena, ids.at[kept], ids.size[kept])


def _points(
    answers: Sequence[TaggedAnswer], numbers: list[NDArray[np.int64]], count: int, start_ns: int, end_ns: int, rule: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    rows = np.cumsum([0, *(len(answer.points.time_ns) for answer in answers)])
    series = _joined(np.int64, [some.repeat(_streams(answer)) for some, answer in zip(numbers, answers, strict=True)])
    origins = np.arange(len(answers)).repeat([len(answer.streams) for answer in answers])
    stops = _joined(np.int64, [answer.points.stops + row for answer, row in zip(answers, rows.tolist(), strict=False)])
    begins = np.zeros_like(stops)
    begins[1:] = stops[:-1]
    times = _joined(np.int64, [answer.points.time_ns for answer in answers])
    bits = _joined(np.uint64, [answer.points.bits for answer in answers])
    order = np.argsort(series, kind="stable")
    order = order[np.searchsorted(series[order], 0) :]
    offsets = np.zeros(count + 1, np.int64)
    out_times, out_bits = np.empty(len(times), np.int64), np.empty(len(times), np.uint64)
    wrong = kernels.merge(
        times, bits, order, series, origins, begins, stops, start_ns, end_ns, rule, out_times, out_bits, offsets
    )
    if wrong >= 0:
        raise OrderError(f"stream {wrong} of {len(stops)} goes back in time")
    return offsets, out_times[: offsets[-1]], out_bits[: offsets[-1]]


def _streams(answer: TaggedAnswer) -> NDArray[np.int64]:
    """How many streams each element has."""
    return np.diff(answer.elements["streams"], prepend=0)


def _joined(dtype: type[_T], parts: Sequence[NDArray[_T]]) -> NDArray[_T]:
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])


def _tags(answers: Sequence[TaggedAnswer], numbers: list[NDArray[np.int64]], count: int) -> ByteColumn:
    """The encoded tags of each series, of the first answer that has it."""
    size = np.zeros(count, np.int64)
    source = np.full(count, -1, np.int64)
    row = np.zeros(count, np.int64)
    for index in reversed(range(len(answers))):
        found = np.flatnonzero(numbers[index] >= 0)[::-1]
        series = numbers[index][found]
        source[series], row[series] = index, found
        size[series] = answers[index].elements["tags_size"][found]
    at = np.cumsum(size) - size
    arena = np.empty(int(size.sum()), np.uint8)
    for index, answer in enumerate(answers):
        mine = np.flatnonzero(source == index)
        kernels.gather(answer.body, answer.elements["tags_at"][row[mine]], size[mine], arena, at[mine])
    return ByteColumn(arena, at, size)
