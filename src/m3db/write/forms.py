"""What a series is called in M3DB: series id, encoded tags and shard, made once for every series number.

From an id as aggregators have it to what is stored (docs/m3/coordinator.md, from message to series; docs/m3/m3db_wire.md, series): its tags
sorted by name, without the one that marks graphite ids, which makes the series id that of a path. ``tagOptions`` rename nothing here: M3DB
stores the names that ids have.
"""

import struct
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import mmh3
import numpy as np
from numpy.typing import NDArray

from m3db.write.form_kernels import (
    ENTRY,
    SCHEME_PREPEND_META,
    SCHEME_QUOTED,
    SIZE_FACTOR,
    SIZE_MORE,
    STATE_BAD,
    STATE_ODD,
    STATE_READY,
    fill,
)
from m3metrics.errors import IdError
from m3metrics.ids import ID_SCHEME_TAG, Tags, decode_tags, encode_tags
from m3metrics.series_ids import graphite_id, normalized_tags, prepend_meta_id, quoted_id, validate_tags
from m3x.reserve import reserve

__all__ = ["Form", "FormRules", "SeriesForms", "Table", "form_of", "why_bad"]

_GRAPHITE = b"graphite"
_RESERVED_BYTES = 8 << 30
"""Address space for forms: copying those of millions of series would stop the event loop."""
_LENGTH = struct.Struct(">I")
_RESERVED_NAME = b"_m3ninx_id"
_SHOWN = 64
"""Bytes of a tag that a message names."""
_ID_AT = 7
"""Where the series id stands in a form."""


@dataclass(frozen=True, slots=True)
class FormRules:
    """How ids become what is stored."""

    shards: int
    """Of the placement."""
    id_scheme: Literal["quoted", "prepend_meta"] = "quoted"
    hash_seed: int = 0
    """Of the placement: ``hashing.seed`` of the nodes."""
    allow_duplicates: bool = False
    allow_empty_values: bool = False
    keep_scheme: bool = False
    """Whether the tag that marks graphite ids is one like any other: for raw samples, whose clients may have sent it."""


@dataclass(frozen=True, slots=True)
class Form:
    """One series as it is stored."""

    id: bytes
    encoded_tags: bytes
    shard: int


