"""The tables of one engine: rows of fixed size in reserved memory, found by index, never moved while they grow.

| table | row | found by |
|---|---|---|
| entry_index | hash of an entry's key, high half · entry row + 1 | linear probing from the hash |
| entries | one metric: (category, metric type, id) | entry_index |
| fresh | row of an entry, of those that were made last | how many were made before it, modulo ``FRESH`` |
| ids | the bytes of an entry's id, behind ``ID_HEAD`` bytes (``tables.ids``) | entries |
| elements | one aggregation of one entry in one bucket | reference = bucket << 24 · slot |
| buckets | one list id of the worker (kind, resolution, times forwarded), all its shards together | number |
| windows | one open or kept window of a bucket | bucket and start, through ``window_ring`` |
| pages | 4,096 records of a window, one for each slot | ``page_table[window, slot >> 12]`` |
| records | what one element has aggregated in one window: one cache line | page · slot |
| slim_records | the same for an element that needs no more than two words | page · slot |
| log | samples of timers that need quantiles, in chunks chained per window | window |
| annotations | bytes that came with values, as ``m3x.table_kernels`` keeps keys | number, or hash of the bytes |
| sources | which source has sent which versions to a record, a hash table per window | window, then slot and source |
| repeats | messages that were applied and may come again (``ingest.repeats``) | hash of the content |
| repeat_blocks | a bit for each block of ids, set where some may come again | key of a message, high 20 bits |
| targets | rollups: what elements forward to; ``group_index`` finds the group of a target on a shard | number |
| metas, stages, stage_specs | interned metadata bytes, their stages, what a stage asks for | hash of the bytes |
| specs, outputs, attrs | what is computed for an aggregation key and metric type; how it is emitted | number |

A *list* in M3's sense is (shard, bucket): ``list_born``, ``closed_through`` and ``emitted_through`` are its state.

An element that transforms, forwards or may be flushed again has *state* besides its record (``state``): it takes ``width`` slots
in a row, and what lies in a window's page at the slots behind its own is its state in that window (STATE). A group of elements that
forward to one target has two slots of its own.

So rows of ``elements`` and ``records`` have roles: a slot holds an element, a tombstone, a group, or what lies behind one of them. Each
role has a dtype over the same bytes (``_overlay``), and in ``views`` a view of its own.

Slots of a bucket are handed out in ranges of a page, each for elements whose records are slim (``SPEC_SLIM``) or for the others
(``ranges``). A page of a range for slim ones is a quarter of the size, unless something came to that window that only a whole record can
hold: then the page was made anew with such (``windows.slim``). What a page has is a bit of its number in ``page_table``.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from m3metrics.shard import MAX_SHARDS
from m3x import table_kernels

Array = NDArray[Any]

SLOT_BITS = 24
SLOT_MASK = (1 << SLOT_BITS) - 1
PAGE_BITS = 12
PAGE_ROWS = 1 << PAGE_BITS
PAGES_PER_WINDOW = 1 << (SLOT_BITS - PAGE_BITS)
MAX_BUCKETS = 64
MAX_WINDOWS = 4096
RING = 64
"""Remembered windows per bucket."""
LOG_CHUNK = 4096
"""Words of 8 bytes in a chunk of the timer log; word 0 is the next chunk."""
MAX_SPECS = 1 << 20
MAX_ELEMENTS = 1 << 12
"""Aggregations of one metric."""
MAX_METAS = 1 << 20
MAX_ATTRS = (1 << 16) - 1
MAX_ANNOTATIONS = 1 << 16
ANNOTATION_SLOTS = 1 << 17
ANNOTATION_BYTES = 1 << 26
TEXT_BYTES = 1 << 30
ID_HEAD = 8
"""Bytes before each id in ``ids``: row of its entry, and how long it is, four bytes each."""

FIRST_INDEX = 1 << 12
"""Words of the entry index at first."""
GROUP_INDEX = 1 << 10
"""Words of the group index at first; both grow."""
MAX_GROUPS = 1 << 24
MAX_SOURCES = 1 << 31
MAX_REPEATS = 1 << 24
REPEAT_BLOCKS = 1 << 20
FRESH = 1 << 10
"""Entries made last that are remembered (``fresh``)."""

MIN_INT64 = -(1 << 63)
MAX_INT64 = (1 << 63) - 1

ENTRY_FREE, ENTRY_LIVE, ENTRY_DEAD = range(3)
"""A dead entry is out of the index; its row and id live on until the last of its elements is gone."""
ELEMENT_FREE, ELEMENT_LIVE, ELEMENT_TOMBSTONED, ELEMENT_DROPPED, ELEMENT_STATE, ELEMENT_GROUP = range(6)
"""A tombstoned element emits what it has; a dropped one (its shard went away) emits nothing more. ``ELEMENT_STATE``: a slot that holds
the state of the element before it. ``ELEMENT_GROUP``: a group of elements that forward to one target."""
RECORD_EXISTS = 1
RECORD_LATE = 2
"""Written after its window had been flushed (possible only when the clock stepped back): emitted in the next pass."""
GROUP_RECORD = 4
"""Of the record of a group: its versions are counted."""
BASE_SUMS = 8
"""Of a base record: the sums of ``Add`` are there."""
SPEC_EXPENSIVE = 1
"""Squares are kept."""
SPEC_LOG = 2
"""Samples are kept, for quantiles."""
SPEC_STATE = 4
"""The element has state: it takes more than one slot."""
SPEC_BINARY = 8
"""A transformation looks at the window before."""
SPEC_RESET = 16
"""A zero follows half a window after every value."""
SPEC_LAST = 32
"""A gauge of which only the last value is asked for (SLIM_LAST)."""
SPEC_SUM = 64
"""A counter of which nothing is asked for but what follows from sum and count (SLIM_SUM)."""
SPEC_SLIM = SPEC_LAST | SPEC_SUM
SLIM_PAGE = 1 << 31
"""Of a number in ``page_table``: its records are slim."""
CALL_BITS = 16
MAX_LAST_NS = 1 << (62 - CALL_BITS)
"""A window that is longer has no slim records: they keep times from its start on in what the number of a batch leaves of a word."""

MARK_NONE, MARK_KEPT, MARK_NEW = range(3)
"""Whether the stage that is being applied asks for an element, and has made it."""
STATE_DIRTY = 1
"""Written since it was processed last."""
STATE_FLUSHED = 2
STATE_RESEND = 4
"""Of the last write: the window stays open until nothing can be late any more."""
STATE_RESEND_SEEN = 8
"""``STATE_RESEND`` when it was processed last."""
STATE_CLOSED = 16
STATE_REMOVED = 32
"""M3 has dropped the window: a value makes it anew."""
STATE_CASCADE = 64
"""The window before was flushed again: this one has to be, too."""
STATE_LATE = 128
"""Counted in the window's ``late``."""
STATE_TOUCHED = 256
"""A value came that was refused, or was there already: M3 then keeps the window among those to be looked at."""
STATE_DOUBLES = 7
"""Doubles of state in a slot; behind those of the first slot lie a mask of outputs to be emitted and the ``STATE_*`` bits."""
MAX_WIDTH = 16


