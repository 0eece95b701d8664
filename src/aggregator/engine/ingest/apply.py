# mypy: ignore-errors
"""Compiled ingest of one decoded message: find or make its entry, bring it in line with its metadata, add its value to its elements.

Acceptance rules: docs/m3/aggregation.md.
"""

import numpy as np
from numba import njit

from aggregator.engine import reasons as why
from aggregator.engine.ingest.entries import apply_stage, create_entry, is_entry, probe, refuse_stage
from aggregator.engine.ingest.forwarded import (
    active_stage,
    add_forwarded,
    annotate,
    category_of,
    has_come,
    in_time,
    locate_with_state,
    resend_of,
    stage_of,
    to_int64,
)
from aggregator.engine.ingest.limits import late_or_early, may_create, within_value_limit
from aggregator.engine.ingest.repeats import take_repeat
from aggregator.engine.state.elements import append_element, find_element, find_key
from aggregator.engine.state.state import MIGRATION, RESEND_KEPT, RESEND_OFF, RESEND_ON, mark_written
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.windows.pages import CLOSED, SLIM
from aggregator.engine.windows.records import add_counter, add_gauge, add_timer, begin_record, locate
from aggregator.engine.windows.slim import add_last, add_sum, whole_record_of
from m3metrics.metric import MetricType
from m3metrics.rows import ROW_OK, Payload
from m3x import table_kernels
from m3x.kernels import base, bytes_equal, murmur3_32

DONE, NEED_METADATA, NEED_INDEX, NEED_PLAIN, NEED_PASSTHROUGH, NEED_REPEATS = range(6)
"""Why ``ingest`` returned: all is applied; unseen metadata bytes; full index; a message for the plain decoder; a passthrough metric."""


@njit(cache=True, nogil=True)
def refuse(t, category, detail, buf, id_at, id_size):
    """Counts a refused metric and keeps its id, as long as there is room for more of them."""
    v.errors(t)[category, detail] += 1
    n = v.head(t).errors
    if n < layout.ERRORS_KEPT:
        v.head(t).errors = n + 1
        e = v.recent(t)[n]
        size = min(id_size, 124)
        e.detail = np.uint16(detail)
        e.size = np.uint16(size)
        for k in range(size):
            e.id[k] = buf[id_at + k]


@njit(cache=True, nogil=True)
def _detail_of(i):
    """Why there is no record ``i``."""
    if i == CLOSED:
        return why.D_CLOSED
    return why.D_MIGRATION if i == MIGRATION else why.D_MEMORY


@njit(cache=True, nogil=True)
def put(t, i, w, slot, spec, row, time_ns, call, value_bits, buf):
    """Adds the value of a message to record ``i``, and its annotation."""
    metric_type = np.int64(spec.metric_type)
    flags = np.int64(spec.flags)
    timed = row.payload >= Payload.TIMED
    if metric_type == MetricType.GAUGE:
        add_gauge(t, i, row.value, time_ns, np.int64(0) if timed else call, flags)
    elif metric_type == MetricType.COUNTER:
        add_counter(t, i, to_int64(row.value) if timed else row.count, flags)
    elif timed:
        add_timer(t, i, w, slot, value_bits, 1, flags)
    else:
        add_timer(t, i, w, slot, base(buf) + np.uint64(row.values_at), np.int64(row.values_size) >> 3, flags)
    annotate(t, i, row, buf)


@njit(cache=True, nogil=True)
def add(t, ref, spec_row, shard, row, value_bits, buf, now_ns, call):
    """Adds the value of a message to one element; returns ``D_NONE`` or why not."""
    spec = v.specs(t)[spec_row]
    if spec.flags & layout.SPEC_STATE:
        return _add_with_state(t, ref, spec, shard, row, value_bits, buf, now_ns, call)
    b = ref >> layout.SLOT_BITS
    slot = ref & layout.SLOT_MASK
    logged = spec.flags & layout.SPEC_LOG != 0
    time_ns = now_ns
    timed = row.payload >= Payload.TIMED
    if timed:
        time_ns = row.time_ns
        detail = late_or_early(t, b, time_ns, now_ns)
        if detail != why.D_NONE:
            return detail
    i, w = locate(t, b, slot, shard, time_ns, logged)
    if i == CLOSED and not timed:
        v.counts(t)[why.C_RETRIED] += 1
        time_ns = now_ns + v.buckets(t)[b].resolution
        i, w = locate(t, b, slot, shard, time_ns, logged)
    if i < 0:
        return _detail_of(i)
    if i >= SLIM:
        if row.annotation_size == 0:
            if spec.flags & layout.SPEC_LAST:
                add_last(t, i, row.value, time_ns - v.windows(t)[w].start, np.int64(0) if timed else call)
            else:
                add_sum(t, i, to_int64(row.value) if timed else row.count)
            return why.D_NONE
        i = whole_record_of(t, w, slot)
        if i < 0:
            return why.D_MEMORY
    if v.records(t)[i].flags == 0:
        begin_record(t, i, w, b, shard, np.int64(spec.metric_type))
    put(t, i, w, slot, spec, row, time_ns, call, value_bits, buf)
    return why.D_NONE


