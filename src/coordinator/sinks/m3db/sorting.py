"""What of a batch may be sent to nodes now. Pure: the time is an argument.

A node says *success* of a point of a series that is new to it, and then drops the point without a word if it does not take its time
(docs/m3/m3db_cluster.md, times that are taken). So times are judged here, before anything is sent, as a node with our clock would.

=====================================  ================================================================
a value                                what becomes of it
=====================================  ================================================================
older than its namespace takes         refused: ``past-buffer``; with cold writes ``outside-retention``
newer than that                        parked until it fits; by more than an hour: ``outside-retention``
of attributes without a namespace      parked while it may come (``grace_ns``), then ``no-namespace``
of the same series and time as a       nothing: the later one is sent alone, as nodes answer the calls of a
later one of the batch                 batch side by side, and the one that comes last stays
=====================================  ================================================================
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.m3db import kernels
from coordinator.sinks.m3db.targets import Attributes, Limits, Target, Targets
from coordinator.sinks.sink import Delivered, Parked, Refused, RefusedWhy
from coordinator.sinks.values import Destination, Values
from m3x.golang import go_duration

__all__ = ["LONGEST_AHEAD_NS", "Absences", "Sendable", "sort"]

_SECOND = 1_000_000_000
LONGEST_AHEAD_NS = 3600 * _SECOND
"""A value that is further ahead of what is taken has a wrong time: it is not waited for."""
_MOST_GROUPS = 16
"""Of values that are parked until different times."""
_EARLIEST, _LATEST = -(1 << 63), (1 << 63) - 1
_AGAIN_S = 10.0
"""After so long it is looked again whether there is a namespace."""


@dataclass(slots=True)
class Sendable:
    """Columns with one row for each of ``rows``, which are those of the batch that may be sent, ascending."""

    rows: NDArray[np.int64]
    namespaces: tuple[bytes, ...]
    namespace: NDArray[np.uint16]
    timestamp: NDArray[np.int64]
    """In its unit."""
    time_type: NDArray[np.uint8]
    raw: NDArray[np.bool_]
    """Whether it is a sample as it came."""
    others: Delivered
    """What becomes of all other rows."""


@dataclass(slots=True)
class Absences:
    """Since when there is no namespace for attributes that values wait for."""

    grace_ns: int
    """How long it may still come."""
    _since_ns: dict[Attributes, int] = field(default_factory=dict)

    def any(self) -> bool:
        """Whether there are such attributes."""
        return bool(self._since_ns)

    def note(self, attributes: Attributes, now_ns: int) -> bool:
        """There is none: whether it is too late for one."""
        return now_ns - self._since_ns.setdefault(attributes, now_ns) >= self.grace_ns

    def there(self, attributes: Attributes) -> None:
        """There is one."""
        self._since_ns.pop(attributes, None)


def sort(batch: Values, targets: Targets, absences: Absences, now_ns: int, offset_ns: int = 0) -> Sendable:
    """``offset_ns``: taken off every time (``writeTimestampOffset``)."""
    others = Delivered()
    found = [targets.current.get(one.attributes) for one in batch.destinations]
    series, time_ns, _, destination = batch.columns
    units = np.array([one.unit for one in batch.destinations], np.uint8)
    limits = np.array([_limits(one, now_ns) for one in found], np.int64).reshape(-1, 2)
    timestamp, verdicts = np.empty(len(batch), np.int64), np.empty(len(batch), np.uint8)
    odd = kernels.judge(time_ns, destination, units, limits, offset_ns, timestamp, verdicts)
    if odd:
        sent_ns = timestamp * np.array([one.unit.ns for one in batch.destinations], np.int64)[destination]
        old, new = verdicts == kernels.TOO_OLD, verdicts == kernels.TOO_NEW
        _homeless(batch, verdicts == kernels.HOMELESS, others, absences, now_ns)
        for number, target in enumerate(found):
            if target is not None and target.limits is not None:
                mine = batch.destination == number
                _too_old(np.flatnonzero(mine & old), target, target.limits, sent_ns, now_ns, others)
                _too_new(np.flatnonzero(mine & new), target, target.limits, sent_ns, now_ns, others)
    if absences.any():
        for one, target in zip(batch.destinations, found, strict=True):
            if target is not None:
                absences.there(one.attributes)
    names = [b"" if one is None else one.name.encode() for one in found]
    unique = tuple(dict.fromkeys(names))
    numbers = np.array([unique.index(name) for name in names], np.uint16)
    slots, rows = np.empty(1 << (2 * len(batch) - 1).bit_length(), np.int32), np.empty(len(batch), np.int64)
    rows = rows[: kernels.later_ones(series, timestamp, destination, numbers, units, slots, rows)]
    if odd:
        rows = rows[verdicts[rows] == kernels.FITS]
    whole = len(rows) == len(batch)
    chosen = destination if whole else destination[rows]
    return Sendable(
        rows=rows,
        namespaces=unique,
        namespace=numbers[chosen],
        timestamp=timestamp if whole else timestamp[rows],
        time_type=units[chosen],
        raw=np.array([one.policy is None for one in batch.destinations])[chosen],
        others=others,
    )


def _limits(target: Target | None, now_ns: int) -> tuple[int, int]:
    if target is None:
        # The other way round: there is no such time.
        return _LATEST, _EARLIEST
    return (_EARLIEST, _LATEST) if target.limits is None else target.limits.at(now_ns)


def _homeless(batch: Values, missing: NDArray[np.bool_], others: Delivered, absences: Absences, now_ns: int) -> None:
    for number in np.unique(batch.destination[missing]).tolist():
        destination: Destination = batch.destinations[number]
        rows = np.flatnonzero(missing & (batch.destination == number))
        text = f"no namespace of M3DB has the policy {destination} any more"
        if absences.note(destination.attributes, now_ns):
            others.refused.append(Refused(RefusedWhy.NO_NAMESPACE, rows, text))
        else:
            others.parked.append(Parked(rows, _AGAIN_S, text))


def _too_old(
    rows: NDArray[np.int64], target: Target, limits: Limits, sent_ns: NDArray[np.int64], now_ns: int, others: Delivered
) -> None:
    if not len(rows):
        return
    late = go_duration(_SECOND * (max(now_ns - int(sent_ns[rows[0]]), 0) // _SECOND))
    if limits.cold_writes:
        why, bound = RefusedWhy.OUTSIDE_RETENTION, f"retention {go_duration(limits.retention_ns)}"
    else:
        why, bound = RefusedWhy.TOO_OLD, f"bufferPast {go_duration(limits.buffer_past_ns)}"
    text = f"datapoint too far in past for namespace {target.name}: {late} old, beyond its {bound}"
    others.refused.append(Refused(why, rows, text))


def _too_new(
    rows: NDArray[np.int64], target: Target, limits: Limits, sent_ns: NDArray[np.int64], now_ns: int, others: Delivered
) -> None:
    if not len(rows):
        return
    _, end = limits.at(now_ns)
    ahead_ns = sent_ns[rows] - end
    text = (
        f"datapoint too far in future for namespace {target.name} (bufferFuture {go_duration(limits.buffer_future_ns)})"
    )
    far = ahead_ns > LONGEST_AHEAD_NS
    if far.any():
        others.refused.append(Refused(RefusedWhy.OUTSIDE_RETENTION, rows[far], text))
        rows, ahead_ns = rows[~far], ahead_ns[~far]
    if not len(rows):
        return
    # Limits move once a second.
    due_s = ahead_ns // _SECOND + 1
    width = (int(due_s.max()) - int(due_s.min())) // _MOST_GROUPS + 1
    groups = (due_s - due_s.min()) // width
    for group in np.unique(groups).tolist():
        mine = groups == group
        others.parked.append(Parked(rows[mine], float(due_s[mine].max()), text))