def _overlay(row: np.dtype[Any], **names: str) -> np.dtype[Any]:
    """The same bytes as ``row`` in another role: its fields (keywords) by the names that they have there."""
    assert row.fields is not None
    fields = [row.fields[own] for own in names]
    return np.dtype(
        {
            "names": list(names.values()),
            "formats": [field[0] for field in fields],
            "offsets": [field[1] for field in fields],
            "itemsize": row.itemsize,
        }
    )


ENTRY = np.dtype(
    [
        ("id_at", np.int64),
        ("last_access", np.int64),
        ("cutover", np.int64),  # of the stage last applied; MIN_INT64: none
        ("rate_second", np.uint32),
        ("rate_count", np.uint32),
        ("id_size", np.uint32),
        ("stage", np.uint32),  # row + 1 of the stage last applied
        ("element", np.uint32),  # reference + 1 of the first element
        ("spec", np.uint32),  # of the first element
        ("shard", np.uint32),
        ("hash", np.uint32),
        ("elements", np.uint16),  # in the chain
        ("held", np.uint16),  # whose slots still point here
        ("category", np.uint8),
        ("metric_type", np.uint8),
        ("state", np.uint8),
    ],
    align=True,
)
FREE_ENTRY = _overlay(ENTRY, element="next", state="state")
"""``next``: row + 1 of the next free one."""
ELEMENT = np.dtype(
    [
        ("entry", np.uint32),
        ("spec", np.uint32),
        ("next", np.uint32),  # reference + 1 of the next in the chain
        ("attrs", np.uint16),
        ("state", np.uint8),
        ("mark", np.uint8),  # MARK_*, while a stage is applied
    ],
    align=True,
)
TOMBSTONE = _overlay(ELEMENT, entry="entry", spec="spec", next="newest", state="state")
"""An element that is tombstoned or dropped. ``newest``: sequence of the newest window that it may be in."""
FREE_ELEMENT = _overlay(ELEMENT, next="next", state="state")
"""``next``: next free slot + 1."""
MEMBER = _overlay(ELEMENT, entry="group", next="sequence", state="state", mark="gone")
"""The slot behind an element with state. ``group``: slot + 1 of the group it belongs to; ``sequence``: its number among the bucket's
elements with state; ``gone``: 1 when M3 would have taken it out of the group."""
GROUP = _overlay(ELEMENT, entry="shard", spec="target", next="members", state="state")
"""The first slot of a group."""
TERM = _overlay(ELEMENT, entry="registered", next="number", state="state")
"""The second slot of a group. ``registered``: members that M3 would still have; ``number``: how often there were none left. M3 then
counts versions from 0 again."""
BUCKET = np.dtype(
    [
        ("resolution", np.int64),
        ("shift", np.int64),  # nanoseconds from M3's zero time (year 1) to the epoch, modulo the resolution
        ("past_limit", np.int64),
        ("start", np.int64),  # of the window used last
        ("window", np.int64),  # its row
        ("slots", np.int64),  # used so far, free ones included
        ("next_slot", np.int64),  # of the range that is being handed out; at the beginning of one: there is none
        ("next_slim", np.int64),  # the same for slim records
        ("taken", np.int64),  # slots that are in use now, but for
        ("taken_slim", np.int64),  # those of slim records
        ("open", np.int64),  # windows that are there at a time where every series has a value in each
        ("sequence", np.int64),  # windows made so far
        ("closed_max", np.int64),  # newest of closed_through over all shards
        ("flushing", np.int64),
        ("kind", np.int64),
        ("times_forwarded", np.int64),
        ("tombstoned", np.int64),  # elements that wait to be collected
        ("due", np.int64),  # a window is due when this much after its start is not after the target
        ("stamp", np.int64),  # time of its values after its start
        ("delay", np.int64),  # how late forwarded values may come
        ("base", np.int64),  # row + 1 of the window that keeps what elements with state need of released windows
        ("stateful", np.int64),  # elements with state
        ("made", np.int64),  # elements with state so far
        ("resent", np.int64),  # 1: some window may have records that are flushed again
    ],
    align=True,
)
WINDOW = np.dtype(
    [
        ("start", np.int64),
        ("sequence", np.int64),
        ("bucket", np.int64),
        ("used", np.int64),
        ("late", np.int64),  # records marked RECORD_LATE
        ("log_head", np.int64),  # chunk + 1
        ("log_tail", np.int64),
        ("log_used", np.int64),  # words of the last chunk
        ("logged", np.int64),  # samples
        ("pages", np.int64),
        ("resend", np.int64),  # 1: a record may be flushed again
        ("sources_at", np.int64),  # rows of ``sources``
        ("sources_size", np.int64),
        ("sources_used", np.int64),
    ],
    align=True,
)


