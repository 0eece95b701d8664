# mypy: ignore-errors
"""The request of Remote Write 2.0 in the columns of 1.0, and those as a ``WriteRequest``; public through ``coordinator.write.kernels``.

Fields: ``coordinator.prompb``, ``REQUEST_2``. Labels are written out as 1.0 has them, so that a series has one key in the caches, whichever
way it comes.
"""

import numpy as np
from numba import njit

from coordinator.write.request_kernels import (
    BROKEN,
    DONE,
    EXEMPLARS,
    FULL_SAMPLES,
    FULL_SERIES,
    HISTOGRAMS,
    ROW_BYTES,
    STARTED,
    UNKNOWN,
    UNREAD_SAMPLES,
    UNREAD_SERIES,
    begin_row,
    plain_sample,
    row_at,
    sample,
)
from m3x.kernels import (
    base,
    bytes_equal,
    copy32,
    double_bits,
    load8,
    load32,
    load64,
    record_of,
    store8,
    store32,
    store64,
)
from m3x.protobuf.reading import BYTES, VARINT, chunk, field, skip, varint
from m3x.protobuf.writing import int_size, length_size, put_int, put_length, put_raw

FULL_SYMBOLS, FULL_LABELS = 4, 5
"""More of the status of ``request_2``: too little room for symbols or labels."""

SYMBOL = np.dtype(
    [
        ("at", np.uint32),
        ("size", np.uint32),
        ("name", np.uint32),  # of the last label that has it as value, a reference
        ("label_at", np.uint32),  # where that label was written
        ("label_size", np.uint32),
    ]
)
"""Where a symbol stands in the body, its length in front of it included: so it stands behind the tag of a name or value, too."""

DECLARATION = np.dtype(
    [
        ("name_at", np.int64),  # in the labels
        ("name_size", np.int64),
        ("kind", np.int64),
        ("help_at", np.int64),  # in the body
        ("help_size", np.int64),
        ("unit_at", np.int64),
        ("unit_size", np.int64),
    ]
)
"""What is declared of the metric of a series."""

_LABEL_BYTES = 64
"""What a label has at most besides its symbols, and what ``_put_symbol`` may write behind it."""
_ODD = np.uint32(1 << 31)
"""In the size of a symbol: it is not for ``_put_short_labels``."""
_SIZE = np.uint64(_ODD - 1)
_NO_NAME = np.uint32(0xFFFFFFFF)
_SHORT_BYTES = np.uint64(96)
"""More than half of what a label has at most that ``_put_short_labels`` writes; a reference has at least a byte."""
_LABEL, _NAME, _VALUE, _SERIES, _SAMPLE, _DOUBLE, _TIME = (
    np.uint64(n) for n in (0x0A, 0x0A, 0x12, 0x0A, 0x12, 0x09, 0x10)
)
_NAME_TAG = np.uint64(int.from_bytes(b"__name__", "little"))
_TYPE, _HELP, _UNIT = (np.uint64(n) for n in (0x08, 0x18, 0x20))
_MOST_TYPES = np.uint64(7)
_TYPE_TAG = np.uint64(0x3EC8)  # field 1001, a varint: two bytes
_0, _1, _2, _3, _4, _7, _8, _9, _16, _32 = (np.uint64(n) for n in (0, 1, 2, 3, 4, 7, 8, 9, 16, 32))
_7F, _80, _3F80, _8000, _LOW = (np.uint64(n) for n in (0x7F, 0x80, 0x3F80, 0x8000, 0xFFFFFFFF))

_symbol_at = record_of(SYMBOL)
_SYMBOL_BYTES = np.uint64(SYMBOL.itemsize)


@njit(cache=True, nogil=True)
def _put_symbol(a, tag, source, n, e):
    """A symbol behind ``tag``, nothing where it is empty; may write 31 bytes more than it has. Nothing from ``e`` on is read."""
    if n == _1:
        return a
    store8(a, tag)
    a += _1
    if source + n + _32 > e:
        return put_raw(a, source, n)
    copy32(a, source)
    k = _32
    while k < n:
        copy32(a + k, source + k)
        k += _32
    return a + n


