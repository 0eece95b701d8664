"""Reads the state of an engine as columns. Nothing is changed.

No more than a piece of a table is in memory at a time, and the number of each entry's and each element's row: four bytes.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregator.engine.flush.plan import samples_of
from aggregator.engine.snapshot import rows as kernels
from aggregator.engine.snapshot.state import State, Table
from aggregator.engine.tables import layout
from aggregator.engine.windows.samples import copy_slots
from m3metrics.codec import encode_forward_metadata
from m3metrics.metadata import ForwardMetadata
from m3metrics.metric import MetricType
from m3x.reserve import reserve

__all__ = ["save"]

PIECE = 1 << 13
"""Rows of a piece: what is worked on stays in a near cache."""

Columns = dict[str, NDArray[Any]]
_NONE = np.zeros(0, np.int64)
_AS_THEY_ARE = ("last_at", "sum", "sum_sq", "min", "max", "count", "call", "flags")
"""Columns of records."""


class _Elements(NamedTuple):
    """The elements of a bucket, by slot."""

    slots: NDArray[np.uint32]
    first: int
    """Place of the first one in the snapshot."""
    order: NDArray[np.int64] | None
    """Which one behind it each is; None: they are there by slot."""

    def numbers(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places in the snapshot of those at ``places``."""
        return self.first + (places if self.order is None else self.order[places])


class _Window(NamedTuple):
    row: int
    bucket: int
    number: int


def save(state: State, over: Callable[[NDArray[Any], int, int], None] = lambda *_: None) -> Iterator[Table]:
    """The tables, in the order of the package's docstring.

    ``over`` is told of rows of a reserved table that are not looked at any more: a child gives its share of their memory back.
    """
    tables = state.tables
    buckets = int(tables.head["buckets"])
    yield Table("lists", _lists(state, buckets))
    yield Table("shards", _shards(state))
    yield Table("list_shards", _list_shards(state, buckets))
    entries = _true(tables.entries["state"][: int(tables.head["entries"])] != layout.ENTRY_FREE)
    owners, positions = state.metadata.stage_owners()
    stages = _distinct(tables.entries["stage"], entries)
    used = np.unique(owners[stages[stages > 0] - 1])
    used = used[used >= 0]
    yield Table("metas", _metas(state, used))
    meta_of = np.full(len(owners) + 1, -1, np.int32)
    meta_of[:-1][owners >= 0] = np.searchsorted(used, owners[owners >= 0])
    places: NDArray[np.uint32] = reserve(layout.MAX_BUCKETS << layout.SLOT_BITS, np.uint32)
    for piece in _pieces(entries):
        kernels.chain_places(state.address, piece, places)
    own = [_elements_of(state, bucket) for bucket in range(buckets)]
    specs = np.unique(
        np.concatenate([_NONE, *(_distinct(tables.elements_of(b)["spec"], slots) for b, slots in enumerate(own))])
    )
    yield Table("specs", _specs(state, specs))
    yield Table("annotations", _annotations(state))
    for piece in _pieces(entries):
        yield Table("entries", _entries(state, piece, meta_of, positions))
        over(tables.entries, int(piece[0]), int(piece[-1]) + 1)
    known: list[_Elements] = []
    number = 0
    for bucket, slots in enumerate(own):
        for piece in _pieces(slots):
            yield Table("elements", _element_columns(state, bucket, piece, entries, specs, places))
        order = np.argsort(slots, kind="stable") if tables.buckets[bucket]["stateful"] else None
        known.append(_Elements(slots if order is None else slots[order], number, order))
        number += len(slots)
    windows = _windows(state, buckets)
    yield Table("windows", _window_columns(state, windows))
    yield from _all_records(state, windows, known, over)


def _lists(state: State, buckets: int) -> Columns:
    rows = state.tables.buckets[:buckets]
    return {
        "kind": rows["kind"].copy(),
        "resolution": rows["resolution"].copy(),
        "times": rows["times_forwarded"].copy(),
        "made": rows["made"].copy(),
        "sequence": rows["sequence"].copy(),
        "resent": rows["resent"].copy(),
        "closed_max": rows["closed_max"].copy(),
    }


def _shards(state: State) -> Columns:
    rows = state.tables.shards[state.owned]
    names = ("earliest", "latest", "first_insert", "rate_second", "rate_count")
    return {"id": state.owned.copy()} | {name: rows[name].copy() for name in names}


def _list_shards(state: State, buckets: int) -> Columns:
    tables = state.tables
    lists, shards = np.nonzero(tables.list_born[:buckets])
    return {
        "list": lists,
        "shard": shards,
        "born": tables.list_born[lists, shards],
        "closed": tables.closed_through[lists, shards],
        "emitted": tables.emitted_through[lists, shards],
        "committed": state.committed[lists, shards],
    }


