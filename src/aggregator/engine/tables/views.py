# mypy: ignore-errors
"""How kernels see the tables: ``entries(t)``, ``records(t)`` … are arrays over the memory of ``layout.Tables``, one for each role of a row.

``t`` is one number: the address of the addresses of all tables (``grow.addresses``). So a kernel takes one argument instead of
forty arrays, functions hand it on for nothing, and nothing is reference-counted. Whoever calls a kernel keeps the tables alive.
"""

import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from aggregator.engine.tables import layout
from aggregator.engine.tables.layout import COLUMNS, DTYPES, TABLE_NAMES


def _begin(builder, t, name):
    """Where a table begins."""
    at = builder.add(t, ir.Constant(ir.IntType(64), 8 * TABLE_NAMES.index(name)))
    return builder.load(builder.inttoptr(at, ir.IntType(8).as_pointer().as_pointer()))


def _view(table, role=None, behind=0):
    """An array over a table: of its rows, or of what they are in another ``role`` (a dtype), counted from the row ``behind`` on."""
    dtype = DTYPES[table] if role is None else role
    columns = COLUMNS.get(table, 0)
    item = from_dtype(dtype)
    ndim = 1 if columns == 0 else 2
    kind = types.Array(item, ndim, "C")

    @intrinsic
    def view(_context, _t):
        def generate(context, builder, _s, args):
            word = ir.IntType(64)
            array = make_array(kind)(context, builder)
            first = builder.gep(_begin(builder, args[0], table), [word(behind * dtype.itemsize)])
            data = builder.bitcast(first, context.get_data_type(types.CPointer(item)))
            many = ir.Constant(word, 1 << 40)
            size = ir.Constant(word, dtype.itemsize)
            wide = ir.Constant(word, dtype.itemsize * columns)
            populate_array(
                array,
                data=data,
                shape=cgutils.pack_array(builder, [many] if ndim == 1 else [many, ir.Constant(word, columns)]),
                strides=cgutils.pack_array(builder, [size] if ndim == 1 else [wide, size]),
                itemsize=size,
                meminfo=None,
            )
            return array._getvalue()

        return kind(types.uint64), generate

    return view


def _record(name):
    kind = from_dtype(DTYPES[name])

    @intrinsic
    def record(_context, _t):
        def generate(context, builder, _s, args):
            return builder.bitcast(_begin(builder, args[0], name), context.get_value_type(kind))

        return kind(types.uint64), generate

    return record


head = _record("head")
"""The one row that is no array: ``head(t).live``."""
entry_index = _view("entry_index")
entries = _view("entries")
ids = _view("ids")
elements = _view("elements")
buckets = _view("buckets")
windows = _view("windows")
window_ring = _view("window_ring")
page_table = _view("page_table")
free_pages = _view("free_pages")
records = _view("records")
ranges = _view("ranges")
slim_records = _view("slim_records")
free_slim_pages = _view("free_slim_pages")
log = _view("log")
free_chunks = _view("free_chunks")
specs = _view("specs")
outputs = _view("outputs")
attrs = _view("attrs")
metas = _view("metas")
stages = _view("stages")
stage_specs = _view("stage_specs")
text = _view("text")
annotation_table = _view("annotation_table")
annotations = _view("annotations")
annotation_bytes = _view("annotation_bytes")
shards = _view("shards")
list_born = _view("list_born")
closed_through = _view("closed_through")
counts = _view("counts")
errors = _view("errors")
recent = _view("recent")
chain = _view("chain")
free_slots = _view("free_slots")
group_index = _view("group_index")
targets = _view("targets")
sources = _view("sources")
free_sources = _view("free_sources")
repeats = _view("repeats")
repeat_blocks = _view("repeat_blocks")
fresh = _view("fresh")

free_entries = _view("entries", layout.FREE_ENTRY)
tombstones = _view("elements", layout.TOMBSTONE)
free_elements = _view("elements", layout.FREE_ELEMENT)
members = _view("elements", layout.MEMBER, behind=1)
groups = _view("elements", layout.GROUP)
terms = _view("elements", layout.TERM, behind=1)
counter_records = _view("records", layout.COUNTER_RECORD)
slim_sums = _view("slim_records", layout.SLIM_SUM)
timer_logs = _view("records", layout.TIMER_LOG)
states = _view("records", layout.STATE, behind=1)
base_records = _view("records", layout.BASE)
versions = _view("records", layout.VERSIONS)
record_words = _view("records", np.dtype(np.float64))
log_words = _view("log", np.dtype(np.int64))
free_tables = _view("sources", layout.FREE_SOURCES)


@intrinsic
def borrowed(_context, arrays):
    """``borrowed(arrays)``: the same (named) tuple of arrays without references to count; whoever calls the kernel holds them."""

    def generate(context, builder, _s, args):
        values = []
        for kind, value in zip(arrays.types, cgutils.unpack_tuple(builder, args[0]), strict=True):
            array = make_array(kind)(context, builder, value)
            array.meminfo = cgutils.get_null_value(array.meminfo.type)
            array.parent = cgutils.get_null_value(array.parent.type)
            values.append(array._getvalue())
        return context.make_tuple(builder, arrays, values)

    return arrays(arrays), generate


@njit(cache=True, nogil=True)
def reference(b, slot):
    """Row in ``elements`` of a slot of bucket ``b``."""
    return (np.int64(b) << layout.SLOT_BITS) | np.int64(slot)
