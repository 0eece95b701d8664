# mypy: ignore-errors
"""A look at some messages of a batch that has been applied: whose they are, and what they were added to.

Runs for a few messages a second (``m3metrics.traffic``), and nowhere on the way of the others.
"""

import numpy as np
from numba import njit

from aggregator.engine.ingest.entries import key_hash, probe
from aggregator.engine.ingest.forwarded import category_of
from aggregator.engine.ingest.scan import BLOCK, MAX_FRAME
from aggregator.engine.tables import layout
from aggregator.engine.tables import views as v
from m3metrics.kernels import decode_metric
from m3metrics.rows import ROW_OK, Payload
from m3msg.kernels import scan_frames
from m3msg.rows import SCAN_FULL
from m3x.kernels import base

SEEN = np.dtype(
    [
        ("id_at", np.int64),
        ("id_size", np.int64),
        ("samples", np.int64),
        ("updates", np.int64),  # samples times elements of the entry
        ("timer_bytes", np.int64),  # that samples of its timers take until their windows are out
    ]
)
"""Of a message."""


@njit(cache=True, nogil=True)
def look_at(t, buf, ends, wanted, frames, rows, seen):
    """Fills ``seen`` (SEEN) with the messages number ``wanted`` (int64, ascending) of a batch; returns how many could be read.

    ``buf`` (uint8) holds frames, segment ``k`` ends at ``ends[k]``. ``frames`` (FRAME_ROW) and ``rows`` (METRIC_ROW) have ``BLOCK`` rows.
    """
    buf, frames, rows = v.borrowed((buf, frames, rows))
    number, position, segment, taken, n = 0, np.int64(0), 0, 0, 0
    while segment < len(ends) and taken < len(wanted):
        got, position, status = scan_frames(buf, position, ends[segment], MAX_FRAME, frames[0:BLOCK])
        while taken < len(wanted) and wanted[taken] < number + got:
            f = frames[wanted[taken] - number]
            taken += 1
            start = np.int64(f.value_at)
            if decode_metric(buf, start, start + np.int64(f.value_size), rows, 0) == ROW_OK:
                _fill(t, buf, rows[0], seen[n])
                n += 1
        number += got
        if status != SCAN_FULL:
            position = ends[segment]
            segment += 1
    return n


@njit(cache=True, nogil=True)
def _fill(t, buf, row, seen):
    batched = row.payload in (Payload.TIMERS, Payload.FORWARDED)
    samples = np.int64(row.values_size) >> 3 if batched else np.int64(1)
    seen.id_at = np.int64(row.id_at)
    seen.id_size = np.int64(row.id_size)
    seen.samples = samples
    seen.updates = 0
    seen.timer_bytes = 0
    if row.payload == Payload.PASSTHROUGH:
        return
    category = category_of(np.int64(row.payload))
    address = base(buf) + np.uint64(row.id_at)
    half = key_hash(address, np.uint64(row.id_size), category, row.metric_type)
    entry = probe(t, half, category, np.int64(row.metric_type), address, np.int64(row.id_size))
    if entry < 0:
        return
    e = v.entries(t)[entry]
    ref = np.int64(e.element) - 1
    left = np.int64(e.elements)
    while ref >= 0 and left > 0:
        x = v.elements(t)[ref]
        seen.updates += samples
        if v.specs(t)[x.spec].flags & layout.SPEC_LOG:
            seen.timer_bytes += 8 * samples
        ref = np.int64(x.next) - 1
        left -= 1
