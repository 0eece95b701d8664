# mypy: ignore-errors
"""Compiled ingest of usual messages: one that has a shape, of an entry that is known and has one element, which does not change with it.

What ``apply`` finds out for such a message is the same for all messages of a shape in a batch, but for the entry, so it is found out once
(``remember``). All else is for ``apply``, which does the same for these as well.
"""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.ingest.apply import add, count_kind, put, refuse
from aggregator.engine.ingest.entries import is_entry
from aggregator.engine.ingest.forwarded import category_of, to_int64
from aggregator.engine.ingest.repeats import may_repeat
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import in_page
from aggregator.engine.windows.slim import add_last, add_sum
from m3metrics.rows import Payload
from m3x.kernels import base


@njit(cache=True, nogil=True)
def remember(t, s, at, row, now_ns):
    """Notes in a shape (SHAPE) what ``usual`` needs of its messages; ``row``, one of them, was applied to entry ``at``, and its metadata is
    that of the entry's stage."""
    e = v.entries(t)[at]
    s.stage = np.uint32(0)
    # M3 has its own way with empty batches, and with limits.
    if e.elements != 1 or v.head(t).value_limit > 0 or (row.payload == Payload.TIMERS and row.values_size == 0):
        return
    spec = np.int64(e.spec)
    if row.payload == Payload.TIMED:
        stage = v.stages(t)[np.int64(e.stage) - 1]
        spec = np.int64(v.stage_specs(t)[np.int64(stage.specs_at)].spec)
    s.stage = e.stage
    s.spec = np.uint32(spec)
    s.flags = np.int64(v.specs(t)[spec].flags)
    _remember_window(t, s, np.int64(v.specs(t)[spec].bucket), row, now_ns)


@njit(cache=True, nogil=True)
def _remember_window(t, s, b, row, now_ns):
    """Notes the window of bucket ``b`` that the message was added to, if no shard has flushed it, and the times that are right for it."""
    bucket = v.buckets(t)[b]
    s.from_ns = np.int64(0)
    s.until_ns = np.int64(0)
    if s.flags & layout.SPEC_STATE or bucket.window < 0 or bucket.start + bucket.due <= bucket.closed_max:
        return
    s.window = bucket.window
    s.start = bucket.start
    s.from_ns = bucket.start
    s.until_ns = bucket.start + bucket.resolution
    if row.payload >= Payload.TIMED:
        s.from_ns = max(s.from_ns, now_ns - bucket.past_limit)
        s.until_ns = min(s.until_ns, now_ns + v.head(t).future + 1)


@njit(cache=True, nogil=True)
def apply_usual(t, buf, row, hint, s, scratch, now_ns, call):
    """Applies a message of a shape; whether that could be done. If not, nothing has been changed.

    ``row`` (METRIC_ROW), ``hint`` (HINT) and ``scratch`` as for ``apply.apply_row``.
    """
    at = hint.row
    if s.stage == 0 or at < 0:
        return False
    e = v.entries(t)[at]
    if e.stage != s.stage or e.spec != s.spec or e.elements != 1:
        return False
    home = v.shards(t)[np.int64(e.shard)]
    if home.owned == 0 or now_ns < home.earliest or now_ns >= home.latest:
        return False
    if v.head(t).repeats != 0 and may_repeat(t, hint.key):
        return False
    category = category_of(np.int64(row.payload))
    if hint.found == 0:
        address = base(buf) + np.uint64(row.id_at)
        if not is_entry(t, at, category, np.int64(row.metric_type), address, np.int64(row.id_size)):
            return False
    timed = row.payload >= Payload.TIMED
    time_ns = row.time_ns if timed else now_ns
    ref = np.int64(e.element) - 1
    detail = why.D_NONE
    page = np.int64(0)
    if s.from_ns <= time_ns < s.until_ns:
        slot = ref & layout.SLOT_MASK
        page = np.int64(v.page_table(t)[s.window, slot >> layout.PAGE_BITS])
        i = in_page(page, slot)
    if page & layout.SLIM_PAGE:
        if s.flags & layout.SPEC_LAST:
            add_last(t, i, row.value, time_ns - s.start, np.int64(0) if timed else call)
        else:
            add_sum(t, i, to_int64(row.value) if timed else row.count)
    elif page != 0 and v.records(t)[i].flags != 0:
        scratch[0] = row.value
        put(t, i, s.window, slot, v.specs(t)[np.int64(s.spec)], row, time_ns, call, base(scratch), buf)
    else:
        scratch[0] = row.value
        shard = np.int64(e.shard)
        detail = add(t, ref, np.int64(s.spec), shard, row, base(scratch), buf, now_ns, call)
        _remember_window(t, s, ref >> layout.SLOT_BITS, row, now_ns)
    e.last_access = now_ns
    hint.entry = at << 1 | 1
    count_kind(t, row)
    if detail == why.D_NONE:
        v.counts(t)[why.C_SUCCESS + category] += 1
        v.counts(t)[why.C_WRITE_SUCCESS] += 1
    else:
        refuse(t, category, detail, buf, np.int64(row.id_at), np.int64(row.id_size))
    return True