def _record(number: Any) -> np.dtype[Any]:
    return np.dtype(
        [
            ("last", number),
            ("last_at", np.int64),
            ("sum", number),
            ("sum_sq", number),
            ("min", number),
            ("max", number),
            ("count", np.int64),
            ("annotation", np.uint32),  # row + 1
            ("call", np.uint16),  # number of the batch that ``last`` came in
            ("flags", np.uint16),  # RECORD_*; 0: there is none
        ],
        align=True,
    )


RECORD = _record(np.float64)
"""Gauges and timers; 64 bytes."""
COUNTER_RECORD = _record(np.int64)
"""The same bytes for counters."""
SLIM_LAST = np.dtype([("last", np.float64), ("stamp", np.int64)])
"""A gauge's slim record. ``stamp``: one more than the nanoseconds from the window's start to the last value, then ``CALL_BITS`` for the
number of the batch that it came in; 0: there is no record."""
SLIM_SUM = np.dtype([("sum", np.int64), ("count", np.int64)])
"""The same bytes for counters. ``count`` 0: there is no record."""
TIMER_LOG = np.dtype({"names": ["samples"], "formats": [np.int64], "offsets": [0], "itemsize": RECORD.itemsize})
"""Of a timer's record: its samples in the window's log."""
STATE = _overlay(RECORD, annotation="pending", call="marks", flags="flags")
"""The state behind the record of an element. ``pending``: mask of outputs to be emitted; ``marks``: ``STATE_*``. The seven doubles before
them are numbers of the state (``state_word``); further slots have nothing but such."""
BASE = _overlay(RECORD, last_at="start", flags="flags")
"""A record of the base: ``start`` of the newest window of the element that is gone."""
VERSIONS = _overlay(RECORD, last_at="flush", count="sent", annotation="term", flags="flags")
"""The record of a group in a window: versions ``sent`` in this ``term`` (of TERM), ``flush``: number of the one that counted last."""

