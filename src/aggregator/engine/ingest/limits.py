# mypy: ignore-errors
"""Compiled limits of ingest: how late or early a sample may be, how many values and new metrics a second, how much memory.

Rules: docs/m3/aggregation.md, rate limits; docs/m3/aggregation.md, acceptance window.
"""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.tables import views as v
from aggregator.engine.tables.memory import over_new_limit

SECOND = 1_000_000_000


@njit(cache=True, nogil=True)
def late_or_early(t, b, time_ns, now_ns):
    """Whether a client's time is acceptable: ``D_NONE``, ``D_FUTURE`` or ``D_PAST`` (docs/m3/aggregation.md, acceptance window)."""
    if time_ns > now_ns + v.head(t).future:
        v.counts(t)[why.C_FUTURE] += 1
        return why.D_FUTURE
    if time_ns < now_ns - v.buckets(t)[b].past_limit:
        v.counts(t)[why.C_PAST] += 1
        return why.D_PAST
    return why.D_NONE


@njit(cache=True, nogil=True)
def within_value_limit(t, e, n, now_ns):
    """Whether ``n`` more values of this second are allowed; refused ones count too (docs/m3/aggregation.md, rate limits)."""
    limit = v.head(t).value_limit
    if limit <= 0:
        return True
    second = np.uint32(now_ns // SECOND)
    used = n
    if e.rate_second == second:
        used += np.int64(e.rate_count)
    e.rate_second = second
    e.rate_count = np.uint32(min(used, np.int64(0xFFFFFFFF)))
    return used <= limit


@njit(cache=True, nogil=True)
def may_create(t, shard, now_ns):
    """``D_NONE`` if a new entry is allowed on a shard now: rate limit with its warm-up, memory."""
    s = v.shards(t)[shard]
    if s.first_insert == 0:
        s.first_insert = now_ns
    if now_ns < s.first_insert + v.head(t).warmup:
        v.counts(t)[why.C_NEW_WARMUP] += 1
    elif v.head(t).new_limit > 0:
        second = now_ns // SECOND
        if s.rate_second != second:
            s.rate_second = second
            s.rate_count = 0
        s.rate_count += 1
        if s.rate_count > v.head(t).new_limit:
            v.counts(t)[why.C_NEW_REFUSED] += 1
            return why.D_NEW_LIMIT
    if over_new_limit(t):
        return why.D_NEW_MEMORY
    return why.D_NONE