def _metas(state: State, used: NDArray[np.int64]) -> Columns:
    rows = state.tables.metas[used]
    text = [
        state.tables.text[at : at + size] for at, size in zip(rows["at"].tolist(), rows["size"].tolist(), strict=True)
    ]
    return {
        "payload": (rows["key"] >> 8).astype(np.uint8),
        "metric_type": (rows["key"] & 255).astype(np.uint8),
        "size": rows["size"].astype(np.uint32),
        "bytes": np.concatenate([np.zeros(0, np.uint8), *text]),
    }


def _specs(state: State, specs: NDArray[Any]) -> Columns:
    keys = [state.metadata.key_of(spec) for spec in specs.tolist()]
    coded = [
        encode_forward_metadata(
            ForwardMetadata(
                aggregation_id=key.aggregation_id,
                storage_policy=key.policy,
                pipeline=key.pipeline,
                num_forwarded_times=key.times_forwarded,
            )
        )
        for key, _ in keys
    ]
    return {
        "list": state.tables.specs["bucket"][specs].astype(np.int64),
        "metric_type": np.array([key.metric_type for key, _ in keys], np.uint8),
        "plain": np.array([key.plain for key, _ in keys], np.uint8),
        "state": np.array([has_state for _, has_state in keys], np.uint8),
        "size": np.array([len(data) for data in coded], np.uint32),
        "bytes": np.frombuffer(b"".join(coded), np.uint8),
    }


def _annotations(state: State) -> Columns:
    tables = state.tables
    rows = tables.annotations[: int(tables.annotation_table["count"][0])]
    parts = [
        tables.annotation_bytes[at : at + size]
        for at, size in zip(rows["at"].tolist(), rows["size"].tolist(), strict=True)
    ]
    return {"size": rows["size"].astype(np.uint32), "bytes": np.concatenate([np.zeros(0, np.uint8), *parts])}


def _entries(
    state: State,
    rows: NDArray[np.int64],
    meta_of: NDArray[np.int32],
    positions: NDArray[np.int64],
) -> Columns:
    """``meta_of``: by stage the place of its metadatas in the snapshot, -1: none of them; the last one stands for no stage."""
    table, where = state.tables.entries, _where(rows)
    sizes = table["id_size"][where].astype(np.uint32)
    ids = np.empty(int(sizes.sum()), np.uint8)
    kernels.copy_ids(state.address, rows, ids)
    live = table["state"][where] == layout.ENTRY_LIVE
    # A dead entry names a stage that may be gone.
    stage = np.where(live, table["stage"][where].astype(np.int64), 0) - 1
    meta = meta_of[stage]
    return {
        "number": rows.astype(np.uint32),
        "category": table["category"][where].copy(),
        "metric_type": table["metric_type"][where].copy(),
        "shard": table["shard"][where].astype(np.uint16),
        "live": live.astype(np.uint8),
        "last_access": table["last_access"][where].copy(),
        "cutover": table["cutover"][where].copy(),
        "rate_second": table["rate_second"][where].copy(),
        "rate_count": table["rate_count"][where].copy(),
        "meta": meta,
        "stage": np.where(meta >= 0, positions[stage], 0).astype(np.uint16),
        "size": sizes,
        "bytes": ids,
    }