SPEC = np.dtype(
    [
        ("bucket", np.uint32),
        ("outputs_at", np.uint32),
        ("outputs", np.uint32),
        ("prefix_at", np.uint32),
        ("prefix_size", np.uint32),
        ("ops_at", np.uint32),  # transformations, a byte each
        ("target", np.uint32),  # row + 1
        ("twin", np.uint32),  # row + 1 of the same key with, or without, state
        ("adds", np.uint16),  # transformations that keep a sum
        ("ops", np.uint16),
        ("policy", np.uint16),  # for MessageBatch.policies
        ("metric_type", np.uint8),
        ("flags", np.uint8),
        ("width", np.uint8),  # slots
    ],
    align=True,
)
OUTPUT = np.dtype(
    [("quantile", np.float64), ("suffix_at", np.uint32), ("suffix_size", np.uint32), ("kind", np.int64)], align=True
)
ATTRS = np.dtype([("at", np.uint32), ("size", np.uint32), ("traffic", np.uint64), ("resend", np.uint64)], align=True)
TARGET = np.dtype(
    [
        ("id_at", np.uint32),
        ("id_size", np.uint32),
        ("meta_at", np.uint32),  # aggregation id, policy and pipeline of a ForwardMetadata
        ("meta_size", np.uint32),
        ("hash", np.uint32),  # murmur3-32 of the id
        ("times", np.int32),
        ("policy", np.uint16),  # for MessageBatch.policies
        ("metric_type", np.uint8),
    ],
    align=True,
)
SOURCE = np.dtype([("key", np.uint64), ("bits", np.uint64), ("block", np.uint32), ("used", np.uint32)], align=True)
"""Versions ``64 * block`` to ``64 * block + 63`` of (slot << 32 | source)."""
FREE_SOURCES = _overlay(SOURCE, key="next")
"""The first row of a table given back. ``next``: row + 1 of the next one of that size."""
META = np.dtype(
    [
        ("at", np.uint32),
        ("size", np.uint32),
        ("first_stage", np.uint32),
        ("stages", np.uint32),
        ("key", np.uint16),  # payload << 8 | metric type
        ("action", np.uint16),  # 0, or why every metric that carries it is refused
    ],
    align=True,
)
STAGE = np.dtype(
    [
        ("from_ns", np.int64),  # active in [from_ns, until_ns)
        ("until_ns", np.int64),
        ("cutover", np.int64),
        ("meta_at", np.uint32),
        ("meta_size", np.uint32),
        ("specs_at", np.uint32),
        ("specs", np.uint32),
        ("key", np.uint16),
        ("action", np.uint16),  # 0, STAGE_TOMBSTONED, or why its metrics are refused
        ("source", np.uint32),  # of forwarded metrics
    ],
    align=True,
)
STAGE_SPEC = np.dtype([("spec", np.uint32), ("attrs", np.uint32)])
SHARD = np.dtype(
    [
        ("earliest", np.int64),  # writeable in [earliest, latest)
        ("latest", np.int64),
        ("first_insert", np.int64),
        ("rate_second", np.int64),
        ("rate_count", np.int64),
        ("entries", np.int64),
        ("owned", np.int64),
    ],
    align=True,
)
ERROR = np.dtype([("detail", np.uint16), ("size", np.uint16), ("id", np.uint8, (124,))], align=True)

