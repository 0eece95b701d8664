"""Fills an engine with what another one was: adds to what is there, so that several snapshots of different shards make one state."""

from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.engine.ingest.metadata import Key
from aggregator.engine.snapshot import rows as kernels
from aggregator.engine.snapshot.state import State, Table
from aggregator.engine.state.state import base_record
from aggregator.engine.tables import layout
from aggregator.engine.windows.annotations import annotation_row
from aggregator.engine.windows.pages import find_window
from aggregator.lists import ListId
from m3metrics.codec import decode_forward_metadata

__all__ = ["Loader"]

Columns = dict[str, NDArray[Any]]
_NONE = np.zeros(0, np.int64)


class _Rows:
    """Numbers that come in pieces."""

    def __init__(self) -> None:
        self._room = np.empty(1 << 10, np.int64)
        self._count = 0

    def add(self, piece: NDArray[Any]) -> None:
        """The next ones."""
        count = self._count + len(piece)
        if count > len(self._room):
            room = np.empty(2 * count, np.int64)
            room[: self._count] = self.all
            self._room = room
        self._room[self._count : count] = piece
        self._count = count

    @property
    def all(self) -> NDArray[np.int64]:
        """All so far; good until the next ones come."""
        return self._room[: self._count]


class Loader:
    """Takes the tables of a snapshot one after the other, in their order; then ``finish``.

    All raise ``ValueError`` for what this engine cannot hold.
    """

    def __init__(self, state: State, numbers: NDArray[np.uint32]) -> None:
        """``numbers``: rows of entries + 1 by their number in the journal, filled here."""
        self._state = state
        self._numbers = numbers
        self._buckets = _NONE
        self._metas: list[tuple[int, int]] = []
        """First stage, and how many."""
        self._specs = _NONE
        self._keys: list[Key] = []
        self._annotations = np.zeros(1, np.int64)
        self._entries = _Rows()
        self._refs = _Rows()
        self._entry_of = _Rows()
        self._chain = _Rows()
        self._windows = _NONE
        self._records = _Rows()
        self._waiting: tuple[NDArray[np.int64], ...] | None = None
        """Windows, elements, rows and counts of records whose samples come next."""

    def take(self, table: Table) -> None:
        """The next piece; tables that are not known are left out."""
        if (take := _TAKE.get(table.name)) is not None:
            take(self, table.columns)

    def _lists(self, c: Columns) -> None:
        tables, metadata = self._state.tables, self._state.metadata
        ids = zip(c["kind"].tolist(), c["resolution"].tolist(), c["times"].tolist(), strict=True)
        self._buckets = np.array([metadata.make_bucket(ListId(*found)) for found in ids], np.int64)
        for name in ("made", "sequence", "resent", "closed_max"):
            column = tables.buckets[name]
            column[self._buckets] = np.maximum(column[self._buckets], c[name])

    def _shards(self, c: Columns) -> None:
        rows = self._state.tables.shards
        rows["owned"][c["id"]] = 1
        for name in ("earliest", "latest", "first_insert", "rate_second", "rate_count"):
            rows[name][c["id"]] = c[name]

    def _list_shards(self, c: Columns) -> None:
        tables = self._state.tables
        where = self._buckets[c["list"]], c["shard"]
        tables.list_born[where] = c["born"]
        tables.closed_through[where] = c["closed"]
        tables.emitted_through[where] = c["emitted"]
        self._state.committed[where] = c["committed"]
        tables.head["new_lists"] += len(c["list"])

    def _take_metas(self, c: Columns) -> None:
        metas = self._state.tables.metas
        data = c["bytes"].tobytes()
        for at, size, payload, kind in _pieces(c, "payload", "metric_type"):
            row = self._state.metadata.intern(data[at : at + size], payload, kind)
            _check(row >= 0, "metadatas")
            self._metas.append((int(metas[row]["first_stage"]), int(metas[row]["stages"])))

    def _take_specs(self, c: Columns) -> None:
        data = c["bytes"].tobytes()
        specs = []
        kinds = self._state.tables.buckets["kind"]
        for at, size, bucket, metric_type, plain, state in _pieces(c, "list", "metric_type", "plain", "state"):
            found = decode_forward_metadata(data[at : at + size])
            key = Key(
                found.aggregation_id, found.storage_policy, int(kinds[self._buckets[bucket]]), bool(plain), metric_type,
                found.pipeline, found.num_forwarded_times,
            )  # fmt: skip
            self._keys.append(key)
            specs.append(self._state.metadata.spec_of(key, bool(state)))
        self._specs = np.array(specs, np.int64)

    def _take_annotations(self, c: Columns) -> None:
        data = np.array(c["bytes"])
        rows = [annotation_row(self._state.address, data, at, size) for at, size in _pieces(c)]
        self._annotations = np.array([*rows, 0], np.int64)

    def _take_entries(self, c: Columns) -> None:
        tables = self._state.tables
        while int(tables.head["live"]) + len(c["size"]) >= int(tables.head["index_limit"]):
            self._state.grow_index()
        rows = np.zeros(len(c["size"]), np.int64)
        made = kernels.make_entries(
            self._state.address,
            np.array(c["bytes"]),
            c["size"],
            c["category"],
            c["metric_type"],
            c["shard"],
            c["live"],
            rows,
        )
        _check(made, "series")
        entries = tables.entries
        for name in ("last_access", "cutover", "rate_second", "rate_count"):
            entries[name][rows] = c[name]
        first = np.array([first for first, _ in self._metas] + [0], np.int64)
        entries["stage"][rows] = np.where(c["meta"] >= 0, first[c["meta"]] + c["stage"] + 1, 0)
        self._numbers[np.minimum(c["number"], len(self._numbers) - 1)] = rows + 1
        self._entries.add(rows)

    def _take_elements(self, c: Columns) -> None:
        metadata = self._state.metadata
        spec = self._specs[c["spec"]]
        # Few kinds, in nearly all cases without traffic types: no sorting.
        if len(spec) and (c["traffic"] == c["traffic"][0]).all():
            traffics, which = c["traffic"][:1], np.zeros(len(spec), np.intp)
        else:
            traffics, which = np.unique(c["traffic"], return_inverse=True)
        kinds = (c["spec"].astype(np.int64) * len(traffics) + which) * 2 + (c["resend"] != 0)
        attrs_of = np.zeros(int(kinds.max(initial=0)) + 1, np.int64)
        for kind in np.flatnonzero(np.bincount(kinds)).tolist():
            number, traffic = divmod(kind // 2, len(traffics))
            key = self._keys[number]
            attrs_of[kind] = metadata.attrs_of(key.policy, int(traffics[traffic]), bool(kind % 2))
        attrs = attrs_of[kinds]
        entry = self._entries.all[c["entry"]]
        refs = np.zeros(len(entry), np.int64)
        made = kernels.make_elements(
            self._state.address, entry, spec, attrs, c["state"], c["newest"], c["gone"], c["term"], refs
        )
        _check(made, "elements")
        self._refs.add(refs)
        self._entry_of.add(entry)
        self._chain.add(c["chain"])

    def _take_windows(self, c: Columns) -> None:
        self._link()
        tables, t = self._state.tables, self._state.address
        buckets = self._buckets[c["list"]]
        rows = []
        for k, (bucket, start, base) in enumerate(
            zip(buckets.tolist(), c["start"].tolist(), c["base"].tolist(), strict=True)
        ):
            if base:
                base_record(t, bucket, 0, True)
                rows.append(int(tables.buckets[bucket]["base"]) - 1)
                continue
            row = int(find_window(t, bucket, start, True))
            _check(row >= 0, "windows")
            rows.append(row)
            window = tables.windows[row]
            window["sequence"] = c["sequence"][k]
            window["resend"] |= c["resend"][k]
            window["late"] += c["late"][k]
        for bucket in np.unique(buckets).tolist():
            saved = c["sequence"][buckets == bucket].max(initial=0)
            row = tables.buckets[bucket]
            row["sequence"] = max(int(row["sequence"]), int(saved))
        self._windows = np.array(rows, np.int64)

    def _link(self) -> None:
        """Elements are complete: puts the live ones into the chains of their entries."""
        chain, entry_of = self._chain.all, self._entry_of.all
        live = np.flatnonzero(chain >= 0)
        order = live[np.lexsort((chain[live], entry_of[live]))]
        kernels.link_chains(self._state.address, self._refs.all[order], entry_of[order])

    def _take_records(self, c: Columns) -> None:
        table = np.zeros(len(c["element"]), layout.RECORD)
        for name in ("last", "sum", "sum_sq", "min", "max"):
            table[name] = c[name].astype(np.int64).view(np.float64)
        for name in ("last_at", "count", "call", "flags"):
            table[name] = c[name]
        table["annotation"] = self._annotations[c["annotation"]]
        windows, refs = self._windows[c["window"]], self._refs.all[c["element"]]
        rows = np.zeros(len(refs), np.int64)
        made = kernels.make_records(self._state.address, windows, refs, table, table.view(layout.COUNTER_RECORD), rows)
        _check(made, "windows")
        self._records.add(rows)
        self._waiting = (windows, refs, rows, c["samples"].astype(np.int64))

    def _take_states(self, c: Columns) -> None:
        rows = self._records.all[c["record"]]
        kernels.make_states(self._state.address, rows, c["marks"], c["words"], np.array(c["numbers"]))

    def _take_samples(self, c: Columns) -> None:
        if self._waiting is None:
            raise ValueError("samples without the records before them")
        windows, refs, rows, counts = self._waiting
        kernels.make_samples(self._state.address, windows, refs, rows, counts, np.array(c["numbers"]))

    def _take_sources(self, c: Columns) -> None:
        windows, refs = self._windows[c["window"]], self._refs.all[c["element"]]
        _check(kernels.make_sources(self._state.address, windows, refs, c["source"], c["block"], c["bits"]), "sources")

    def _take_versions(self, c: Columns) -> None:
        windows, refs = self._windows[c["window"]], self._refs.all[c["element"]]
        _check(kernels.make_versions(self._state.address, windows, refs, c["term"], c["flush"], c["sent"]), "windows")


_TAKE = {
    "lists": Loader._lists, "shards": Loader._shards, "list_shards": Loader._list_shards, "metas": Loader._take_metas,
    "specs": Loader._take_specs, "annotations": Loader._take_annotations, "entries": Loader._take_entries,
    "elements": Loader._take_elements, "windows": Loader._take_windows, "records": Loader._take_records,
    "states": Loader._take_states, "samples": Loader._take_samples, "sources": Loader._take_sources,
    "versions": Loader._take_versions,
}  # fmt: skip
"""By table. A loader does not hold these itself: it has columns of all records, and is to go as soon as nobody needs it."""


def _pieces(c: Columns, *names: str) -> list[tuple[int, ...]]:
    """``(at, size, …)`` of each byte string, with other columns."""
    sizes = c["size"].tolist()
    starts = list(accumulate(sizes, initial=0))[:-1]
    return list(zip(starts, sizes, *(c[name].tolist() for name in names), strict=True))


def _check(made: bool, what: str) -> None:
    if not made:
        raise ValueError(f"a snapshot with more {what} than there is room for")