def _where(rows: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """The same rows; those one behind the other as a slice, of which columns are copied in a fraction of the time."""
    first, last = int(rows[0]), int(rows[-1])
    together = last - first + 1 == len(rows) and bool((rows[1:] > rows[:-1]).all())
    return slice(first, last + 1) if together else rows


def _true(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Where a mask is true: ``flatnonzero`` in half of the memory."""
    found = np.empty(np.count_nonzero(mask), np.uint32)
    at = 0
    for first in range(0, len(mask), PIECE):
        piece = np.flatnonzero(mask[first : first + PIECE])
        found[at : at + len(piece)] = first + piece
        at += len(piece)
    return found


def _pieces(rows: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """``PIECE`` rows at a time."""
    for first in range(0, len(rows), PIECE):
        yield rows[first : first + PIECE].astype(np.int64)


def _distinct(numbers: NDArray[np.uint32], rows: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The different ones among small numbers in these rows."""
    found = _NONE
    for piece in _pieces(rows):
        found = np.union1d(found, np.flatnonzero(np.bincount(numbers[piece])))
    return found


def _elements_of(state: State, bucket: int) -> NDArray[np.uint32]:
    """Slots of the elements of a bucket: those with state in the order in which they were made."""
    elements = state.tables.elements_of(bucket)
    states = elements["state"]
    slots = _true((states >= layout.ELEMENT_LIVE) & (states <= layout.ELEMENT_DROPPED))
    if not state.tables.buckets[bucket]["stateful"]:
        return slots
    wide = state.tables.specs["width"][elements["spec"][slots]] > 1
    behind = elements.view(layout.MEMBER)["sequence"][np.where(wide, slots + 1, 0)].astype(np.int64)
    return slots[np.lexsort((slots, np.where(wide, behind, -1)))]


def _element_columns(
    state: State,
    bucket: int,
    slots: NDArray[np.int64],
    entries: NDArray[np.uint32],
    specs: NDArray[Any],
    places: NDArray[np.uint32],
) -> Columns:
    tables = state.tables
    elements = tables.elements_of(bucket)
    where = _where(slots)
    states, spec = elements["state"][where], elements["spec"][where]
    live = states == layout.ELEMENT_LIVE
    attrs = elements["attrs"][where]
    targeted = tables.specs["target"][spec] != 0
    member = elements.view(layout.MEMBER)[np.where(targeted, slots + 1, 0)]
    group = np.where(targeted, member["group"].astype(np.int64) - 1, 0)
    term = elements.view(layout.TERM)["number"][np.where(targeted, group + 1, 0)]
    return {
        "entry": np.searchsorted(entries, elements["entry"][where]).astype(np.uint32),
        "spec": np.searchsorted(specs, spec).astype(np.uint32),
        "traffic": tables.attrs["traffic"][attrs],
        "resend": tables.attrs["resend"][attrs].astype(np.uint8),
        "state": states.copy(),
        "chain": np.where(live, places[(bucket << layout.SLOT_BITS) + slots].astype(np.int32), -1).astype(np.int32),
        "newest": np.where(live, 0, elements["next"][where]).astype(np.uint32),
        "gone": np.where(targeted, member["gone"], 0).astype(np.uint8),
        "term": np.where(targeted, term, 0).astype(np.uint32),
    }


def _windows(state: State, buckets: int) -> list[_Window]:
    """Oldest first, by bucket; the base of a bucket behind its windows."""
    tables = state.tables
    found: list[_Window] = []
    for bucket in range(buckets):
        rows = tables.windows_of(bucket)
        rows = rows[np.argsort(tables.windows["sequence"][rows], kind="stable")].tolist()
        if tables.buckets[bucket]["base"]:
            rows.append(int(tables.buckets[bucket]["base"]) - 1)
        found += [_Window(row, bucket, len(found) + k) for k, row in enumerate(rows)]
    return found


def _window_columns(state: State, windows: list[_Window]) -> Columns:
    rows = state.tables.windows[np.array([window.row for window in windows], np.int64)]
    return {
        "list": np.array([window.bucket for window in windows], np.int64),
        "start": rows["start"].copy(),
        "base": (rows["bucket"] >= layout.MAX_BUCKETS).astype(np.uint8),
        "sequence": rows["sequence"].copy(),
        "resend": rows["resend"].copy(),
        "late": rows["late"].copy(),
    }


def _all_records(
    state: State, windows: list[_Window], known: list[_Elements], over: Callable[[NDArray[Any], int, int], None]
) -> Iterator[Table]:
    """Records, the states and samples that go with them; then sources and versions."""
    done = 0
    for window in windows:
        elements = known[window.bucket]
        samples = (
            samples_of(state.tables, state.address, window.row) if state.tables.windows[window.row]["logged"] else None
        )
        first = 0
        for slots in _pieces(elements.slots):
            places, rows = np.empty(len(slots), np.int64), np.empty(len(slots), np.int64)
            n = int(kernels.find_records(state.address, window.row, slots, places, rows))
            of, at, rows = elements.numbers(first + places[:n]), slots[places[:n]], rows[:n]
            first += len(slots)
            if not n:
                continue
            columns = _record_columns(state, window, of, rows, at)
            if samples is not None:
                columns["samples"] = np.where(columns["samples"] > 0, samples.counts[at], 0)
            yield Table("records", columns)
            yield from _states(state, window, rows, at, done)
            if samples is not None and columns["samples"].any():
                numbers = np.empty(int(columns["samples"].sum()), np.float64)
                copy_slots(state.address, samples, at[columns["samples"] > 0], numbers)
                yield Table("samples", {"numbers": numbers})
            done += n
            if not state.tables.buckets[window.bucket]["stateful"]:
                pages = rows >> layout.PAGE_BITS
                # The last one, which need not be the highest, may go on in the next piece.
                for page in pages[:-1][pages[1:] != pages[:-1]].tolist():
                    table = state.tables.slim_records if page & layout.SLIM_PAGE else state.tables.records
                    first_row = (page & (layout.SLIM_PAGE - 1)) << layout.PAGE_BITS
                    over(table, first_row, first_row + layout.PAGE_ROWS)
    for window in windows:
        yield from _sources(state, window, known[window.bucket])
        yield from _versions(state, window, known[window.bucket])


def _record_columns(
    state: State, window: _Window, of: NDArray[np.int64], rows: NDArray[np.int64], slots: NDArray[np.int64]
) -> Columns:
    tables = state.tables
    table = np.empty(len(rows), layout.COUNTER_RECORD)
    kernels.read_records(state.address, window.row, slots, rows, table, table.view(layout.RECORD))
    specs = tables.elements_of(window.bucket)["spec"][slots]
    timers = tables.specs["metric_type"][specs] == MetricType.TIMER
    last = table["last"].copy()
    logged = timers & (tables.specs["flags"][specs] & layout.SPEC_LOG != 0)
    return {
        "window": np.full(len(rows), window.number, np.uint32),
        "element": of.astype(np.uint32),
        "last": np.where(timers, 0, last),
        **{name: table[name].copy() for name in _AS_THEY_ARE},
        "annotation": table["annotation"].astype(np.int64).astype(np.int32) - 1,
        "samples": np.where(logged, last, 0),
    }


def _words_of(state: State, specs: NDArray[Any]) -> NDArray[np.int64]:
    """How many numbers the state of elements of these specs has."""
    rows = state.tables.specs
    outputs, adds = rows["outputs"][specs].astype(np.int64), rows["adds"][specs].astype(np.int64)
    return np.where(rows["width"][specs] > 1, outputs + np.maximum(outputs, adds), 0)


def _states(
    state: State, window: _Window, rows: NDArray[np.int64], slots: NDArray[np.int64], done: int
) -> Iterator[Table]:
    tables = state.tables
    if not tables.buckets[window.bucket]["stateful"]:
        return
    counts = _words_of(state, tables.elements_of(window.bucket)["spec"][slots])
    chosen = np.flatnonzero(counts)
    if not len(chosen):
        return
    counts = counts[chosen]
    numbers = np.empty(int(counts.sum()), np.float64)
    kernels.read_words(state.address, rows[chosen], counts, numbers)
    marks = tables.records.view(layout.STATE)["marks"][rows[chosen] + 1]
    yield Table(
        "states",
        {"record": done + chosen, "marks": marks.copy(), "words": counts.astype(np.uint32), "numbers": numbers},
    )


def _sources(state: State, window: _Window, elements: _Elements) -> Iterator[Table]:
    row = state.tables.windows[window.row]
    at, size = int(row["sources_at"]), int(row["sources_size"])
    found = state.tables.sources[at : at + size]
    found = found[found["used"] != 0]
    if not len(found):
        return
    slots = (found["key"] >> np.uint64(32)).astype(np.uint32)
    place = np.minimum(np.searchsorted(elements.slots, slots), len(elements.slots) - 1)
    mine = elements.slots[place] == slots
    found, place = found[mine], place[mine]
    yield Table(
        "sources",
        {
            "window": np.full(len(found), window.number, np.uint32),
            "element": elements.numbers(place).astype(np.uint32),
            "source": (found["key"] & np.uint64(0xFFFFFFFF)).astype(np.uint32),
            "block": found["block"].copy(),
            "bits": found["bits"].copy(),
        },
    )


def _versions(state: State, window: _Window, elements: _Elements) -> Iterator[Table]:
    """Of each group one of its elements stands for it."""
    tables = state.tables
    if not tables.buckets[window.bucket]["stateful"]:
        return
    own = tables.elements_of(window.bucket)
    targeted = tables.specs["target"][own["spec"][elements.slots]] != 0
    slots, numbers = elements.slots[targeted], elements.numbers(np.flatnonzero(targeted))
    groups, first = np.unique(own.view(layout.MEMBER)["group"][slots + 1].astype(np.int64) - 1, return_index=True)
    pages = tables.page_table[window.row, groups >> layout.PAGE_BITS].astype(np.int64)
    rows = np.where(pages > 0, (pages - 1 << layout.PAGE_BITS) | (groups & (layout.PAGE_ROWS - 1)), 0)
    found = tables.records.view(layout.VERSIONS)[rows]
    counted = (pages > 0) & (found["flags"] & layout.GROUP_RECORD != 0)
    if not counted.any():
        return
    found = found[counted]
    yield Table(
        "versions",
        {
            "window": np.full(len(found), window.number, np.uint32),
            "element": numbers[first[counted]].astype(np.uint32),
            "term": found["term"].copy(),
            "flush": found["flush"].copy(),
            "sent": found["sent"].copy(),
        },
    )
