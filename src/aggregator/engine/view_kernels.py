# mypy: ignore-errors
"""How kernels see the tables: ``entries(t)``, ``records(t)`` … are arrays over the memory of ``tables.Tables``.

``t`` is one number: the address of the addresses of all tables (``tables.addresses``). So a kernel takes one argument instead of
forty arrays, functions hand it on for nothing, and nothing is reference-counted. Whoever calls a kernel keeps the tables alive.
"""

from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from aggregator.engine.tables import COLUMNS, DTYPES, TABLE_NAMES


def _begin(builder, t, name):
    """Where a table begins."""
    at = builder.add(t, ir.Constant(ir.IntType(64), 8 * TABLE_NAMES.index(name)))
    return builder.load(builder.inttoptr(at, ir.IntType(8).as_pointer().as_pointer()))


def _view(name):
    dtype = DTYPES[name]
    columns = COLUMNS.get(name, 0)
    item = from_dtype(dtype)
    ndim = 1 if columns == 0 else 2
    kind = types.Array(item, ndim, "C")

    @intrinsic
    def view(_context, _t):
        def generate(context, builder, _s, args):
            word = ir.IntType(64)
            array = make_array(kind)(context, builder)
            data = builder.bitcast(_begin(builder, args[0], name), context.get_data_type(types.CPointer(item)))
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
(
    entry_index,
    entries,
    ids,
    elements,
    buckets,
    windows,
    window_ring,
    page_table,
    free_pages,
    records,
    counter_records,
    log,
    log_words,
    free_chunks,
    specs,
    outputs,
    attrs,
    metas,
    meta_index,
    stages,
    stage_specs,
    text,
    annotations,
    annotation_index,
    annotation_bytes,
    shards,
    list_born,
    closed_through,
    emitted_through,
    counts,
    errors,
    recent,
    chain,
    record_words,
    free_slots,
    group_index,
    targets,
    sources,
    free_sources,
) = (_view(name) for name in TABLE_NAMES[1:])
