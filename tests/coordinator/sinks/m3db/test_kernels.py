"""The compiled loops against the rules of a node, one after the other, and against a dictionary."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator.sinks.m3db import Limits, kernels
from coordinator.sinks.values import TimeUnit

SECOND = 10**9
_SECONDS = st.integers(0, 5).map(lambda s: s * SECOND)
_RETENTIONS = st.integers(6, 9).map(lambda s: s * SECOND)
"""Longer than any buffer, as in every registry that can be."""
_LIMITS = st.builds(Limits, _SECONDS, _SECONDS, _RETENTIONS, _SECONDS, st.booleans())


def _as_a_node(limits: Limits, time_ns: int, now_ns: int) -> int:
    past_limit = (now_ns - limits.buffer_past_ns) // SECOND * SECOND
    future_limit = (now_ns + limits.buffer_future_ns) // SECOND * SECOND
    if past_limit <= time_ns < future_limit:
        return kernels.FITS
    verdict = kernels.TOO_OLD if time_ns < past_limit else kernels.TOO_NEW
    if not limits.cold_writes:
        return verdict
    if time_ns < now_ns - limits.retention_ns:
        return kernels.TOO_OLD
    return kernels.TOO_NEW if time_ns >= now_ns + limits.future_retention_ns and verdict else kernels.FITS


@given(
    st.lists(st.tuples(st.integers(-12 * SECOND, 12 * SECOND), st.integers(0, 4)), min_size=1, max_size=20),
    st.lists(st.tuples(st.sampled_from(TimeUnit), st.one_of(st.none(), _LIMITS)), min_size=5, max_size=5),
    st.integers(0, 2 * SECOND),
    st.integers(-1, 3 * SECOND),
)
def test_times_are_judged_as_nodes_do(
    rows: list[tuple[int, int]], kinds: list[tuple[TimeUnit, Limits | None]], now_ns: int, offset_ns: int
) -> None:
    # A clock near 0 has times before it.
    bounds = [(1, 0) if limits is None else limits.at(now_ns) for _, limits in kinds]
    stamps, verdicts = np.empty(len(rows), np.int64), np.empty(len(rows), np.uint8)
    odd = kernels.judge(
        np.array([now_ns + ahead for ahead, _ in rows]), np.array([d for _, d in rows], np.uint16),
        np.array([unit for unit, _ in kinds], np.uint8), np.array(bounds, np.int64), offset_ns, stamps, verdicts,
    )  # fmt: skip
    expected = []
    for (ahead, d), stamp in zip(rows, stamps.tolist(), strict=True):
        (unit, limits), at = kinds[d], now_ns + ahead - offset_ns
        assert stamp == abs(at) // unit.ns * (1 if at >= 0 else -1)
        expected.append(kernels.HOMELESS if limits is None else _as_a_node(limits, stamp * unit.ns, now_ns))
    assert verdicts.tolist() == expected
    assert odd == sum(one != kernels.FITS for one in expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_later_rows_replace_earlier_ones(rows: list[tuple[int, int, int]]) -> None:
    series, times, destination = (np.array(column) for column in zip(*rows, strict=True))
    # Two destinations share a namespace, a third one has other units.
    namespace, units = [0, 1, 1, 1], [0, 0, 0, 2]
    kept = np.empty(len(rows), np.int64)
    count = kernels.later_ones(
        series.astype(np.uint32), times, destination.astype(np.uint16), np.array(namespace, np.uint16),
        np.array(units, np.uint8), np.empty(1 << (2 * len(rows) - 1).bit_length(), np.int32), kept,
    )  # fmt: skip
    last = {(s, t, namespace[d], units[d]): k for k, (s, t, d) in enumerate(rows)}
    assert kept[:count].tolist() == sorted(last.values())