STAGE_TOMBSTONED = 0xFFFF

HEAD = np.dtype(
    [
        ("index_mask", np.int64),  # words of the entry index, less one
        ("index_limit", np.int64),  # entries at which it has to grow
        ("live", np.int64),  # entries in the index
        ("entries", np.int64),  # rows used so far, as in all that is in the plural below
        ("free_entry", np.int64),  # row + 1 of the first of the free ones
        ("ids", np.int64),  # bytes
        ("dead_ids", np.int64),  # bytes of them that no entry uses
        ("ids_seen", np.int64),  # where moving them together goes on,
        ("ids_moved", np.int64),  # and where to
        ("pages", np.int64),
        ("free_pages", np.int64),  # in ``free_pages``
        ("chunks", np.int64),
        ("free_chunks", np.int64),
        ("windows", np.int64),
        ("buckets", np.int64),
        ("metas", np.int64),
        ("metadata_table", np.uint64),  # address of a table (``m3x.table_kernels``): bytes and key → row
        ("new_lists", np.int64),  # since they were asked for
        ("errors", np.int64),  # in ``recent``
        ("num_shards", np.int64),
        ("value_limit", np.int64),  # a second and entry; 0: none
        ("new_limit", np.int64),  # entries a second and shard; 0: none
        ("warmup", np.int64),  # nanoseconds from a shard's first entry on in which ``new_limit`` does not hold
        ("future", np.int64),  # nanoseconds that a client's time may be ahead
        ("log_cap", np.int64),  # samples of a timer in a window
        ("memory_limit", np.int64),  # bytes; 0: none
        ("metadata_bytes", np.int64),  # of interned metadatas
        ("used_pages", np.int64),
        ("slim_pages", np.int64),
        ("free_slim_pages", np.int64),  # in ``free_slim_pages``
        ("used_slim_pages", np.int64),
        ("used_chunks", np.int64),
        ("max_pages", np.int64),  # of each kind
        ("max_chunks", np.int64),
        ("max_entries", np.int64),
        ("max_ids", np.int64),  # bytes
        ("max_slots", np.int64),  # of a bucket
        ("group_mask", np.int64),  # words of the group index, less one
        ("groups", np.int64),  # in the index
        ("sources", np.int64),
        ("used_sources", np.int64),  # rows of tables that windows have
        ("timer_split", np.int64),  # values into which a batch timer is cut; 0: it is not
        ("grace", np.int64),  # until then no forwarded value is late
        ("repeats", np.int64),  # messages that may come again
        ("repeats_used", np.int64),  # words of their table that are not 0
        ("repeats_mask", np.int64),  # words of it, less one
    ]
)
"""What there is once: how much of each table is in use, and limits."""

