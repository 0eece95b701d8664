"""Counts what is missing, wrong or doubled among what arrived downstream."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lab.failover.consumer import Arrival
from lab.failover.load import COUNTERS

__all__ = ["Verdict", "judge"]

_EXAMPLES = 5


@dataclass(slots=True)
class Verdict:
    """Counts of (series, window) pairs."""

    judged: int = 0
    missing: int = 0
    wrong: int = 0
    """The value that arrived last is not the right one."""
    doubled: int = 0
    """Two different values arrived."""
    repeated: int = 0
    """The same value arrived more than once: allowed."""
    outside: int = 0
    """Pairs that are not judged, because no replica held them completely."""
    outside_bad: int = 0
    """How many of those are missing, wrong or doubled."""
    delays_s: list[float] = field(default_factory=list)
    """From the time when a judged value was due until it arrived for the first time."""
    examples: list[str] = field(default_factory=list)
    worst: int = -1
    """A series with a bad window; -1: none."""

    @property
    def clean(self) -> bool:
        """Nothing is missing, wrong or doubled."""
        return not (self.missing or self.wrong or self.doubled)

    def delay_s(self, quantile: float) -> float:
        """A quantile of the delays; 1: the largest."""
        if not self.delays_s:
            return math.nan
        return float(np.quantile(np.array(self.delays_s), quantile, method="higher"))


def judge(
    expected: Mapping[int, NDArray[np.float64]],
    arrivals: Iterable[Arrival],
    number: Mapping[bytes, int],
    starts: Sequence[int],
    resolution_ns: int,
    is_judged: Callable[[int, int], bool],
    due_ns: Callable[[int], int],
) -> Verdict:
    """Compares what was sent with what arrived.

    ``expected``: window start → value per series (NaN: none). ``number``: id → series. ``starts``: windows to look at. ``is_judged``:
    (series, index in ``starts``) → whether the pair counts. ``due_ns``: series → how long after its end a window is due.
    """
    found: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
    for ident, end_ns, value, at_ns in arrivals:
        found[number.get(ident, -1), end_ns - resolution_ns].append((at_ns, value))
    verdict = Verdict()
    for index, start in enumerate(starts):
        wanted = expected.get(start)
        for series in range(0 if wanted is None else len(wanted)):
            assert wanted is not None
            right = float(wanted[series])
            if math.isnan(right):
                continue
            got = sorted(found.get((series, start), ()))
            if is_judged(series, index):
                _count(verdict, series, start, right, got)
                if got:
                    due = start + resolution_ns + due_ns(series)
                    verdict.delays_s.append((got[0][0] - due) / 1e9)
            else:
                verdict.outside += 1
                verdict.outside_bad += not got or got[-1][1] != right or len({v for _, v in got}) > 1
    return verdict


def _count(verdict: Verdict, series: int, start: int, right: float, got: list[tuple[int, float]]) -> None:
    values = {value for _, value in got}
    verdict.judged += 1
    verdict.missing += not got
    verdict.wrong += bool(got) and got[-1][1] != right
    verdict.doubled += len(values) > 1
    verdict.repeated += len(got) > 1 and len(values) == 1
    if (not got or values != {right}) and len(verdict.examples) < _EXAMPLES:
        verdict.worst = series
        kind = "counter" if series < COUNTERS else "timed"
        said = ", ".join(f"{value:g} at {(at - start) / 1e9:+.2f} s" for at, value in got) or "nothing"
        verdict.examples.append(f"{kind} {series}, window {start // 10**9}: expected {right:g}, arrived: {said}")