@njit(cache=True, nogil=True)
def _put_with_state(t, ref, spec, shard, row, time_ns, resend, value_bits, buf, call):
    """``put`` in the window of ``time_ns``; ``D_NONE`` or why not."""
    b = ref >> layout.SLOT_BITS
    slot = ref & layout.SLOT_MASK
    i, w = locate_with_state(t, b, slot, shard, spec, time_ns, resend == RESEND_ON)
    if i < 0:
        return _detail_of(i)
    put(t, i, w, slot, spec, row, time_ns, call, value_bits, buf)
    mark_written(t, b, w, i, shard, resend)
    return why.D_NONE


@njit(cache=True, nogil=True)
def _add_with_state(t, ref, spec, shard, row, value_bits, buf, now_ns, call):
    """``add`` for elements with state (docs/m3/aggregation.md, untimed values)."""
    b = ref >> layout.SLOT_BITS
    if row.payload >= Payload.TIMED:
        detail = late_or_early(t, b, row.time_ns, now_ns)
        if detail == why.D_NONE:
            detail = _put_with_state(t, ref, spec, shard, row, row.time_ns, RESEND_KEPT, value_bits, buf, call)
        return detail
    if row.time_ns > 0 and resend_of(t, ref):
        v.counts(t)[why.C_RESEND] += 1
        detail = late_or_early(t, b, row.time_ns, now_ns)
        if detail == why.D_NONE:
            detail = _put_with_state(t, ref, spec, shard, row, row.time_ns, RESEND_ON, value_bits, buf, np.int64(0))
        if detail != why.D_MIGRATION:
            return detail
    detail = _put_with_state(t, ref, spec, shard, row, now_ns, RESEND_OFF, value_bits, buf, call)
    if detail == why.D_CLOSED:
        v.counts(t)[why.C_RETRIED] += 1
        later = now_ns + v.buckets(t)[b].resolution
        detail = _put_with_state(t, ref, spec, shard, row, later, RESEND_OFF, value_bits, buf, call)
    return detail


@njit(cache=True, nogil=True)
def _same_set(t, row, stage):
    """Whether the entry's aggregations are those of the stage, routing included."""
    e = v.entries(t)[row]
    s = v.stages(t)[stage]
    if np.int64(e.elements) != np.int64(s.specs):
        return False
    for k in range(np.int64(s.specs)):
        want = v.stage_specs(t)[np.int64(s.specs_at) + k]
        ref = find_key(t, row, np.int64(want.spec))
        if ref < 0 or np.uint32(v.elements(t)[ref].attrs) != want.attrs:
            return False
    return True


@njit(cache=True, nogil=True)
def _prepare(t, row, meta, payload, category, now_ns):
    """Brings an entry's aggregations in line with a message's metadata (docs/m3/aggregation.md, staged metadata).

    Returns ``(detail, write)``: ``write`` is False where the message is accepted without storing anything.
    """
    m = v.metas(t)[meta]
    e = v.entries(t)[row]
    if m.action != 0:
        if m.action == why.D_EMPTY_LIST:
            v.counts(t)[why.C_EMPTY_LIST] += 1
        return np.int64(m.action), False
    stage = active_stage(t, meta, now_ns)
    if stage < 0:
        v.counts(t)[why.C_NO_APPLICABLE] += 1
        return np.int64(why.D_NO_APPLICABLE), False
    s = v.stages(t)[stage]
    if s.action == layout.STAGE_TOMBSTONED:
        v.counts(t)[why.C_TOMBSTONED + category] += 1
        return np.int64(why.D_NONE), False
    if s.action == why.D_NO_PIPELINES:
        v.counts(t)[why.C_NO_PIPELINES + category] += 1
        return np.int64(why.D_NO_PIPELINES), False
    if payload in (Payload.FORWARDED, Payload.TIMED):
        if s.action != 0:
            return np.int64(s.action), False
        want = v.stage_specs(t)[np.int64(s.specs_at)]
        ref = find_key(t, row, np.int64(want.spec))
        if ref < 0:
            ref = append_element(t, row, np.int64(want.spec), np.int64(want.attrs), now_ns)
        if ref < 0:
            return np.int64(why.D_MEMORY), False
        e.stage = np.uint32(stage + 1)
        return np.int64(why.D_NONE), True
    if e.cutover > s.cutover:
        if category == why.UNTIMED:
            v.counts(t)[why.C_STALE] += 1
        return np.int64(why.D_NONE), True
    if s.action != 0:
        refuse_stage(t, row, stage, now_ns)
        return np.int64(s.action), False
    if e.cutover == s.cutover and _same_set(t, row, stage):
        e.stage = np.uint32(stage + 1)
        return np.int64(why.D_NONE), True
    return np.int64(apply_stage(t, row, stage, now_ns)), True


