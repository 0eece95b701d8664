# mypy: ignore-errors
"""Compiled loops of the write path: the Prometheus ``WriteRequest``, the cache of series, samples to columns.

Formats: reference/coordinator.md §8.2 (prompb), §2 (metric ids). ``request`` decodes, ``find``/``insert``/``promote``/``prepare`` work on
one generation of the series cache (``coordinator.write.series_cache`` owns the arrays), ``expand`` makes the columns that
``m3metrics.kernels.encode_timed_samples`` takes.
"""

import numpy as np
from numba import njit

from m3metrics.rows import METRIC_TEMPLATE
from m3x.kernels import (
    OVERFLOW,
    base,
    bytes_equal,
    copy_bytes,
    hash_bytes,
    load8,
    load64,
    load_double,
    murmur3_32,
    read_varint,
)

SERIES_ROW = np.dtype(
    [
        ("labels_at", np.uint32),  # the label fields of the TimeSeries, tags and lengths included
        ("labels_size", np.uint32),
        ("message_at", np.uint32),  # the whole TimeSeries message
        ("message_size", np.uint32),
        ("sample_from", np.uint32),  # its samples are rows [sample_from, sample_from + samples)
        ("samples", np.uint32),
        ("m3_type", np.int32),  # field 101
        ("source", np.int32),  # field 102
        ("prom_type", np.int32),  # field 1001
        ("scattered", np.int32),  # 1: something stands between the label fields, so that labels_* says nothing
    ],
    align=True,
)
"""One row per TimeSeries of a WriteRequest."""

SLOT = np.dtype([("hash", np.uint64), ("entry", np.int64)], align=True)
"""Open addressing; ``entry`` is the entry's index + 1, 0: free."""

ENTRY = np.dtype(
    [
        ("key_at", np.uint32),
        ("key_size", np.uint32),
        ("context", np.uint64),  # what besides the key bytes decides over the templates
        ("first", np.int32),  # templates [first, first + count)
        ("count", np.int32),
    ],
    align=True,
)
"""One cached series."""

ENTRIES, TEMPLATES, ARENA = 0, 1, 2
"""Positions in a generation's ``used`` (int64): entries, templates and arena bytes in use."""

DONE, FULL_SERIES, FULL_SAMPLES = 0, 1, 2
ERROR_END, ERROR_OVERFLOW, ERROR_TAG, ERROR_WIRE, ERROR_LENGTH, ERROR_GROUP = 3, 4, 5, 6, 7, 8
"""Status of ``request``: too little room in the output, or why the bytes are not a WriteRequest."""

_GAUGE = 3


@njit(cache=True, nogil=True)
def _skip(buf, p, end, wire):
    """Position after a field of no interest, or a negative status."""
    if wire == 0:
        _, p = read_varint(buf, p, end)
        return p if p >= 0 else (-ERROR_OVERFLOW if p == OVERFLOW else -ERROR_END)
    if wire == 1:
        return p + 8 if p + 8 <= end else -ERROR_END
    if wire == 5:
        return p + 4 if p + 4 <= end else -ERROR_END
    if wire == 2:
        size, q = read_varint(buf, p, end)
        if q < 0:
            return -ERROR_OVERFLOW if q == OVERFLOW else -ERROR_END
        if size > np.uint64(0x7FFFFFFF):
            return -ERROR_LENGTH
        q += np.int64(size)
        return q if q <= end else -ERROR_END
    return -ERROR_GROUP


@njit(cache=True, nogil=True)
def _skip_group(buf, p, end):
    """Position after a group whose start tag was read, nested ones included, or a negative status."""
    depth = 1
    while depth > 0:
        tag, p = read_varint(buf, p, end)
        if p < 0:
            return -ERROR_OVERFLOW if p == OVERFLOW else -ERROR_END
        wire = np.int64(tag & np.uint64(7))
        if wire == 3:
            depth += 1
        elif wire == 4:
            depth -= 1
        else:
            p = _skip(buf, p, end, wire)
            if p < 0:
                return p
    return p


