"""Reserved memory for the tables: address space for the largest state, of which only what is in use costs memory."""

import numpy as np

from aggregator.engine.options import EngineOptions
from aggregator.engine.tables import layout
from m3metrics.shard import MAX_SHARDS
from m3x.byte_table import place
from m3x.reserve import reserve, reserve_wide

PLAIN = EngineOptions(num_shards=1, topic_shards=1)


def addresses(tables: layout.Tables) -> layout.Array:
    """Where each table begins (uint64): what ``views`` reads. Its own address is what kernels get."""
    for name, table in zip(layout.TABLE_NAMES, tables, strict=True):
        if (
            table.dtype != layout.DTYPES[name]
            or (table.ndim == 2) != (name in layout.COLUMNS)
            or not table.flags.c_contiguous
        ):
            raise TypeError(f"table {name} is {table.dtype} with {table.ndim} dimensions")
    return np.array([table.ctypes.data for table in tables], np.uint64)


_HUGE_AFTER = 8 << 20
"""Small engines need no huge pages."""


def _columns(name: str, rows: int) -> layout.Array:
    columns = layout.COLUMNS[name]
    return reserve(rows * columns, layout.DTYPES[name]).reshape(rows, columns)


def reserve_index(max_series: int) -> layout.Array:
    """Room for the largest index; only what is in use costs memory."""
    return reserve_wide(max(4 * max_series, 1 << 12), np.uint64, _HUGE_AFTER)


def index_limit(size: int) -> int:
    """How many entries an index of that many words may have."""
    return int(size * 0.6)


def _head(options: EngineOptions) -> layout.Array:
    """The head of empty tables, with the limits that ``options`` ask for."""
    head = np.zeros((), layout.HEAD)
    head["index_mask"] = layout.FIRST_INDEX - 1
    head["index_limit"] = index_limit(layout.FIRST_INDEX)
    head["group_mask"] = layout.GROUP_INDEX - 1
    head["num_shards"] = max(options.num_shards, 1)
    head["value_limit"] = options.values_per_metric_limit_per_second
    head["new_limit"] = options.new_metric_limit_per_shard_per_second
    head["warmup"] = options.new_metric_no_limit_warmup_ns
    head["future"] = options.buffer_future_ns
    head["timer_split"] = options.max_timer_batch_size_per_write
    head["log_cap"] = options.timer_samples_per_series_cap
    head["memory_limit"] = options.memory_limit_bytes
    return head


def reserve_tables(max_series: int, options: EngineOptions = PLAIN) -> layout.Tables:
    """Reserves all tables of an engine for at most ``max_series`` entries."""
    if not 1 <= max_series <= 1 << layout.SLOT_BITS:
        raise ValueError(f"max_series is {max_series}: expected 1 to {1 << layout.SLOT_BITS}")
    pages = -(-max_series // layout.PAGE_ROWS) * 64 + 1024
    chunks = max(max_series // 16, 1 << 12) * 8
    ids = reserve_wide(max(max_series * 512, 1 << 26), np.uint8, _HUGE_AFTER)
    head = _head(options)
    head["max_pages"] = pages
    head["max_chunks"] = chunks
    head["max_entries"] = max_series
    head["max_slots"] = min(8 * max_series + 2 * layout.PAGE_ROWS, 1 << layout.SLOT_BITS)
    head["max_ids"] = len(ids)
    tables = layout.Tables(
        head=head,
        entry_index=reserve_index(max_series),
        entries=reserve_wide(max_series + 1, layout.ENTRY, _HUGE_AFTER),
        ids=ids,
        elements=reserve_wide(layout.MAX_BUCKETS << layout.SLOT_BITS, layout.ELEMENT, _HUGE_AFTER),
        buckets=np.zeros(layout.MAX_BUCKETS, layout.BUCKET),
        windows=reserve(layout.MAX_WINDOWS, layout.WINDOW),
        window_ring=np.full((layout.MAX_BUCKETS, layout.RING), -1, np.int32),
        page_table=_columns("page_table", layout.MAX_WINDOWS),
        free_pages=reserve(pages, np.uint32),
        records=reserve_wide(pages * layout.PAGE_ROWS, layout.RECORD, _HUGE_AFTER),
        ranges=_columns("ranges", layout.MAX_BUCKETS),
        slim_records=reserve_wide(pages * layout.PAGE_ROWS, layout.SLIM_LAST, _HUGE_AFTER),
        free_slim_pages=reserve(pages, np.uint32),
        log=reserve(chunks * layout.LOG_CHUNK, np.float64),
        free_chunks=reserve(chunks, np.uint32),
        specs=reserve(layout.MAX_SPECS, layout.SPEC),
        outputs=reserve(4 * layout.MAX_SPECS, layout.OUTPUT),
        attrs=reserve(layout.MAX_ATTRS + 1, layout.ATTRS),
        metas=reserve(layout.MAX_METAS, layout.META),
        stages=reserve(2 * layout.MAX_METAS, layout.STAGE),
        stage_specs=reserve(8 * layout.MAX_METAS, layout.STAGE_SPEC),
        text=reserve(layout.TEXT_BYTES, np.uint8),
        annotation_table=np.zeros(1, layout.DTYPES["annotation_table"]),
        annotations=reserve(layout.MAX_ANNOTATIONS, layout.DTYPES["annotations"]),
        annotation_slots=reserve(layout.ANNOTATION_SLOTS, np.uint64),
        annotation_bytes=reserve(layout.ANNOTATION_BYTES, np.uint8),
        shards=reserve(MAX_SHARDS, layout.SHARD),
        list_born=_columns("list_born", layout.MAX_BUCKETS),
        closed_through=_columns("closed_through", layout.MAX_BUCKETS),
        emitted_through=_columns("emitted_through", layout.MAX_BUCKETS),
        counts=np.zeros(layout.MAX_COUNTS, np.int64),
        errors=np.zeros((4, layout.NUM_DETAILS), np.int64),
        recent=np.zeros(layout.ERRORS_KEPT, layout.ERROR),
        chain=np.zeros(layout.MAX_ELEMENTS, np.uint32),
        free_slots=np.zeros((layout.MAX_BUCKETS, layout.MAX_WIDTH), np.int64),
        group_index=reserve(1 << 27, np.uint64),
        targets=reserve(layout.MAX_SPECS, layout.TARGET),
        sources=reserve(layout.MAX_SOURCES, layout.SOURCE),
        free_sources=np.zeros(64, np.int64),
        repeats=reserve_wide(4 * layout.MAX_REPEATS, np.uint64, _HUGE_AFTER),
        repeat_blocks=reserve(layout.REPEAT_BLOCKS >> 6, np.uint64),
        fresh=np.zeros(layout.FRESH, np.uint32),
    )
    place(tables.annotation_table, tables.annotation_slots, tables.annotations, tables.annotation_bytes)
    return tables