@njit(cache=True, nogil=True)
def _put_short_labels(origin, a, stop, symbols, count, labels, to):
    """Writes the labels of the packed references at ``[a, stop)`` to the address ``to``, up to the first that is not as nearly all are:
    the addresses where references are left, and behind what was written.

    Those have references of at most two bytes each, symbols that are not ``_ODD``, and less than 128 bytes. Most of them come again within
    a request: a value mostly has one name, and such a label is copied as a whole. ``labels``: address of what was written before. There
    is room for ``_SHORT_BYTES`` for each byte of references and once more, and three bytes behind ``stop`` are in the body.
    """
    while a < stop:
        word = np.uint64(load32(a))
        if word & _80 == _0:
            name = word & _7F
            word >>= _8
            after = a + _1
        elif word & _8000 == _0:
            name = (word & _7F) | ((word >> _1) & _3F80)
            word >>= _16
            after = a + _2
        else:
            break
        if word & _80 == _0:
            ref = word & _7F
            after += _1
        elif word & _8000 == _0:
            ref = (word & _7F) | ((word >> _1) & _3F80)
            after += _2
        else:
            break
        if ref >= count or after > stop:
            break
        value = _symbol_at(symbols + ref * _SYMBOL_BYTES)
        if np.uint64(value.name) == name:
            size = np.uint64(value.label_size)
            source = labels + np.uint64(value.label_at)
            copy32(to, source)
            if size > _32:
                k = _32
                while k < size:
                    copy32(to + k, source + k)
                    k += _32
            to += size
            a = after
            continue
        if name >= count:
            break
        named = _symbol_at(symbols + name * _SYMBOL_BYTES)
        name_size, value_size = np.uint64(named.size), np.uint64(value.size)
        inner = name_size + value_size + _2
        if inner >= _80:
            break
        value.name = np.uint32(name)
        value.label_at = np.uint32(to - labels)
        value.label_size = np.uint32(inner + _2)
        store32(to, _LABEL | (inner << _8) | (_NAME << _16))
        source = origin + np.uint64(named.at)
        k = _0
        while k < name_size:
            copy32(to + _3 + k, source + k)
            k += _32
        p = to + name_size
        store8(p + _3, _VALUE)
        source = origin + np.uint64(value.at)
        k = _0
        while k < value_size:
            copy32(p + _4 + k, source + k)
            k += _32
        to += inner + _2
        a = after
    return a, to


@njit(cache=True, nogil=True, forceinline=True)
def _put_labels(origin, a, stop, e, pending, symbols, count, labels, to, room):
    """The labels of the packed references at ``[a, stop)`` at ``labels + to``: ``(status, bytes in use, pending)``.

    ``symbols`` (there are ``count``), ``labels``: addresses; ``room``: bytes of the latter. ``pending``: the reference of a name whose
    value is not known yet, -1: none; -2 for good when a reference leads to no symbol.
    """
    while a < stop:
        if pending == -1 and stop + _3 <= e and to + _SHORT_BYTES * (stop - a + _1) <= room:
            a, to = _put_short_labels(origin, a, stop, symbols, count, labels, labels + to)
            to -= labels
            if a == stop:
                break
        ref, a = varint(a, stop)
        if a == _0:
            return BROKEN, to, pending
        ref &= _LOW
        if pending == -2:
            continue
        if ref >= count:
            pending = np.int64(-2)
        elif pending == -1:
            pending = np.int64(ref)
        else:
            name = _symbol_at(symbols + np.uint64(pending) * _SYMBOL_BYTES)
            value = _symbol_at(symbols + ref * _SYMBOL_BYTES)
            name_size, value_size = np.uint64(name.size) & _SIZE, np.uint64(value.size) & _SIZE
            if to + name_size + value_size + np.uint64(_LABEL_BYTES) > room:
                return FULL_LABELS, to, pending
            inner = (_0 if name_size == _1 else name_size + _1) + (_0 if value_size == _1 else value_size + _1)
            p = put_length(labels + to, _LABEL, inner)
            p = _put_symbol(p, _NAME, origin + np.uint64(name.at), name_size, e)
            p = _put_symbol(p, _VALUE, origin + np.uint64(value.at), value_size, e)
            to = p - labels
            pending = np.int64(-1)
    return DONE, to, pending