@njit(cache=True, nogil=True)
def _field(buf, p, end):
    """Reads a tag: ``(field number, wire type, position after it)``; the position is a negative status on failure."""
    tag, q = read_varint(buf, p, end)
    if q < 0:
        return np.int64(0), np.int64(0), np.int64(-ERROR_OVERFLOW if q == OVERFLOW else -ERROR_END)
    number = np.int64(np.int32(np.uint32((tag >> np.uint64(3)) & np.uint64(0xFFFFFFFF))))
    wire = np.int64(tag & np.uint64(7))
    if number <= 0 or wire == 4:
        return number, wire, np.int64(-ERROR_TAG)
    return number, wire, np.int64(q)


@njit(cache=True, nogil=True)
def _chunk(buf, p, end):
    """Reads a length: ``(position of the bytes, position after them)``; the second is a negative status on failure."""
    size, q = read_varint(buf, p, end)
    if q < 0:
        return np.int64(0), np.int64(-ERROR_OVERFLOW if q == OVERFLOW else -ERROR_END)
    if size > np.uint64(0x7FFFFFFF):
        return np.int64(0), np.int64(-ERROR_LENGTH)
    if q + np.int64(size) > end:
        return np.int64(0), np.int64(-ERROR_END)
    return np.int64(q), np.int64(q) + np.int64(size)


@njit(cache=True, nogil=True)
def _size(b, p, end):
    """The length varint at ``p``, if it has at most three bytes and its bytes lie before ``end``: ``(position of the bytes, after them)``.

    ``b``: address of the buffer. ``(0, 0)``: the general reader must look.
    """
    if p + 3 > end:
        return np.int64(0), np.int64(0)
    c = np.int64(load8(b + np.uint64(p)))
    p += 1
    if c >= 128:
        d = np.int64(load8(b + np.uint64(p)))
        p += 1
        c = (c & 127) | ((d & 127) << 7)
        if d >= 128:
            d = np.int64(load8(b + np.uint64(p)))
            p += 1
            if d >= 128:
                return np.int64(0), np.int64(0)
            c |= d << 14
    return (p, p + c) if p + c <= end else (np.int64(0), np.int64(0))


@njit(cache=True, nogil=True)
def _sample(buf, p, end, times_ms, values, k):
    """Parses a Sample into row ``k``; returns a status, 0 if good."""
    values[k] = 0.0
    times_ms[k] = 0
    while p < end:
        number, wire, p = _field(buf, p, end)
        if p < 0:
            return -p
        if number == 1:
            if wire != 1:
                return ERROR_WIRE
            if p + 8 > end:
                return ERROR_END
            values[k] = load_double(base(buf) + np.uint64(p))
            p += 8
        elif number == 2:
            if wire != 0:
                return ERROR_WIRE
            value, q = read_varint(buf, p, end)
            if q < 0:
                return ERROR_OVERFLOW if q == OVERFLOW else ERROR_END
            times_ms[k] = np.int64(value)
            p = np.int64(q)
        else:
            p = _skip_group(buf, p, end) if wire == 3 else _skip(buf, p, end, wire)
            if p < 0:
                return -p
    return 0


@njit(cache=True, nogil=True)
def _plain_sample(b, p, end, times_ms, values, k):
    """A Sample as every client writes it, a double and then a time of six bytes, into row ``k``; False: it looks otherwise."""
    if end - p != 16 or load8(b + np.uint64(p)) != 0x09 or load8(b + np.uint64(p + 9)) != 0x10:
        return False
    # Six varint bytes: 42 bits, which hold every time in milliseconds from 2004 to 2109.
    word = load64(b + np.uint64(p + 8)) >> np.uint64(16)
    if word & np.uint64(0x808080808080) != np.uint64(0x008080808080):
        return False
    time = np.uint64(0)
    for shift in range(6):
        time |= ((word >> np.uint64(8 * shift)) & np.uint64(0x7F)) << np.uint64(7 * shift)
    values[k] = load_double(b + np.uint64(p + 1))
    times_ms[k] = np.int64(time)
    return True


