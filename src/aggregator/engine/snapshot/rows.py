# mypy: ignore-errors
"""Compiled walks over the tables of an engine, for saving them as columns and for making them from columns."""

import numpy as np
from numba import njit

from aggregator.engine.ingest.entries import create_entry, key_hash
from aggregator.engine.state.elements import take_element
from aggregator.engine.state.state import state_word
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from aggregator.engine.tables.index import remove
from aggregator.engine.windows.pages import SLIM, exists, record_at, record_of
from aggregator.engine.windows.records import append_log
from aggregator.engine.windows.slim import pack, unpack, whole_record_of
from aggregator.engine.windows.sources import enter_source
from m3metrics.metric import MetricType
from m3x.kernels import base, copy_bytes


@njit(cache=True, nogil=True)
def copy_ids(t, rows, out):
    """Copies the ids of entries to ``out`` (uint8), one behind the other."""
    at = np.int64(0)
    for k in range(len(rows)):
        e = v.entries(t)[rows[k]]
        at = copy_bytes(out, at, v.ids(t), e.id_at, np.int64(e.id_size))


@njit(cache=True, nogil=True)
def chain_places(t, rows, places):
    """Fills ``places`` (int32, by row of ``elements`` through ``v.reference``) for all elements in the chains of these entries.

    ``places`` is a flat view, and zero: element reference → place. What is the first of its chain is not touched.
    """
    for k in range(len(rows)):
        ref = np.int64(v.entries(t)[rows[k]].element) - 1
        place = 0
        while ref >= 0:
            if place > 0:
                places[ref] = place
            place += 1
            ref = np.int64(v.elements(t)[ref].next) - 1


@njit(cache=True, nogil=True)
def find_records(t, w, slots, places, rows):
    """The records of window ``w`` in ``slots``: their ``places`` in it and their ``rows``. Returns how many there are."""
    n = 0
    for k in range(len(slots)):
        i = record_at(t, w, slots[k])
        if exists(t, i) or (0 <= i < SLIM and v.records(t)[i].flags & layout.BASE_SUMS):
            places[n] = k
            rows[n] = i
            n += 1
    return n


@njit(cache=True, nogil=True)
def read_records(t, w, slots, rows, out, words):
    """Copies the records ``rows`` of window ``w``, those of ``slots``, to ``out`` (COUNTER_RECORD); ``words``: the same memory (RECORD)."""
    x = v.windows(t)[w]
    for k in range(len(rows)):
        i = rows[k]
        if i < SLIM:
            out[k] = v.counter_records(t)[i]
        else:
            spec = v.specs(t)[np.int64(v.elements(t)[v.reference(x.bucket, slots[k])].spec)]
            unpack(t, i, x.start, spec.flags, words[k], out[k])


@njit(cache=True, nogil=True)
def read_words(t, rows, counts, out):
    """The first ``counts[k]`` numbers of the state behind each record."""
    at = 0
    for k in range(len(rows)):
        for j in range(counts[k]):
            out[at] = v.record_words(t)[state_word(np.int64(rows[k]), j)]
            at += 1


@njit(cache=True, nogil=True)
def make_entries(t, ids, sizes, category, metric_type, shard, live, rows):
    """Makes entries, and tells their ``rows``; whether there was room. Those that are not ``live`` are in no index."""
    at = np.int64(0)
    origin = base(ids)
    for k in range(len(sizes)):
        size = np.int64(sizes[k])
        half = key_hash(origin + np.uint64(at), np.uint64(size), np.int64(category[k]), np.int64(metric_type[k]))
        row = create_entry(t, half, category[k], metric_type[k], ids, at, size, np.int64(shard[k]), np.int64(0))
        if row < 0:
            return False
        rows[k] = row
        at += size
        if not live[k]:
            remove(v.entry_index(t), v.head(t).index_mask, np.uint64(v.entries(t)[row].hash), row)
            v.head(t).live -= 1
            v.shards(t)[np.int64(shard[k])].entries -= 1
            v.entries(t)[row].state = np.uint8(layout.ENTRY_DEAD)
    return True


