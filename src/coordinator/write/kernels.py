# mypy: ignore-errors
"""Compiled loops of the write path, one file per subject: start here for what there is.

``request_kernels``  the Prometheus WriteRequest → columns of series and samples
``symbol_kernels``   the request of Remote Write 2.0 → the same; columns → a WriteRequest
``cache_kernels``    the table and the log of the cache of series; samples × templates → columns for the encoder
``prepare_kernels``  the templates of series that are known, and of ordinary gauges met for the first time
``known_kernels``    a request whose series are all known → its messages, in one pass
``id_kernels``       labels → ids
``interest_kernels`` whether a rule may match a series
``carbon_kernels``   carbon lines → columns
``limit_kernels``    how many and how long the labels of series are, and how many series there are
"""

import numpy as np

from coordinator.write.cache_kernels import (
    CACHE,
    ENTRY,
    FORM,
    KEY_HEAD,
    SEGMENT,
    STALE,
    expand,
    hash_ids,
    keys,
    survey,
)  # fmt: skip
from coordinator.write.carbon_kernels import carbon_lines
from coordinator.write.id_kernels import label_spans
from coordinator.write.interest_kernels import END, PRESENT, WHOLE, asked_context, interesting
from coordinator.write.known_kernels import KNOWN_SLACK, NO_ROOM, ODD, known
from coordinator.write.limit_kernels import LONG_NAME, LONG_VALUE, MANY_LABELS, beyond, enter_series, keep_seen
from coordinator.write.prepare_kernels import (
    NO_FORM,
    Keys,
    Plain,
    find,
    missing,
    prepare,
    remember,
    still_known,
    write_again,
)
from coordinator.write.request_kernels import (
    BROKEN,
    DONE,
    EXEMPLARS,
    FULL_SAMPLES,
    FULL_SERIES,
    HISTOGRAMS,
    METADATA,
    OTHERS,
    SERIES_ROW,
    STARTED,
    UNKNOWN,
    UNREAD_SAMPLES,
    UNREAD_SERIES,
    check_labels,
    request,
)
from coordinator.write.symbol_kernels import (
    DECLARATION,
    FULL_LABELS,
    FULL_SYMBOLS,
    SYMBOL,
    declarations,
    request_2,
    write_request,
)
from m3metrics.rows import METRIC_TEMPLATE
from m3x.byte_table import ByteTable

__all__ = [
    "BROKEN", "CACHE", "DECLARATION", "DONE", "END", "ENTRY", "EXEMPLARS", "FORM", "FULL_LABELS", "FULL_SAMPLES", "FULL_SERIES",
    "FULL_SYMBOLS", "HISTOGRAMS", "KEY_HEAD", "KNOWN_SLACK", "LONG_NAME", "LONG_VALUE", "MANY_LABELS", "METADATA", "NO_FORM", "NO_ROOM",
    "ODD", "OTHERS", "PRESENT", "SEGMENT", "SERIES_ROW", "STALE", "STARTED", "SYMBOL", "UNKNOWN", "UNREAD_SAMPLES", "UNREAD_SERIES",
    "WHOLE", "Keys", "Plain", "asked_context", "beyond", "carbon_lines", "check_labels", "declarations", "enter_series", "expand", "find",
    "hash_ids", "interesting", "keep_seen", "keys", "known", "label_spans", "missing", "prepare", "remember", "request", "request_2",
    "still_known", "survey", "warm", "write_again", "write_request",
]  # fmt: skip


def warm() -> None:
    """Compiles the public kernels, but for those of the cache (``series_cache.warm``), for the dtypes that callers use, or loads them."""
    buf = np.frombuffer(
        bytearray(b"\x0a\x14\x0a\x06\x0a\x01a\x12\x01b\x12\x0a\x09\0\0\0\0\0\0\0\0\x0ba 1 1\n"), np.uint8
    )
    series, times, values = np.zeros(2, SERIES_ROW), np.zeros(2, np.int64), np.zeros(2, np.float64)
    others = np.zeros(OTHERS, np.int64)
    request(buf[:22], series, times, values, others)
    request_2(
        buf[:0],
        series,
        times,
        values,
        others,
        np.zeros(1, SYMBOL),
        np.zeros(64, np.uint8),
        False,
    )
    declarations(buf[:0], buf[:0], series[:0], np.zeros(1, SYMBOL), np.zeros(1, DECLARATION))
    write_request(buf, series[:0], times, values, np.zeros(1, np.uint8))
    at, size, contexts = np.zeros(1, np.uint32), np.ones(1, np.uint32), np.zeros(1, np.uint64)
    keys(series, 1, 0, at, size, contexts)
    rows, ranges = np.zeros(1, np.int64), np.zeros((3, 1), np.int64)
    check_labels(buf[:0], at, np.zeros(1, np.uint32), rows, 65535)
    beyond(buf[:0], series[:0], 1, 1, 1, np.zeros(0, np.uint8))
    active = np.zeros(2, np.uint64)
    enter_series(active, np.zeros(2, np.bool_), buf[:0], series[:0], 1, np.zeros(0, np.bool_))
    keep_seen(active, np.zeros(2, np.bool_), active)
    arena, templates, hashes = np.zeros(512, np.uint8), np.zeros(4, METRIC_TEMPLATE), np.zeros(4, np.uint32)
    first, count, left = ranges
    spans = np.zeros((4, 4), np.int64)
    label_spans(buf, 0, 0, spans)
    interest = ByteTable()
    asked = interest.address, np.full(1, END, np.int32), interest.address
    asked_context(0, WHOLE)
    interesting(buf, spans, 1, *asked)
    hash_ids(arena, templates, 0, 1, hashes)
    series[0]["samples"] = 1
    count[0] = 1
    out, shards = np.zeros(1, np.int64), np.zeros(1, np.uint32)
    expand(series, 1, first, count, hashes, templates, times, 1, 1, values, out, out, np.zeros(1), shards)
    carbon_lines(buf, 22, len(buf), at, size, np.zeros(1), out, rows, left)