NO_ENTRY = -1
REPEATED = -2
HINT = np.dtype(
    [
        ("half", np.uint64),  # hash of the key of its entry; it may lack where that is ``found``
        ("row", np.int64),  # of the entry that is probably its; -1: unknown
        (
            "entry",
            np.int64,
        ),  # NO_ENTRY, or 2 · row of the entry it was applied to, + 1 where its metadata was known; REPEATED - row: it came again
        ("key", np.uint32),  # hash of the message's shard, id and host
        ("number", np.uint32),  # while replaying: of the entry in the journal
        ("found", np.uint64),  # 1: the entry is its, the id has been compared
        ("shape", np.int64),  # of its bytes (``ingest.shapes``); -1: it has none
    ]
)
"""Of a message."""
REPEAT = np.dtype([("content", np.uint64), ("key", np.uint32), ("unused", np.uint32)])
"""A message that may come again: ``ingest.repeats.content``, 0: none, and ``message_key``."""
PROGRESS = np.dtype(
    [
        ("position", np.int64),  # in the payload, of the next frame
        ("segment", np.int64),
        ("rows", np.int64),  # messages of the block
        ("row", np.int64),  # the next one of them
        ("acks", np.int64),  # bytes of ack frames
        ("segment_acks", np.int64),  # the same where the segment began
        ("call", np.int64),  # number of the batch, 1 to 65,535
        ("written", np.int64),  # bytes of rows for the journal; -1: none are wanted
        ("expect", np.int64),  # 1: what is applied may come again, even in the same batch
        ("again", np.int64),  # a segment + 1 in which a message has come again, by its number; -1: nobody asks
        ("resumes", np.int64),  # 1: the block has been scanned, and nothing else has been done with it
        ("last", np.int64),  # row of the entry before it, -1: not known
    ]
)
"""How far a batch has been ingested."""
MARKS = 1 << 18
MARK = np.dtype([("whose", np.uint64), ("newest", np.uint64)])
"""The newest id of a connection and shard, by its upper half, in a table of ``MARKS`` rows, where new ones take the place of old ones."""
ACTION_NONE, ACTION_DISCARD, ACTION_EMIT = range(3)
"""What a flush does with the values of a window."""
CURSOR = np.dtype(
    [
        ("next", np.int64),  # slot, or place in the order of contributions
        ("output", np.int64),  # of the slot; 2 · number, + 1 where only the zero that follows it is left
        ("need", np.int64),  # bytes that the next message needs where nothing fitted, else 0
        ("reached", np.int64),  # the slot behind the last one of which a value was put out
    ]
)
"""Where the next part of a flush begins."""
TALLY = np.dtype(
    [
        ("messages", np.int64),
        ("forwarded", np.int64),  # values in messages to rollups
        ("contributions", np.int64),  # values for rollups
        ("discarded", np.int64),  # values thrown away
    ]
)
"""What a flush has counted."""
CONTRIBUTION = np.dtype(
    [
        ("value", np.float64),
        ("previous", np.float64),
        ("group", np.uint32),  # slot
        ("sequence", np.uint32),  # of the element: in this order its values come
        ("annotation", np.uint32),  # row + 1
        ("attrs", np.uint16),
        ("resend", np.uint8),
        ("again", np.uint8),  # 1: sent before, in an earlier term
    ],
    align=True,
)
"""A value for a rollup."""

ERRORS_KEPT = 64
NUM_DETAILS = 40
MAX_COUNTS = 96


class Samples(NamedTuple):
    """Where the timer samples of a window are in the log: those of a slot in the runs ``runs[starts[slot]:starts[slot + 1]]``."""

    runs: Array
    """int64, places of their first words."""
    starts: Array
    """int64, two more than the bucket has slots."""
    counts: Array
    """int64, samples by slot."""
    values: Array
    """float64, room for those of one slot."""


