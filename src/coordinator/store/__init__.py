"""The embedded store of aggregated series: DuckDB for points, label columns in memory for matchers.

Open ``store`` first: ``open_store`` gives a ``Store`` whose ``write`` returns after the commit and whose ``select`` gives columns back.
``database`` has the tables and SQL, ``series`` turns id bytes into numbers, ``labels`` matches, ``select`` chooses the policy and orders
the points (``kernels``), ``windows`` remembers what was written lately, ``errors`` are its exceptions. Imports ``coordinator.matchers``,
``m3metrics`` and ``m3x`` only.

No series costs an object of Python: new ones are sorted, numbered and taken apart by ``series_kernels``, ``m3x.byte_table`` and
``label_kernels``, a batch at a time, and labels are indexed when somebody asks for them. ``scripts/bench out`` measures it.

Why DuckDB: measured with 10 k series and 360 windows (3.6 M points), 10 k rows per commit, on one core. A row costs DuckDB 0.45 µs
(0.2 µs at 100 k rows per commit), SQLite 3.3 µs with a row per point. Column blobs in SQLite cost 0.12 µs, but need a compaction of
our own before one series can be read without the others, and took 69 MB where DuckDB took 6; it reads one series out of the 3.6 M
points in 16 ms, all of them in 0.25–0.55 s. Its file survives ``kill -9`` at any moment with all that was committed.
"""

from coordinator.store.errors import QueryTooLargeError, StoreError
from coordinator.store.labels import LabelIndex
from coordinator.store.select import Selection
from coordinator.store.series import SeriesIndex, series_tags
from coordinator.store.store import Refusal, Store, StoreOptions, WriteBatch, Written, open_store
from coordinator.store.windows import Window

__all__ = [
    "LabelIndex",
    "QueryTooLargeError",
    "Refusal",
    "Selection",
    "SeriesIndex",
    "Store",
    "StoreError",
    "StoreOptions",
    "Window",
    "WriteBatch",
    "Written",
    "open_store",
    "series_tags",
]