@njit(cache=True, nogil=True)
def _other(buf, at, end, row):
    """Any field of a TimeSeries but labels and samples, attributes into ``row``; the position after it, or a negative status."""
    number, wire, p = _field(buf, at, end)
    if p < 0:
        return p
    if number == 101 or number == 102 or number == 1001:
        if wire != 0:
            return np.int64(-ERROR_WIRE)
        value, q = read_varint(buf, p, end)
        if q < 0:
            return np.int64(-ERROR_OVERFLOW if q == OVERFLOW else -ERROR_END)
        small = np.int32(np.uint32(value & np.uint64(0xFFFFFFFF)))
        if number == 101:
            row.m3_type = small
        elif number == 102:
            row.source = small
        else:
            row.prom_type = small
        return np.int64(q)
    return np.int64(_skip_group(buf, p, end) if wire == 3 else _skip(buf, p, end, wire))


@njit(cache=True, nogil=True)
def _time_series(buf, p, end, row, times_ms, values, used):
    """Parses a TimeSeries into ``row`` and its samples from row ``used`` on; ``(status, samples used)``."""
    b = base(buf)
    row.message_at = np.uint32(p)
    row.message_size = np.uint32(end - p)
    row.sample_from = np.uint32(used)
    row.m3_type = 0
    row.source = 0
    row.prom_type = 0
    row.scattered = 0
    begin = used
    labels_at = p
    labels_end = p
    while p < end:
        at = p
        tag = load8(b + np.uint64(p))
        label = tag == 0x0A
        sample = tag == 0x12
        inner = np.int64(0)
        if label or sample:
            inner, p = _size(b, p + 1, end)
            if p == 0:
                inner, p = _chunk(buf, at + 1, end)
        elif tag >= 128 or tag >> np.uint8(3) <= 2:
            # A known field under a long tag, or of a wrong wire type.
            number, wire, q = _field(buf, p, end)
            if q < 0:
                return -q, used
            label = number == 1
            sample = number == 2
            if label or sample:
                if wire != 2:
                    return ERROR_WIRE, used
                inner, p = _chunk(buf, q, end)
            else:
                p = _other(buf, p, end, row)
        else:
            p = _other(buf, p, end, row)
        if p < 0:
            return -p, used
        if label:
            if labels_end == labels_at:
                labels_at = at
            elif at != labels_end:
                row.scattered = 1
            labels_end = p
        elif sample:
            if used == len(values):
                return FULL_SAMPLES, used
            if not _plain_sample(b, inner, p, times_ms, values, used):
                status = _sample(buf, inner, p, times_ms, values, used)
                if status != 0:
                    return status, used
            used += 1
    row.labels_at = np.uint32(labels_at)
    row.labels_size = np.uint32(labels_end - labels_at)
    row.samples = np.uint32(used - begin)
    return 0, used


@njit(cache=True, nogil=True)
def request(buf, series, times_ms, values):
    """Decodes a WriteRequest: ``(status, series, samples)``.

    ``buf``: uint8. ``series``: ``SERIES_ROW`` rows; ``times_ms`` (int64) and ``values`` (float64): a row per sample, in order. With status
    ``FULL_SERIES`` or ``FULL_SAMPLES`` call again with more room. Labels are not looked into: whoever meets a series for the first time
    does (``prepare``), and repeated ones are known by their bytes.
    """
    p = np.int64(0)
    end = np.int64(len(buf))
    rows = np.int64(0)
    used = np.int64(0)
    while p < end:
        number, wire, p = _field(buf, p, end)
        if p < 0:
            return -p, rows, used
        if number == 1:
            if wire != 2:
                return ERROR_WIRE, rows, used
            inner, p = _chunk(buf, p, end)
            if p < 0:
                return -p, rows, used
            if rows == len(series):
                return FULL_SERIES, rows, used
            status, used = _time_series(buf, inner, p, series[rows], times_ms, values, used)
            if status != 0:
                return status, rows, used
            rows += 1
        else:
            p = _skip_group(buf, p, end) if wire == 3 else _skip(buf, p, end, wire)
            if p < 0:
                return -p, rows, used
    return DONE, rows, used