class Part(NamedTuple):
    """Room for the messages of a part of a flush: message ``n`` is ``payload[offsets[n]:offsets[n + 1]]``."""

    payload: Array
    offsets: Array
    shards: Array
    policies: Array
    origins: Array
    tally: Array
    """TALLY, one row."""


class Tables(NamedTuple):
    """Every array of the engine, as kernels take it."""

    head: Array
    entry_index: Array
    entries: Array
    ids: Array
    elements: Array
    buckets: Array
    windows: Array
    window_ring: Array
    page_table: Array
    free_pages: Array
    records: Array
    ranges: Array
    """1: of slots whose records are slim."""
    slim_records: Array
    free_slim_pages: Array
    log: Array
    free_chunks: Array
    specs: Array
    outputs: Array
    attrs: Array
    metas: Array
    stages: Array
    stage_specs: Array
    text: Array
    annotation_table: Array
    annotations: Array
    annotation_slots: Array
    annotation_bytes: Array
    shards: Array
    list_born: Array
    closed_through: Array
    emitted_through: Array
    counts: Array
    errors: Array
    recent: Array
    chain: Array
    free_slots: Array
    group_index: Array
    targets: Array
    sources: Array
    free_sources: Array
    repeats: Array
    repeat_blocks: Array
    fresh: Array

    def elements_of(self, bucket: int) -> Array:
        """The slots of a bucket."""
        first = bucket << SLOT_BITS
        return self.elements[first : first + int(self.buckets[bucket]["slots"])]

    def windows_of(self, bucket: int) -> NDArray[np.int64]:
        """Rows of the windows of a bucket."""
        windows = self.windows[: int(self.head["windows"])]
        return np.flatnonzero((windows["used"] != 0) & (windows["bucket"] == bucket))


TABLE_NAMES = Tables._fields
DTYPES: dict[str, np.dtype[Any]] = {
    "head": HEAD,
    "entries": ENTRY,
    "ids": np.dtype(np.uint8),
    "elements": ELEMENT,
    "buckets": BUCKET,
    "windows": WINDOW,
    "window_ring": np.dtype(np.int32),
    "records": RECORD,
    "ranges": np.dtype(np.uint8),
    "slim_records": SLIM_LAST,
    "log": np.dtype(np.float64),
    "specs": SPEC,
    "outputs": OUTPUT,
    "attrs": ATTRS,
    "metas": META,
    "stages": STAGE,
    "stage_specs": STAGE_SPEC,
    "text": np.dtype(np.uint8),
    "annotation_table": table_kernels.HEAD,
    "annotations": table_kernels.ROW,
    "annotation_bytes": np.dtype(np.uint8),
    "shards": SHARD,
    "recent": ERROR,
    "targets": TARGET,
    "sources": SOURCE,
}
"""Row types of the tables; ``int64``, ``uint64`` or ``uint32`` for those that are not named (below)."""
DTYPES |= {name: np.dtype(np.int64) for name in ("list_born", "closed_through", "emitted_through")}
DTYPES |= {
    name: np.dtype(np.uint64) for name in ("entry_index", "annotation_slots", "group_index", "repeats", "repeat_blocks")
}
DTYPES |= {name: np.dtype(np.int64) for name in ("counts", "errors", "free_slots", "free_sources")}
DTYPES |= {name: np.dtype(np.uint32) for name in TABLE_NAMES if name not in DTYPES}
COLUMNS = {
    "window_ring": RING,
    "page_table": PAGES_PER_WINDOW,
    "ranges": PAGES_PER_WINDOW,
    "list_born": MAX_SHARDS,
    "closed_through": MAX_SHARDS,
    "emitted_through": MAX_SHARDS,
    "errors": NUM_DETAILS,
    "free_slots": MAX_WIDTH,  # by width; the first one is of slim records
}
"""Columns of the tables with two dimensions."""