@njit(cache=True, nogil=True)
def count_kind(t, row):
    if row.payload == Payload.GAUGE:
        v.counts(t)[why.C_GAUGES] += 1
    elif row.payload == Payload.COUNTER:
        v.counts(t)[why.C_COUNTERS] += 1
    elif row.payload == Payload.TIMERS:
        v.counts(t)[why.C_TIMER_BATCHES] += 1
        v.counts(t)[why.C_TIMERS] += np.int64(row.values_size) >> 3
    elif row.payload == Payload.FORWARDED:
        v.counts(t)[why.C_FORWARDED] += 1
    else:
        v.counts(t)[why.C_TIMED] += 1


@njit(cache=True, nogil=True)
def _find_metadata(t, address, size, key):
    """Row of the metadata of ``size`` bytes at ``address`` (``key``: payload << 8 | metric type), -1 if it has not been interned."""
    table = v.head(t).metadata_table
    found = table_kernels.probe(table, table_kernels.hash_half(address, size, key), address, size, key)
    return table_kernels.value_of(table, found) if found >= 0 else found


@njit(cache=True, nogil=True)
def apply_row(t, buf, rows, i, hints, scratch, now_ns, call):
    """Applies the decoded message ``rows[i]``; returns ``DONE`` or what is needed first (nothing has been changed then).

    ``hints[i]`` (HINT): ``half``, ``row``, ``found`` and ``key`` are told, ``entry`` is set. ``scratch``: one double.
    """
    row = rows[i]
    hints[i].entry = layout.NO_ENTRY
    if row.status != ROW_OK:
        return NEED_PLAIN
    payload = np.int64(row.payload)
    id_at = np.int64(row.id_at)
    id_size = np.int64(row.id_size)
    if payload == Payload.PASSTHROUGH:
        return NEED_PASSTHROUGH
    category = category_of(payload)
    metric_type = np.int64(row.metric_type)
    key = (payload << 8) | metric_type
    address = base(buf) + np.uint64(id_at)
    half = hints[i].half
    at = hints[i].row
    if at >= 0 and hints[i].found == 0 and not is_entry(t, at, category, metric_type, address, id_size):
        at = np.int64(-1)
    if at < 0:
        at = probe(t, half, category, metric_type, address, id_size)
    if at >= 0 and v.head(t).repeats != 0 and take_repeat(t, buf, row, at, hints[i].key):
        hints[i].entry = np.int64(layout.REPEATED) - at
        return DONE
    meta_size = np.int64(row.meta_size)
    known = False
    if at >= 0 and v.entries(t)[at].stage != 0:
        s = v.stages(t)[np.int64(v.entries(t)[at].stage) - 1]
        known = (
            np.int64(s.meta_size) == meta_size
            and np.int64(s.key) == key
            and s.from_ns <= now_ns
            and now_ns < s.until_ns
            and bytes_equal(base(v.text(t)) + np.uint64(s.meta_at), base(buf) + np.uint64(row.meta_at), meta_size)
        )
    if at >= 0:
        hints[i].entry = at << 1 | np.int64(known)
    meta = np.int64(-1)
    if not known:
        meta = _find_metadata(t, base(buf) + np.uint64(row.meta_at), meta_size, np.uint64(key))
        if meta < 0:
            return NEED_METADATA
        if v.metas(t)[meta].action == why.D_DECODE:
            refuse(t, why.OTHER, why.D_DECODE, buf, id_at, id_size)
            return DONE
        if at < 0 and v.head(t).live >= v.head(t).index_limit:
            return NEED_INDEX
    made = apply_to(t, buf, row, at, meta, half, scratch, now_ns, call)
    if at < 0 and made >= 0:
        hints[i].entry = made << 1
    return DONE