@njit(cache=True, nogil=True)
def _type_of(a, e):
    """``(type, address after the message)`` of Metadata; a type that nobody knows is none. Address 0: it is broken."""
    kind = _0
    while a < e:
        tag = np.uint64(load8(a))
        if a + _1 < e and tag in (_TYPE, _HELP, _UNIT) and load8(a + _1) < _80:
            if tag == _TYPE:
                kind = np.uint64(load8(a + _1))
            a += _2
            continue
        number, wire, a = field(a, e)
        if a == _0:
            return _0, _0
        if number == 1 or number == 3 or number == 4:  # noqa: PLR1714 - a set would be built in the loop
            if wire != VARINT:
                return _0, _0
            value, a = varint(a, e)
            if number == 1:
                kind = value & np.uint64(0xFFFFFFFF)
        else:
            a = skip(a, e, wire)
        if a == _0:
            return _0, _0
    return (kind if kind <= _MOST_TYPES else _0), a


@njit(cache=True, nogil=True)
def _field(a, e):
    """``field``, quicker for a tag of one byte that contents with a length follow; there is a byte at ``a``."""
    tag = np.uint64(load8(a))
    if tag < _80 and tag & _7 == BYTES and tag >= _8:
        return np.int64(tag >> _3), BYTES, a + _1
    return field(a, e)


@njit(cache=True, nogil=True)
def _symbols(origin, e, symbols, all_of_them):
    """Finds the symbols up to the first other field, or ``all_of_them``: ``(status, symbols, address)``, where it has ended."""
    a = origin
    count = np.int64(0)
    while a < e:
        at = a
        number, wire, a = _field(at, e)
        if a == _0:
            return BROKEN, count, at
        if number != 4:
            if not all_of_them:
                return DONE, count, at
            a = skip(a, e, wire)
            if a == _0:
                return BROKEN, count, at
            continue
        if wire != BYTES:
            return BROKEN, count, at
        at = a
        _, a = chunk(at, e)
        if a == _0:
            return BROKEN, count, at
        if count == len(symbols):
            return FULL_SYMBOLS, count, at
        symbols[count].at = np.uint32(at - origin)
        # An empty one, and one of which a copy would read beyond the body.
        odd = a - at == _1 or a + _32 > e
        symbols[count].size = np.uint32(a - at) | (_ODD if odd else np.uint32(0))
        symbols[count].name = _NO_NAME
        count += 1
    return DONE, count, a


@njit(cache=True, nogil=True)
def _count(others, index, number):
    """Adds to one of the numbers (int64) at an address."""
    at = others + _8 * np.uint64(index)
    store64(at, load64(at) + np.uint64(number))


@njit(cache=True, nogil=True, forceinline=True)
def _time_series(origin, a, e, end, row, symbols, count, labels, to, room, times_ms, values, used, most, others):
    """Parses a TimeSeries into ``row``: ``(status, samples used, bytes of labels used)``."""
    begin = used
    row.labels_at = np.uint32(to)
    begin_row(row, origin, a, e, used)
    pending = np.int64(-1)
    status = DONE
    while a < e:
        number, wire, a = _field(a, e)
        if a == _0:
            return BROKEN, used, to
        if number == 1:
            # Packed, or one alone.
            inner = a
            if wire == BYTES:
                inner, a = chunk(a, e)
            elif wire == VARINT:
                _, a = varint(a, e)
            else:
                return BROKEN, used, to
            if a == _0:
                return BROKEN, used, to
            status, to, pending = _put_labels(origin, inner, a, end, pending, symbols, count, labels, to, room)
            if status != DONE:
                return status, used, to
            continue
        if number > 5:
            if number == 6:
                _count(others, STARTED, 1)
            a = skip(a, e, wire)
            if a == _0:
                return BROKEN, used, to
            continue
        if wire != BYTES:
            return BROKEN, used, to
        inner, a = chunk(a, e)
        if a == _0:
            return BROKEN, used, to
        if number == 2:
            if used == most:
                return FULL_SAMPLES, used, to
            time_at, value_at = times_ms + _8 * np.uint64(used), values + _8 * np.uint64(used)
            if not plain_sample(inner, a, time_at, value_at):
                found = sample(inner, a, time_at, value_at)
                if found == 0 or found == 3:  # noqa: PLR1714 - a set would be built in the loop
                    return BROKEN, used, to
                if found == 2:
                    _count(others, STARTED, 1)
            used += 1
        elif number == 3:
            row.histograms += 1
        elif number == 4:
            row.exemplars += 1
        else:
            kind, inner = _type_of(inner, a)
            if inner == _0:
                return BROKEN, used, to
            row.prom_type = np.int32(kind)
    row.labels_size = np.uint32(to - np.uint64(row.labels_at))
    row.samples = np.uint32(used - begin)
    if pending != -1:
        _count(others, UNREAD_SERIES, 1)
        _count(others, UNREAD_SAMPLES, used - begin)
        row.samples = 0
        row.histograms = 0
    return DONE, used, to


