"""What a series is called in a store: the label fields of ``prompb.TimeSeries``, by series number.

From an id to labels (docs/m3/coordinator.md, from message to series): tags sorted by the bytes of their names, those that ``tagOptions``
renamed called ``__name__`` and ``le`` again, without the tag that marks graphite ids (raw samples keep it, as their client sent it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from coordinator.prompb import TIME_SERIES, Labels
from coordinator.sinks.prom_remote.label_kernels import (
    FORM,
    MOST_ORDERS,
    ORDER,
    PLACE_BAD,
    PLACE_KEPT,
    PLACE_NEW,
    PLACE_ODD,
    SIZE_FACTOR,
    WORD,
    fill,
    rows_with,
)
from coordinator.sinks.series import SeriesTable
from m3metrics.errors import IdError
from m3metrics.ids import ID_SCHEME_TAG, NAME_TAG, decode_tags
from m3metrics.series_ids import validate_tags
from m3x.protobuf import marshal

__all__ = ["LabelCache", "LabelFields", "LabelRules", "fields_of", "label_fields", "labels_of", "why_bad"]

_BUCKET_TAG = b"le"
_LONGEST_NAME = 32
"""Of a name of ``tagOptions`` that the kernel compares with; longer ones are left to the plain code."""


@dataclass(frozen=True, slots=True)
class LabelRules:
    """How tags become labels."""

    metric_name: bytes = NAME_TAG
    bucket_name: bytes = _BUCKET_TAG
    """``tagOptions``: what ``__name__`` and ``le`` are called in ids."""
    keep_scheme: bool = False
    """Whether the tag that marks graphite ids stays: for raw samples, whose clients may have sent it."""
    allow_duplicates: bool = False
    allow_empty_values: bool = False

    @property
    def renames(self) -> bool:
        """Whether there is anything to call otherwise."""
        return (self.metric_name, self.bucket_name) != (NAME_TAG, _BUCKET_TAG)


def labels_of(data: bytes, rules: LabelRules) -> Labels:
    """The labels of an id, sorted by name. Raises ``IdError`` for what M3 does not write."""
    tags = decode_tags(data)
    graphite = not rules.keep_scheme and (ID_SCHEME_TAG, b"graphite") in tags
    kept = sorted((tag for tag in tags if rules.keep_scheme or tag[0] != ID_SCHEME_TAG), key=itemgetter(0))
    validate_tags(kept, rules.allow_duplicates, rules.allow_empty_values or graphite)
    names = {rules.bucket_name: _BUCKET_TAG, rules.metric_name: NAME_TAG}
    return sorted(((names.get(name, name), value) for name, value in kept), key=itemgetter(0))


def label_fields(data: bytes, rules: LabelRules) -> bytes:
    """``labels_of`` as bytes: the label fields side by side. Raises ``IdError``."""
    return fields_of(labels_of(data, rules))


def why_bad(data: bytes, rules: LabelRules) -> str:
    """What is wrong with an id that cannot be stored."""
    try:
        labels_of(data, rules)
    except IdError as error:
        return str(error)
    return "its labels are too large"


def fields_of(labels: Labels) -> bytes:
    """The label fields of a ``TimeSeries``, side by side."""
    return marshal(TIME_SERIES, {"labels": [{"name": name, "value": value} for name, value in labels]})


class LabelFields:
    """The label fields of the series of one table; several sinks may share one. Only series that are asked for take memory: eight bytes
    where they are written from the tags of the id (``label_kernels``), else the label fields as well.

    Does not refer to the table, which ends when nothing else does.
    """

    def __init__(self, rules: LabelRules) -> None:
        self.rules = rules
        """How they are made."""
        self.forms = np.zeros(1 << 10, FORM)
        """By series number."""
        self.arena = np.zeros(1 << 12, np.uint8)
        """Those that are kept."""
        self.orders = np.zeros(MOST_ORDERS, ORDER)
        """The orders in which tags of ids become labels."""
        self._used = 0
        self._any_bad = False
        self._skipped = _array(b"" if rules.keep_scheme else ID_SCHEME_TAG)
        self._renamed, self._new_names = _records(rules)
        self._plain_only = rules.renames and max(len(rules.metric_name), len(rules.bucket_name)) > _LONGEST_NAME

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays."""
        return self.forms.nbytes + self.arena.nbytes

    @property
    def any_kept(self) -> bool:
        """Whether ``arena`` has any."""
        return self._used > 0

    def require(self, table: SeriesTable, series: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Makes what is missing of these series of the table; returns the rows whose series cannot be stored, ascending."""
        if len(self.forms) < len(table):
            grown = np.zeros(max(2 * len(self.forms), len(table)), FORM)
            grown[: len(self.forms)] = self.forms
            self.forms = grown
        odd = self._fill(table, series)
        if odd:
            places = self.forms["place"]
            for number in np.unique(series[places[series] == PLACE_ODD]).tolist():
                self._decide(table, number)
        if not odd and not self._any_bad:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.forms["place"][series] == PLACE_BAD)

    def rows_of(self, fields: bytes, table: SeriesTable, series: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Which of these series of the table, all of them usable, have just these label fields."""
        ids, at, _ = table.ids()
        found = np.empty(len(series), np.int64)
        wanted, room = _array(fields), np.empty(max(len(fields), 1), np.uint8)
        return found[: rows_with(wanted, series, self.forms, self.arena, self.orders, ids, at, room, found)]

    def _fill(self, table: SeriesTable, series: NDArray[np.uint32]) -> int:
        if self._plain_only:
            fresh = np.unique(series[self.forms["place"][series] == PLACE_NEW])
            self.forms["place"][fresh] = PLACE_ODD
            return len(fresh)
        ids, at, size = table.ids()
        row = odd = 0
        while True:
            row, self._used, found = fill(
                series, row, ids, at, size, self.forms, self.arena, self._used, self.orders,
                self._skipped, self._renamed, self._new_names,
            )  # fmt: skip
            odd += int(found)
            if row == len(series):
                return odd
            self._grow(SIZE_FACTOR * int(size[series[row]]) + WORD)

    def _decide(self, table: SeriesTable, number: int) -> None:
        """The plain way, for what the kernel found odd."""
        try:
            data = label_fields(table.id(number), self.rules)
        except IdError:
            self.forms[number]["place"] = PLACE_BAD
            self._any_bad = True
            return
        size = -(-len(data) // WORD) * WORD
        if self._used + size > len(self.arena):
            self._grow(size)
        self.arena[self._used : self._used + len(data)] = np.frombuffer(data, np.uint8)
        self.forms[number] = (len(data), PLACE_KEPT + self._used // WORD)
        self._used += size

    def _grow(self, least: int) -> None:
        grown = np.zeros(max(2 * len(self.arena), self._used + least), np.uint8)
        grown[: self._used] = self.arena[: self._used]
        self.arena = grown


class LabelCache:
    """``LabelFields`` of the tables in use, for all sinks with the same rules; they end with their table."""

    def __init__(self, rules: LabelRules) -> None:
        self._rules = rules
        self._known: WeakKeyDictionary[SeriesTable, LabelFields] = WeakKeyDictionary()

    def of(self, table: SeriesTable) -> LabelFields:
        """Those of a table."""
        found = self._known.get(table)
        if found is None:
            found = self._known[table] = LabelFields(self._rules)
        return found


def _records(rules: LabelRules) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """``renamed`` and ``new_names`` of the kernel; empty where nothing is renamed."""
    if not rules.renames:
        return _array(b""), _array(b"")
    return _record((rules.metric_name, rules.bucket_name)), _record((NAME_TAG, _BUCKET_TAG))


def _record(names: Sequence[bytes]) -> NDArray[np.uint8]:
    packed = b"".join(len(name).to_bytes(2, "little") + name[:_LONGEST_NAME].ljust(_LONGEST_NAME) for name in names)
    return _array(packed)


def _array(data: bytes) -> NDArray[np.uint8]:
    # Writable, and never of an empty buffer, which numpy does not take.
    return np.frombuffer(bytearray(data + b"\0"), np.uint8)[: len(data)]