@njit(cache=True, nogil=True)
def make_elements(t, entry, spec, attrs, state, newest, gone, term, refs):
    """Makes elements, not yet in chains, and tells their references; whether there was room."""
    for k in range(len(entry)):
        row = np.int64(entry[k])
        ref = take_element(t, row, np.int64(spec[k]))
        if ref < 0:
            return False
        refs[k] = ref
        v.elements(t)[ref].attrs = np.uint16(attrs[k])
        v.entries(t)[row].held += np.uint16(1)
        b = ref >> layout.SLOT_BITS
        s = v.specs(t)[np.int64(spec[k])]
        if s.target != 0:
            group = v.reference(b, np.int64(v.members(t)[ref].group) - 1)
            v.terms(t)[group].number = np.uint32(term[k])
            if gone[k]:
                v.members(t)[ref].gone = np.uint8(1)
                v.terms(t)[group].registered -= np.uint32(1)
        if state[k] != layout.ELEMENT_LIVE:
            x = v.tombstones(t)[ref]
            x.state = np.uint8(state[k])
            x.newest = np.uint32(newest[k])
            v.buckets(t)[b].tombstoned += 1
    return True


@njit(cache=True, nogil=True)
def link_chains(t, refs, entry):
    """Puts live elements into the chains of their entries; both in the order of the chains, entry after entry."""
    last = np.int64(-1)
    for k in range(len(refs)):
        row = np.int64(entry[k])
        ref = np.int64(refs[k])
        e = v.entries(t)[row]
        if k > 0 and np.int64(entry[k - 1]) == row:
            v.elements(t)[last].next = np.uint32(ref + 1)
        else:
            e.element = np.uint32(ref + 1)
            e.spec = v.elements(t)[ref].spec
        e.elements += np.uint16(1)
        last = ref


@njit(cache=True, nogil=True)
def make_records(t, windows, refs, table, counters, rows):
    """Makes records from ``table`` (RECORD) and ``counters`` (the same memory as COUNTER_RECORD), and tells their rows.

    Returns whether there was room.
    """
    for k in range(len(windows)):
        w = np.int64(windows[k])
        ref = np.int64(refs[k])
        i = record_of(t, w, ref & layout.SLOT_MASK)
        s = v.specs(t)[np.int64(v.elements(t)[ref].spec)]
        if i >= SLIM:
            if pack(t, i, v.windows(t)[w].start, s.flags, table[k], counters[k]):
                rows[k] = i
                continue
            i = whole_record_of(t, w, ref & layout.SLOT_MASK)
        if i < 0:
            return False
        rows[k] = i
        v.records(t)[i] = table[k]
        if s.metric_type == MetricType.TIMER:
            v.timer_logs(t)[i].samples = 0
        for j in range(1, np.int64(s.width)):
            v.states(t)[i + j - 1].flags = np.uint16(0)
            v.states(t)[i + j - 1].pending = np.uint32(0)
    return True


@njit(cache=True, nogil=True)
def make_states(t, rows, marks, counts, numbers):
    """The state behind records; output that was to be emitted is not."""
    at = 0
    for k in range(len(rows)):
        i = np.int64(rows[k])
        for j in range(counts[k]):
            v.record_words(t)[state_word(i, j)] = numbers[at]
            at += 1
        v.states(t)[i].marks = np.uint16(marks[k])
        v.states(t)[i].pending = np.uint32(0)


@njit(cache=True, nogil=True)
def make_samples(t, windows, refs, rows, counts, numbers):
    """The samples of timers."""
    at = np.int64(0)
    origin = base(numbers)
    for k in range(len(rows)):
        n = np.int64(counts[k])
        if n > 0:
            slot = np.int64(refs[k]) & layout.SLOT_MASK
            append_log(t, np.int64(windows[k]), slot, np.int64(rows[k]), origin + np.uint64(at << 3), n)
            at += n


@njit(cache=True, nogil=True)
def make_sources(t, windows, refs, source, block, bits):
    """What sources have sent; whether there was room."""
    for k in range(len(windows)):
        slot = np.int64(refs[k]) & layout.SLOT_MASK
        if not enter_source(
            t, np.int64(windows[k]), slot, np.int64(source[k]), np.uint32(block[k]), np.uint64(bits[k])
        ):
            return False
    return True


@njit(cache=True, nogil=True)
def make_versions(t, windows, refs, term, flush, sent):
    """What groups have sent of a window; whether there was room."""
    for k in range(len(windows)):
        group = np.int64(v.members(t)[np.int64(refs[k])].group) - 1
        g = record_of(t, np.int64(windows[k]), group)
        if g < 0:
            return False
        versions = v.versions(t)[g]
        versions.flags = np.uint16(layout.GROUP_RECORD)
        versions.term = np.uint32(term[k])
        versions.flush = np.int64(flush[k])
        versions.sent = np.int64(sent[k])
    return True