class Table(Protocol):
    """Ids by series number; only grows."""

    def __len__(self) -> int: ...

    def ids(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """The bytes of all ids, and start and size of each."""

    def id(self, number: int) -> bytes:
        """The id of one series."""


def form_of(data: bytes, rules: FormRules) -> Form:
    """The plain way, which has the authority.

    Raises ``IdError`` for ids that M3 does not write, for what has no series id, which nodes would take and never find, and for tags that
    nodes do not index (docs/m3/m3db_wire.md, series): of those they say success, and forget them.
    """
    tags: Tags = decode_tags(data)
    graphite = not rules.keep_scheme and (ID_SCHEME_TAG, _GRAPHITE) in tags
    kept = [tag for tag in tags if rules.keep_scheme or tag[0] != ID_SCHEME_TAG]
    kept = normalized_tags(kept, graphite)
    validate_tags(kept, rules.allow_duplicates and not graphite, rules.allow_empty_values or graphite, graphite)
    for tag in kept:
        _check_indexed(*tag)
    made = graphite_id if graphite else quoted_id if rules.id_scheme == "quoted" else prepend_meta_id
    series_id = made(kept)
    if not series_id:
        raise IdError("the series id is empty")
    return Form(series_id, encode_tags(kept), mmh3.hash(series_id, rules.hash_seed, signed=False) % rules.shards)


def _check_indexed(name: bytes, value: bytes) -> None:
    if name == _RESERVED_NAME:
        raise IdError(f"unable to parse metric using reserved field name: {name.decode()}")
    for what, data in (("name", name), ("value", value)):
        try:
            data.decode()
        except UnicodeDecodeError:
            raise IdError(f"document has invalid non-UTF8 field {what}: {data[:_SHOWN].hex()}") from None


def why_bad(data: bytes, rules: FormRules) -> str:
    """What is wrong with an id that cannot be stored."""
    try:
        form_of(data, rules)
    except IdError as error:
        return str(error)
    return "its tags are too large"


class SeriesForms:
    """The forms of the series of one table. Only series that are asked for take memory, about two and a half times their ids.

    Does not refer to the table.
    """

    def __init__(self, rules: FormRules, reserved_bytes: int = _RESERVED_BYTES) -> None:
        self.rules = rules
        """How they are made."""
        self.entries = np.zeros(1 << 10, ENTRY)
        """By series number: for the encoder."""
        self.shards = np.zeros(1 << 10, np.uint32)
        """By series number, of those that were asked for and can be stored."""
        self.arena = _arena(reserved_bytes)
        self._used = 0
        self._any_bad = False
        self._marker = _array(b"" if rules.keep_scheme else encode_tags([(ID_SCHEME_TAG, _GRAPHITE)])[4:])

    @property
    def size_bytes(self) -> int:
        """Memory that is in use."""
        return self.entries.nbytes + self.shards.nbytes + self._used

    def require(self, table: Table, series: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Makes what is missing of these series of the table; returns the rows whose series cannot be stored, ascending."""
        series = np.require(series, np.uint32, ["C", "W"])
        if len(self.entries) < len(table):
            room = max(2 * len(self.entries), len(table))
            self.entries = _grown(self.entries, room)
            self.shards = _grown(self.shards, room)
        odd = self._fill(table, series)
        if odd:
            states = self.entries["state"]
            for number in np.unique(series[states[series] == STATE_ODD]).tolist():
                self._decide(table, number)
        if not odd and not self._any_bad:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.entries["state"][series] == STATE_BAD)

    def form(self, number: int) -> Form:
        """That of a series that ``require`` has made. Raises ``KeyError`` for one that it has not."""
        if number >= len(self.entries) or self.entries[number]["state"] != STATE_READY:
            raise KeyError(number)
        at = int(self.entries[number]["at"]) + _ID_AT
        size = self._length(at)
        tags_at = at + size + _ID_AT
        tags = self.arena[tags_at : tags_at + self._length(tags_at)].tobytes()
        return Form(self.arena[at : at + size].tobytes(), tags, int(self.shards[number]))

    def _length(self, at: int) -> int:
        """The length that stands before ``at``."""
        return int.from_bytes(self.arena[at - _LENGTH.size : at].tobytes(), "big")

    def _fill(self, table: Table, series: NDArray[np.uint32]) -> int:
        ids, at, size = table.ids()
        scheme = SCHEME_QUOTED if self.rules.id_scheme == "quoted" else SCHEME_PREPEND_META
        name_size = len(ID_SCHEME_TAG) if len(self._marker) else 0
        row = odd = 0
        while True:
            row, self._used, found = fill(
                series, row, ids, at, size, self.entries, self.shards, self.arena, self._used,
                self._marker, name_size, scheme, np.uint32(self.rules.hash_seed), np.uint32(self.rules.shards),
            )  # fmt: skip
            odd += int(found)
            if row == len(series):
                return odd
            self._grow(SIZE_FACTOR * int(size[series[row]]) + SIZE_MORE)

    def _decide(self, table: Table, number: int) -> None:
        """The plain way, for what the kernel found odd."""
        try:
            form = form_of(table.id(number), self.rules)
        except IdError:
            self.entries[number]["state"] = STATE_BAD
            self._any_bad = True
            return
        data = (
            b"\x0b\x00\x01" + _LENGTH.pack(len(form.id)) + form.id
            + b"\x0b\x00\x02" + _LENGTH.pack(len(form.encoded_tags)) + form.encoded_tags
            + b"\x0c\x00\x03\x0a\x00\x01"
        )  # fmt: skip
        if self._used + len(data) > len(self.arena):
            self._grow(len(data))
        self.arena[self._used : self._used + len(data)] = np.frombuffer(data, np.uint8)
        self.entries[number] = (self._used, len(data), STATE_READY)
        self.shards[number] = form.shard
        self._used += len(data)

    def _grow(self, least: int) -> None:
        grown = np.zeros(max(2 * len(self.arena), self._used + least), np.uint8)
        grown[: self._used] = self.arena[: self._used]
        self.arena = grown


def _arena(reserved_bytes: int) -> NDArray[np.uint8]:
    try:
        return reserve(reserved_bytes, np.uint8)
    except MemoryError:
        return np.zeros(1 << 16, np.uint8)


def _grown(array: NDArray[Any], rows: int) -> NDArray[Any]:
    grown = np.zeros(rows, array.dtype)
    grown[: len(array)] = array
    return grown


def _array(data: bytes) -> NDArray[np.uint8]:
    # Writable, and never of an empty buffer, which numpy does not take.
    return np.frombuffer(bytearray(data + b"\0"), np.uint8)[: len(data)]
