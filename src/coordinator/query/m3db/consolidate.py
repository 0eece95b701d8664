"""What several namespaces answered as one selection, each series from where its points are best.

The rules: docs/m3/coordinator.md, one series of several. Pure: columns in, columns out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from coordinator.query.m3db.fan_out import FanOut, Part
from coordinator.query.source import NO_NOTES, Notes, Selection, Series
from m3x.byte_table import ByteTable

__all__ = ["Found", "consolidated", "distinct"]


@dataclass(slots=True)
class Found:
    """What one namespace has; one set of tags may be there more than once."""

    part: Part
    series: Series
    begins: NDArray[np.int64]
    counts: NDArray[np.int64]
    """The points of series ``i`` are ``[begins[i], begins[i] + counts[i])``, ascending in time, at least one."""
    time_ms: NDArray[np.int64]
    bits: NDArray[np.uint64]


def distinct(parts: Sequence[Series]) -> Series:
    """The series of all of them, each once."""
    joined, groups = _grouped(parts)
    _, firsts = np.unique(groups, return_index=True)
    notes = reduce(Notes.joined, (series.notes for series in parts))
    return Series(joined.arena, joined.at[firsts], joined.size[firsts], notes)


def consolidated(plan: FanOut, parts: Sequence[Found], limit: int = 0, notes: Notes = NO_NOTES) -> Selection:
    """``parts`` answer those of the plan; of more than ``limit`` series (0: any number) the first are given."""
    parts = [parts[index] for index in plan.order()]
    joined, groups = _grouped([found.series for found in parts])
    count = int(groups.max(initial=-1)) + 1
    if 0 < limit < count:
        notes, count = notes.joined(Notes(limited=True)), limit
    owner = np.repeat(np.arange(len(parts)), [len(found.series) for found in parts])
    rows = np.flatnonzero(groups < count)
    best = np.full(count, len(parts))
    np.minimum.at(best, groups[rows], owner[rows])
    taken = (owner[rows] == best[groups[rows]]) | _stitched(parts, owner[rows], best[groups[rows]])
    rows = rows[taken]
    rows = rows[np.argsort(groups[rows], kind="stable")]
    firsts = np.searchsorted(groups[rows], np.arange(count))
    windows_ms = np.array([found.part.namespace.resolution_ns // 1_000_000 for found in parts], np.int64)
    offsets, time_ms, bits = _gathered(parts, rows)
    chosen = rows[firsts]
    series = Series(joined.arena, joined.at[chosen], joined.size[chosen], notes)
    selection = Selection(series, windows_ms[owner[chosen]], offsets[np.append(firsts, len(rows))], time_ms, bits)
    return selection if len(rows) == count else _ascending(selection)


def _stitched(parts: Sequence[Found], owner: NDArray[np.int64], best: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows add the most recent time to what the best part has, which ends before."""
    recent = np.array([found.part.first_ns is not None for found in parts], np.bool_)
    ending = np.array([found.part.last_ns is not None for found in parts], np.bool_)
    return recent[owner] & ending[best]


def _gathered(
    parts: Sequence[Found], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Points of some rows of all parts together: offsets by row, times and values."""
    bases = np.cumsum([0, *(len(found.time_ms) for found in parts[:-1])])
    begins = np.concatenate([found.begins + base for found, base in zip(parts, bases, strict=True)])[rows]
    counts = np.concatenate([found.counts for found in parts])[rows]
    offsets = np.append(0, np.cumsum(counts))
    times, bits = [found.time_ms for found in parts], [found.bits for found in parts]
    if len(parts) == 1 and offsets[-1] == len(times[0]) and np.array_equal(begins, offsets[:-1]):
        return offsets, times[0], bits[0]
    at = np.repeat(begins - offsets[:-1], counts) + np.arange(offsets[-1])
    return offsets, np.concatenate(times)[at], np.concatenate(bits)[at]


def _ascending(selection: Selection) -> Selection:
    """With the points of each series by time; of two with one time the later one stays."""
    owner = np.repeat(np.arange(len(selection)), np.diff(selection.offsets))
    order = np.lexsort((selection.time_ms, owner))
    owner, time_ms = owner[order], selection.time_ms[order]
    last = np.append((np.diff(owner) != 0) | (np.diff(time_ms) != 0), True)
    offsets = np.append(0, np.cumsum(np.bincount(owner[last], minlength=len(selection))))
    return Selection(selection.series, selection.windows_ms, offsets, time_ms[last], selection.bits[order][last])


def _grouped(parts: Sequence[Series]) -> tuple[Series, NDArray[np.int64]]:
    """All series one after another, and for each the number of its tags: by first appearance."""
    joined = parts[0]
    if len(parts) > 1:
        bases = np.cumsum([0, *(len(series.arena) for series in parts[:-1])])
        joined = Series(
            np.concatenate([series.arena for series in parts]),
            np.concatenate([series.at + base for series, base in zip(parts, bases, strict=True)]),
            np.concatenate([series.size for series in parts]),
        )
    return joined, ByteTable().number(joined.arena, joined.at, joined.size)