@njit(cache=True, nogil=True)
def apply_to(t, buf, row, at, meta, half, scratch, now_ns, call):
    """Applies a message to entry ``at`` (-1: make it), with the metadata ``meta`` (-1: that of the entry's stage); returns the entry's row.

    The row is -1 where none was made. This is all that a message changes, so a journal need not tell more of one than what is given here.
    """
    payload = np.int64(row.payload)
    id_at = np.int64(row.id_at)
    id_size = np.int64(row.id_size)
    category = category_of(payload)
    metric_type = np.int64(row.metric_type)
    known = meta < 0
    count_kind(t, row)
    shard = (
        np.int64(v.entries(t)[at].shard)
        if at >= 0
        else np.int64(murmur3_32(buf, id_at, id_size) % np.uint32(v.head(t).num_shards))
    )
    home = v.shards(t)[shard]
    if home.owned == 0:
        refuse(t, category, why.D_NOT_OWNED, buf, id_at, id_size)
        return at
    if now_ns < home.earliest or now_ns >= home.latest:
        v.counts(t)[why.C_NOT_WRITEABLE] += 1
        refuse(t, category, why.D_NOT_WRITEABLE, buf, id_at, id_size)
        return at
    if at < 0:
        detail = may_create(t, shard, now_ns)
        if detail == why.D_NONE:
            at = create_entry(t, half, category, metric_type, buf, id_at, id_size, shard, now_ns)
            if at < 0:
                detail = why.D_NEW_MEMORY
        if detail != why.D_NONE:
            refuse(t, category, detail, buf, id_at, id_size)
            return at
    e = v.entries(t)[at]
    n = np.int64(row.values_size) >> 3 if payload == Payload.TIMERS else np.int64(1)
    if not within_value_limit(t, e, n, now_ns):
        v.counts(t)[why.C_VALUE_REFUSED + category] += 1
        v.counts(t)[why.C_DROPPED_VALUES + category] += n
        refuse(t, category, why.D_VALUE_LIMIT, buf, id_at, id_size)
        return at
    if payload == Payload.TIMERS and n == 0 and v.head(t).timer_split > 0:
        # M3 cuts the batch into slices, none here, and does for each what it does for a batch.
        v.counts(t)[why.C_SUCCESS + category] += 1
        v.counts(t)[why.C_WRITE_SUCCESS] += 1
        return at
    e.last_access = now_ns
    write = True
    detail = np.int64(why.D_NONE)
    if payload == Payload.FORWARDED:
        detail = in_time(t, stage_of(t, at, meta, known, now_ns), shard, row.time_ns, now_ns)
    if not known and detail == why.D_NONE:
        detail, write = _prepare(t, at, meta, payload, category, now_ns)
    if write and detail == why.D_NONE:
        scratch[0] = row.value
        value_bits = base(scratch)
        if payload == Payload.FORWARDED:
            detail = add_forwarded(t, at, np.int64(e.stage) - 1, shard, row, buf)
        elif payload == Payload.TIMED:
            stage = stage_of(t, at, meta, known, now_ns)
            spec = np.int64(v.stage_specs(t)[np.int64(v.stages(t)[stage].specs_at)].spec)
            detail = add(t, find_element(t, at, spec), spec, shard, row, value_bits, buf, now_ns, call)
        elif e.elements == 1:
            detail = add(t, np.int64(e.element) - 1, np.int64(e.spec), shard, row, value_bits, buf, now_ns, call)
        else:
            ref = np.int64(e.element) - 1
            while ref >= 0:
                x = v.elements(t)[ref]
                result = add(t, ref, np.int64(x.spec), shard, row, value_bits, buf, now_ns, call)
                if detail == why.D_NONE:
                    detail = result
                ref = np.int64(x.next) - 1
    closed = payload == Payload.FORWARDED and detail == why.D_CLOSED
    if closed and now_ns < v.head(t).grace and has_come(t, at, stage_of(t, at, meta, known, now_ns), row):
        v.counts(t)[why.C_DUPLICATES] += 1
        detail = np.int64(why.D_NONE)
    if detail == why.D_NONE:
        v.counts(t)[why.C_SUCCESS + category] += 1
        v.counts(t)[why.C_WRITE_SUCCESS] += 1
    else:
        refuse(t, category, detail, buf, id_at, id_size)
    return at