@njit(cache=True, nogil=True)
def request_2(buf, series, times_ms, values, others, symbols, labels, keep_histograms):
    """Decodes a request of Remote Write 2.0: ``(status, series, samples, bytes of labels)``.

    ``buf``: uint8. ``series``, ``times_ms``, ``values``, ``others``: as of ``request``; ``labels_at`` is a place in ``labels`` (uint8),
    ``message_at`` one in ``buf``. ``symbols`` (``SYMBOL``): room for these. A row is made of a series with samples, and with
    ``keep_histograms`` of one with native histograms. One whose references lead nowhere, or are no pairs, makes none and is counted.
    With a status ``FULL_…`` call again with more room.
    """
    origin = base(buf)
    e = origin + np.uint64(len(buf))
    rows = np.int64(0)
    used = np.int64(0)
    to = _0
    others[:] = 0
    status, count, a = _symbols(origin, e, symbols, False)
    late = False
    while status == DONE and a < e:
        number, wire, a = _field(a, e)
        if a == _0:
            return BROKEN, rows, used, np.int64(to)
        if number == 4 and not late:
            # Symbols behind series, as nobody writes them: all over again.
            late = True
            rows, used, to = np.int64(0), np.int64(0), _0
            others[:] = 0
            status, count, _ = _symbols(origin, e, symbols, True)
            a = origin
            continue
        if number != 5:
            others[UNKNOWN] += number != 4
            a = skip(a, e, wire)
            if a == _0:
                return BROKEN, rows, used, np.int64(to)
            continue
        if wire != BYTES:
            return BROKEN, rows, used, np.int64(to)
        inner, a = chunk(a, e)
        if a == _0:
            return BROKEN, rows, used, np.int64(to)
        if rows == len(series):
            return FULL_SERIES, rows, used, np.int64(to)
        row = row_at(base(series) + np.uint64(rows) * ROW_BYTES)
        status, used, to = _time_series(
            origin, inner, a, e, row, base(symbols), np.uint64(count), base(labels), to, np.uint64(len(labels)),
            base(times_ms), base(values), used, len(values), base(others),
        )  # fmt: skip
        if status != DONE:
            break
        others[EXEMPLARS] += row.exemplars
        others[HISTOGRAMS] += row.histograms
        if row.samples > 0 or (keep_histograms and row.histograms > 0):
            rows += 1
        else:
            # Its labels stay: others may be copies of them.
            used = np.int64(row.sample_from)
    return status, rows, used, np.int64(to)


@njit(cache=True, nogil=True)
def _declared_of(a, e):
    """``(references of help and unit, type)`` of the TimeSeries ``[a, e)``, which is sound."""
    help_ref = unit_ref = kind = _0
    while a < e:
        number, wire, a = field(a, e)
        if number != 5:
            a = skip(a, e, wire)
            continue
        inner, a = chunk(a, e)
        while inner < a:
            number, wire, inner = field(inner, a)
            if wire != VARINT:
                inner = skip(inner, a, wire)
                continue
            value, inner = varint(inner, a)
            value &= _LOW
            if number == 1:
                kind = value
            elif number == 3:
                help_ref = value
            elif number == 4:
                unit_ref = value
    return help_ref, unit_ref, kind


@njit(cache=True, nogil=True)
def _name_of(a, e):
    """``(start, stop)`` of the value of ``__name__`` in the labels ``[a, e)``, as ``request_2`` writes them; 0, 0: there is none."""
    while a < e:
        inner, a = chunk(a + _1, e)
        # A tag, the length 8, and eight bytes of name.
        if inner + _9 + _1 >= a or load8(inner) != _NAME or load8(inner + _1) != _8:
            continue
        if load64(inner + _2) == _NAME_TAG and load8(inner + _2 + _8) == _VALUE:
            return chunk(inner + _2 + _9, a)
    return _0, _0


