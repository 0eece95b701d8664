"""The state of an engine as logical columns, and back: what it is, not how it lies in memory.

``save`` reads the tables, ``load`` fills those of an empty engine, ``rows`` are the kernels of both. Imports ``tables``, ``windows``,
``state`` and ``ingest``.

A snapshot is a sequence of (table, columns): columns of one table have the same length, and a table may come in pieces, one after the
other. Rows are named by their place, counted from 0 over all pieces. Tables come in this order:

=============  ====================================================================================================================
table          columns
=============  ====================================================================================================================
lists          kind, resolution, times, made (elements with state so far), sequence (windows so far), resent, closed_max
shards         id, earliest, latest, first_insert, rate_second, rate_count
list_shards    list, shard (id), born, closed (through), emitted (through), committed (through): of lists that exist on it
metas          payload, metric_type, size; ``bytes`` has the metadatas one behind the other
specs          list, metric_type, plain, state, size; ``bytes`` has ForwardMetadata messages: aggregation id, policy, pipeline, times
annotations    size; ``bytes``
entries        number (in the journal), category, metric_type, shard, live, last_access, cutover, rate_second, rate_count, meta (of the
               stage applied last, -1: none), stage (which one of it), size; ``bytes`` has the ids
elements       entry, spec, traffic, resend, state, chain (place among those of the entry, -1: not live), newest (window sequence, of those
               that are not live), gone, term
windows        list, start, base, sequence, resend, late
records        window, element, sum, sum_sq, min, max, last (bits of int64 of counters, else of a double), last_at, count, annotation
               (-1: none), call, flags (``RECORD_*``, ``BASE_SUMS``), samples (in the log)
states         record, marks (``STATE_*``), words; ``numbers`` has the doubles
samples        ``numbers``: those of timers, in the order of the records
sources        window, element, source, block, bits
versions       window, element (one of the group), term, flush, sent
=============  ====================================================================================================================
"""

from aggregator.engine.snapshot.load import Loader
from aggregator.engine.snapshot.save import save
from aggregator.engine.snapshot.state import State, Table

__all__ = ["Loader", "State", "Table", "save"]