@njit(cache=True, nogil=True)
def keys(series, n, context, key_at, key_size, contexts):
    """Fills the key columns of ``find`` for rows ``[0, n)``; returns the first row with an attribute out of range, or -1.

    ``contexts`` (uint64) says what besides the label bytes decides over the templates: ``context``, and the attributes in the lower
    16 bits.
    """
    wrong = np.int64(-1)
    for i in range(n):
        row = series[i]
        key_at[i] = row.labels_at
        key_size[i] = row.labels_size
        m3_type = np.int64(row.m3_type)
        source = np.int64(row.source)
        prom_type = np.int64(row.prom_type)
        if m3_type < 0 or m3_type > 2 or source < 0 or source > 2 or prom_type < 0 or prom_type > 7:
            contexts[i] = 0
            if wrong < 0:
                wrong = i
        else:
            contexts[i] = (np.uint64(context) << np.uint64(16)) | np.uint64((m3_type << 8) | (source << 4) | prom_type)
    return wrong


@njit(cache=True, nogil=True)
def _probe(slots, entries, arena, address, n, context, h):
    """Index of the entry with that key, or -1."""
    mask = np.uint64(len(slots) - 1)
    at = h & mask
    while True:
        slot = slots[at]
        if slot.entry == 0:
            return np.int64(-1)
        if slot.hash == h:
            entry = entries[slot.entry - 1]
            if (
                np.int64(entry.key_size) == n
                and entry.context == context
                and bytes_equal(base(arena) + np.uint64(entry.key_at), address, n)
            ):
                return np.int64(slot.entry - 1)
        at = (at + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def find(slots, entries, arena, buf, key_at, key_size, contexts, first, count, misses):
    """Looks keys up: fills ``first`` and ``count`` (int64) with template ranges, ``misses`` with the rows not found; returns their number."""
    n_misses = 0
    for i in range(len(key_at)):
        address = base(buf) + np.uint64(key_at[i])
        n = np.int64(key_size[i])
        h = hash_bytes(address, n, contexts[i])
        e = _probe(slots, entries, arena, address, n, contexts[i], h)
        if e < 0:
            misses[n_misses] = i
            n_misses += 1
        else:
            first[i] = entries[e].first
            count[i] = entries[e].count
    return n_misses


@njit(cache=True, nogil=True)
def _link(slots, h, entry):
    mask = np.uint64(len(slots) - 1)
    at = h & mask
    while slots[at].entry != 0:
        at = (at + np.uint64(1)) & mask
    slots[at].hash = h
    slots[at].entry = entry + 1


@njit(cache=True, nogil=True)
def insert(slots, entries, arena, used, buf, at, n, context, first, count):
    """Adds an entry for key ``buf[at:at+n]``, which is not there yet; the caller has made sure of the room."""
    h = hash_bytes(base(buf) + np.uint64(at), n, np.uint64(context))
    e = used[ENTRIES]
    entry = entries[e]
    entry.key_at = np.uint32(used[ARENA])
    entry.key_size = np.uint32(n)
    entry.context = np.uint64(context)
    entry.first = np.int32(first)
    entry.count = np.int32(count)
    used[ARENA] = copy_bytes(arena, used[ARENA], buf, at, n)
    used[ENTRIES] = e + 1
    _link(slots, h, e)


@njit(cache=True, nogil=True)
def hash_ids(arena, templates, begin, end, hashes):
    """``hashes[t]`` = murmur3-32 of the id of template ``t``, for ``begin <= t < end``."""
    for t in range(begin, end):
        hashes[t] = murmur3_32(arena, np.int64(templates[t].id_at), np.int64(templates[t].id_size))


@njit(cache=True, nogil=True)
def expand(
    series, n, first, count, hashes, templates, times, unit_ns, num_shards, values,
    series_index, time_ns, out_values, shards,
):  # fmt: skip
    """One output row per sample and template: template index, time in ns, value, shard; returns their number.

    ``times`` (int64) count ``unit_ns``; what does not fit 64 bits wraps, as in M3. ``first``/``count``: template range of each of the ``n`` series rows. Values of counters are cut to whole numbers as a 64-bit conversion
    of M3's platform does it (out of range and NaN: −2^63; reference/coordinator.md §7.2).
    """
    k = 0
    for i in range(n):
        row = series[i]
        for s in range(np.int64(row.sample_from), np.int64(row.sample_from) + np.int64(row.samples)):
            for t in range(first[i], first[i] + count[i]):
                value = values[s]
                if templates[t].metric_type == 1:
                    if value >= -9223372036854775808.0 and value < 9223372036854775808.0:
                        value = np.float64(np.int64(value))
                    else:
                        value = -9223372036854775808.0
                series_index[k] = t
                time_ns[k] = times[s] * np.int64(unit_ns)
                out_values[k] = value
                shards[k] = hashes[t] % np.uint32(num_shards)
                k += 1
    return k


@njit(cache=True, nogil=True)
def _less(buf, a, a_size, b, b_size):
    """Whether ``buf[a:a+a_size]`` sorts before ``buf[b:b+b_size]``, bytewise."""
    n = min(a_size, b_size)
    for k in range(n):
        x = load8(base(buf) + np.uint64(a + k))
        y = load8(base(buf) + np.uint64(b + k))
        if x != y:
            return x < y
    return a_size < b_size


@njit(cache=True, nogil=True)
def _labels(buf, at, size, spans):
    """Parses label fields in canonical shape into ``spans`` rows (name at, size, value at, size); their number, or -1: not canonical."""
    p = np.int64(at)
    end = np.int64(at) + np.int64(size)
    n = 0
    while p < end:
        if n == len(spans) or buf[p] != 0x0A:
            return -1
        inner, p = _chunk(buf, p + 1, end)
        if p < 0:
            return -1
        for part in range(2):
            if inner >= p or buf[inner] != 0x0A + 8 * part:
                return -1
            text, inner = _chunk(buf, inner + 1, p)
            # An empty name or value is for the plain path, which knows the error text.
            if inner < 0 or inner == text or inner - text > 65535:
                return -1
            spans[n, 2 * part] = text
            spans[n, 2 * part + 1] = inner - text
        if inner != p:
            return -1
        n += 1
    return n


@njit(cache=True, nogil=True)
def _sort(buf, spans, n):
    """Sorts by name; False if two names are equal."""
    for i in range(1, n):
        j = i
        while j > 0 and _less(buf, spans[j, 0], spans[j, 1], spans[j - 1, 0], spans[j - 1, 1]):
            for c in range(4):
                spans[j, c], spans[j - 1, c] = spans[j - 1, c], spans[j, c]
            j -= 1
    for i in range(1, n):
        if not _less(buf, spans[i - 1, 0], spans[i - 1, 1], spans[i, 0], spans[i, 1]):
            return False
    return True


@njit(cache=True, nogil=True)
def _put_text(out, p, buf, at, n):
    out[p] = np.uint8(n & 0xFF)
    out[p + 1] = np.uint8(n >> 8)
    return copy_bytes(out, p + 2, buf, at, n)


@njit(cache=True, nogil=True)
def _put_id(arena, p, buf, spans, n):
    """Writes the encoded tags in the order that M3 sends them (reference/coordinator.md §2.2); position after them, or -1: a name begins with __m3."""
    before = 0
    for i in range(n):
        at, size = spans[i, 0], spans[i, 1]
        if size >= 4 and buf[at] == 0x5F and buf[at + 1] == 0x5F and buf[at + 2] == 0x6D and buf[at + 3] == 0x33:
            return np.int64(-1)
        # Sorts before "__m3": decided by the first four bytes, a proper prefix of it included.
        less = False
        decided = False
        for k in range(4):
            want = (0x5F, 0x5F, 0x6D, 0x33)[k]
            if k == size:
                less, decided = True, True
            elif buf[at + k] != want:
                less, decided = buf[at + k] < want, True
            if decided:
                break
        if less:
            before = i + 1
    arena[p] = 0x75
    arena[p + 1] = 0x27
    arena[p + 2] = np.uint8(n & 0xFF)
    arena[p + 3] = np.uint8(n >> 8)
    p += 4
    rest = n - before
    for i in range(n):
        k = i
        if i >= before and rest > 1:
            j = i - before
            k = n - 1 - j if j < 2 else before + j - 2
        p = _put_text(arena, p, buf, spans[k, 0], spans[k, 1])
        p = _put_text(arena, p, buf, spans[k, 2], spans[k, 3])
    return np.int64(p)


@njit(cache=True, nogil=True)
def prepare(
    slots,
    entries,
    arena,
    used,
    templates,
    hashes,
    meta_at,
    meta_size,
    buf,
    rows,
    key_at,
    key_size,
    contexts,
    spans,
    first,
    count,
    left,
):
    """Makes entry and template of each of ``rows`` that is an ordinary gauge: ``(rows handled, rows left in left)``.

    Ordinary: labels in canonical encoding, neither empty nor long nor twice, none that begins with ``__m3``; then the template has the id
    of M3's order, the staged metadatas at ``meta_at`` and no annotation. What is not ordinary goes to ``left``. It stops early (fewer rows handled
    than given) when the generation has no room.
    """
    n_left = 0
    for j in range(len(rows)):
        i = rows[j]
        n = np.int64(key_size[i])
        if used[ENTRIES] >= len(entries) or used[TEMPLATES] >= len(templates) or used[ARENA] + 2 * n + 64 > len(arena):
            return j, n_left
        at = np.int64(key_at[i])
        # The same new series may stand twice in one request.
        h = hash_bytes(base(buf) + np.uint64(at), n, contexts[i])
        known = _probe(slots, entries, arena, base(buf) + np.uint64(at), n, contexts[i], h)
        if known >= 0:
            first[i] = entries[known].first
            count[i] = entries[known].count
            continue
        n_labels = _labels(buf, at, n, spans)
        if n_labels <= 0 or not _sort(buf, spans, n_labels):
            left[n_left] = i
            n_left += 1
            continue
        start = used[ARENA]
        end = _put_id(arena, start, buf, spans, n_labels)
        if end < 0:
            left[n_left] = i
            n_left += 1
            continue
        used[ARENA] = end
        t = used[TEMPLATES]
        used[TEMPLATES] = t + 1
        template = templates[t]
        template.id_at = np.uint32(start)
        template.id_size = np.uint32(end - start)
        template.meta_at = np.uint32(meta_at)
        template.meta_size = np.uint32(meta_size)
        template.annotation_at = np.uint32(0)
        template.annotation_size = np.uint32(0)
        template.metric_type = np.uint8(_GAUGE)
        hashes[t] = murmur3_32(arena, start, end - start)
        first[i] = t
        count[i] = 1
        insert(slots, entries, arena, used, buf, at, n, contexts[i], t, 1)
    return len(rows), n_left


@njit(cache=True, nogil=True)
def check_labels(buf, key_at, key_size, rows, limit):
    """Whether the labels of ``rows`` are sound: ``(status, row, name size, value size)``; status 0 and row -1: all are.

    Status 0 with a row: its first label whose name or value is longer than ``limit``. Otherwise why the bytes are not labels.
    """
    for j in range(len(rows)):
        i = rows[j]
        p = np.int64(key_at[i])
        end = p + np.int64(key_size[i])
        while p < end:
            _, _, p = _field(buf, p, end)
            q, p = _chunk(buf, p, end)
            name_size = np.int64(0)
            value_size = np.int64(0)
            while q < p:
                number, wire, q = _field(buf, q, p)
                if q < 0:
                    return -q, i, np.int64(0), np.int64(0)
                if number == 1 or number == 2:
                    if wire != 2:
                        return ERROR_WIRE, i, np.int64(0), np.int64(0)
                    text, q = _chunk(buf, q, p)
                    if q < 0:
                        return -q, i, np.int64(0), np.int64(0)
                    if number == 1:
                        name_size = q - text
                    else:
                        value_size = q - text
                else:
                    q = _skip_group(buf, q, p) if wire == 3 else _skip(buf, q, p, wire)
                    if q < 0:
                        return -q, i, np.int64(0), np.int64(0)
            if name_size > limit or value_size > limit:
                return 0, i, name_size, value_size
    return 0, np.int64(-1), np.int64(0), np.int64(0)


@njit(cache=True, nogil=True)
def promote(
    old_slots, old_entries, old_arena, old_templates, old_hashes,
    slots, entries, arena, used, templates, hashes, buf, rows, key_at, key_size, contexts, first, count, left,
):  # fmt: skip
    """Copies entries of ``rows`` from the old generation: ``(rows handled, rows left in left)``; it stops early for want of room.

    Ranges of staged metadatas mean the same in both generations.
    """
    n_left = 0
    for j in range(len(rows)):
        i = rows[j]
        at = np.int64(key_at[i])
        n = np.int64(key_size[i])
        address = base(buf) + np.uint64(at)
        h = hash_bytes(address, n, contexts[i])
        known = _probe(slots, entries, arena, address, n, contexts[i], h)
        if known >= 0:
            first[i] = entries[known].first
            count[i] = entries[known].count
            continue
        e = _probe(old_slots, old_entries, old_arena, address, n, contexts[i], h)
        if e < 0:
            left[n_left] = i
            n_left += 1
            continue
        copied = np.int64(old_entries[e].count)
        begin = np.int64(old_entries[e].first)
        need = n
        for t in range(begin, begin + copied):
            need += np.int64(old_templates[t].id_size) + np.int64(old_templates[t].annotation_size)
        if (
            used[ENTRIES] >= len(entries)
            or used[TEMPLATES] + copied > len(templates)
            or used[ARENA] + need > len(arena)
        ):
            return j, n_left
        first[i] = used[TEMPLATES]
        count[i] = copied
        for t in range(begin, begin + copied):
            come = old_templates[t]
            k = used[TEMPLATES]
            go = templates[k]
            go.meta_at = come.meta_at
            go.meta_size = come.meta_size
            go.metric_type = come.metric_type
            go.id_size = come.id_size
            go.id_at = np.uint32(used[ARENA])
            used[ARENA] = copy_bytes(arena, used[ARENA], old_arena, np.int64(come.id_at), np.int64(come.id_size))
            go.annotation_size = come.annotation_size
            go.annotation_at = np.uint32(used[ARENA])
            used[ARENA] = copy_bytes(
                arena, used[ARENA], old_arena, np.int64(come.annotation_at), np.int64(come.annotation_size)
            )
            hashes[k] = old_hashes[t]
            used[TEMPLATES] = k + 1
        insert(slots, entries, arena, used, buf, at, n, contexts[i], first[i], copied)
    return len(rows), n_left


_POWERS = 10.0 ** np.arange(23)
_SPACE = 0x20


@njit(cache=True, nogil=True)
def _number(buf, p, end):
    """``(value, known)`` of decimal text that a double division gives exactly; anything else is not known here."""
    negative = False
    if p < end and (buf[p] == 0x2D or buf[p] == 0x2B):
        negative = buf[p] == 0x2D
        p += 1
    mantissa = np.int64(0)
    digits = 0
    decimals = 0
    dot = False
    while p < end:
        c = buf[p]
        if c >= 0x30 and c <= 0x39:
            mantissa = mantissa * 10 + np.int64(c - 0x30)
            digits += 1
            if dot:
                decimals += 1
        elif c == 0x2E and not dot:
            dot = True
        else:
            return 0.0, False
        p += 1
    if digits == 0 or digits > 15:
        return 0.0, False
    value = np.float64(mantissa) / _POWERS[decimals]
    return (-value if negative else value), True


@njit(cache=True, nogil=True)
def carbon_lines(buf, start, end, path_at, path_size, values, times, odd, odd_end):
    """Splits ``buf[start:end]`` into carbon lines: ``(lines, odd ones, position behind the last newline)``.

    Per line: ``path_at``/``path_size`` (uint32), ``values`` (float64), ``times`` (int64, seconds). A line in any but the plainest shape has its
    number in ``odd`` (int64), its bytes in ``path_at`` to ``odd_end`` (int64), and is for the plain parser. Stops when the columns are full.
    """
    n = 0
    n_odd = 0
    p = np.int64(start)
    while n < len(values):
        stop = p
        ascii_only = True
        while stop < end and buf[stop] != 0x0A:
            if buf[stop] >= 0x80:
                ascii_only = False
            stop += 1
        if stop == end:
            break
        line_end = stop - 1 if stop > p and buf[stop - 1] == 0x0D else stop
        q = p
        while q < line_end and buf[q] != _SPACE:
            q += 1
        path_end = q
        while q < line_end and buf[q] == _SPACE:
            q += 1
        value_at = q
        while q < line_end and buf[q] != _SPACE:
            q += 1
        value_end = q
        while q < line_end and buf[q] == _SPACE:
            q += 1
        good = ascii_only and path_end > p and q < line_end and line_end - q <= 18
        seconds = np.int64(0)
        for k in range(q, line_end):
            if buf[k] < 0x30 or buf[k] > 0x39:
                good = False
            seconds = seconds * 10 + np.int64(buf[k]) - 0x30
        value, known = _number(buf, value_at, value_end)
        path_at[n] = np.uint32(p)
        path_size[n] = np.uint32(path_end - p)
        values[n] = value
        times[n] = seconds
        if not (good and known):
            odd[n_odd] = n
            odd_end[n_odd] = line_end
            n_odd += 1
        n += 1
        p = stop + 1
    return n, n_odd, p


def warm() -> None:
    """Compiles every public kernel for the dtypes that callers use, or loads it from the cache."""
    buf = np.frombuffer(
        bytearray(b"\x0a\x14\x0a\x06\x0a\x01a\x12\x01b\x12\x0a\x09\0\0\0\0\0\0\0\0\x0ba 1 1\n"), np.uint8
    )
    series, times, values = np.zeros(2, SERIES_ROW), np.zeros(2, np.int64), np.zeros(2, np.float64)
    request(buf[:22], series, times, values)
    at, size, contexts = np.zeros(1, np.uint32), np.ones(1, np.uint32), np.zeros(1, np.uint64)
    keys(series, 1, 0, at, size, contexts)
    rows, ranges = np.zeros(1, np.int64), np.zeros((3, 1), np.int64)
    check_labels(buf[:0], at, np.zeros(1, np.uint32), rows, 65535)
    slots, entries, arena = np.zeros(8, SLOT), np.zeros(4, ENTRY), np.zeros(512, np.uint8)
    used, templates, hashes = np.zeros(3, np.int64), np.zeros(4, METRIC_TEMPLATE), np.zeros(4, np.uint32)
    first, count, left = ranges
    find(slots, entries, arena, buf, at, size, contexts, first, count, left)
    spans = np.zeros((4, 4), np.int64)
    prepare(
        slots, entries, arena, used, templates, hashes, 0, 0, buf, rows, at, size, contexts, spans, first, count, left
    )
    insert(slots, entries, arena, used, buf, 0, 1, contexts[0], 0, 1)
    promote(
        slots, entries, arena, templates, hashes, slots, entries, arena, used, templates, hashes,
        buf, rows, at, size, contexts, first, count, left,
    )  # fmt: skip
    hash_ids(arena, templates, 0, 1, hashes)
    series[0]["samples"] = 1
    count[0] = 1
    out, shards = np.zeros(1, np.int64), np.zeros(1, np.uint32)
    expand(series, 1, first, count, hashes, templates, times, 1, 1, values, out, out, np.zeros(1), shards)
    carbon_lines(buf, 22, len(buf), at, size, np.zeros(1), out, rows, left)