@njit(cache=True, nogil=True)
def _text_of(origin, symbols, count, ref):
    """``(start, stop)`` of a symbol."""
    if ref >= count:
        return _0, _0
    at = origin + np.uint64(symbols[ref].at)
    return chunk(at, at + (np.uint64(symbols[ref].size) & _SIZE))


@njit(cache=True, nogil=True)
def declarations(buf, labels, series, symbols, found):
    """Fills ``found`` (``DECLARATION``, a row for each of ``series``) with what a request declares; returns how many rows.

    ``buf`` is a body that ``request_2`` has decoded, ``labels`` and ``series`` what it made of that, ``symbols`` room for as many as it
    has. Series without a name are left out, and those that say what the one before says.
    """
    origin, beginning = base(buf), base(labels)
    _, count, _ = _symbols(origin, origin + np.uint64(len(buf)), symbols, False)
    count = np.uint64(count)
    rows = 0
    last_help = last_unit = last_kind = last_name = last_size = _0
    for i in range(len(series)):
        row = series[i]
        a = origin + np.uint64(row.message_at)
        help_ref, unit_ref, kind = _declared_of(a, a + np.uint64(row.message_size))
        if help_ref == _0 and unit_ref == _0:
            continue
        a = beginning + np.uint64(row.labels_at)
        name, end = _name_of(a, a + np.uint64(row.labels_size))
        size = end - name
        if size == _0:
            continue
        same = help_ref == last_help and unit_ref == last_unit and kind == last_kind and size == last_size
        if same and bytes_equal(name, last_name, size):
            continue
        last_help, last_unit, last_kind, last_name, last_size = help_ref, unit_ref, kind, name, size
        one = found[rows]
        one.name_at, one.name_size = np.int64(name - beginning), np.int64(size)
        one.kind = np.int64(kind)
        begin, end = _text_of(origin, symbols, count, help_ref)
        one.help_at, one.help_size = np.int64(begin - origin) if begin else 0, np.int64(end - begin)
        begin, end = _text_of(origin, symbols, count, unit_ref)
        one.unit_at, one.unit_size = np.int64(begin - origin) if begin else 0, np.int64(end - begin)
        rows += 1
    return rows


@njit(cache=True, nogil=True)
def _message_size(row, times_ms, values):
    """Bytes of a TimeSeries."""
    size = np.uint64(row.labels_size)
    for s in range(np.int64(row.sample_from), np.int64(row.sample_from) + np.int64(row.samples)):
        size += length_size((_0 if values[s] == 0.0 else _9) + int_size(times_ms[s]))
    return size + (np.uint64(0) if row.prom_type == 0 else _1 + _2)


@njit(cache=True, nogil=True)
def write_request(buf, series, times_ms, values, out):
    """Columns as a ``WriteRequest`` of 1.0, where each row then has its message: the bytes that it takes.

    ``buf`` has the labels. Where ``out`` is too small nothing is written.
    """
    total = _0
    for i in range(len(series)):
        total += length_size(_message_size(series[i], times_ms, values))
    if np.int64(total) > len(out):
        return np.int64(total)
    a = base(out)
    for i in range(len(series)):
        row = series[i]
        size = _message_size(row, times_ms, values)
        a = put_length(a, _SERIES, size)
        labels = base(buf) + np.uint64(row.labels_at)
        row.message_at = np.uint32(a - base(out))
        row.message_size = np.uint32(size)
        row.labels_at = row.message_at
        a = put_raw(a, labels, np.uint64(row.labels_size))
        for s in range(np.int64(row.sample_from), np.int64(row.sample_from) + np.int64(row.samples)):
            a = put_length(a, _SAMPLE, (_0 if values[s] == 0.0 else _9) + int_size(times_ms[s]))
            if values[s] != 0.0:
                store8(a, _DOUBLE)
                store64(a + _1, double_bits(values[s]))
                a += _9
            a = put_int(a, _TIME, times_ms[s])
        if row.prom_type != 0:
            store8(a, _TYPE_TAG)
            store8(a + _1, _TYPE_TAG >> _8)
            store8(a + _2, np.uint64(row.prom_type))
            a += _1 + _2
    return np.int64(total)
