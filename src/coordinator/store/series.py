"""The series of the store: id bytes as they arrive → entry, and the labels of an entry.

A series is its tags, sorted by name. What arrives are encoded tags in an order of the sender's (docs/m3/coordinator.md, metric ids),
perhaps with bytes behind them (a suffix, which vanishes as in M3) and with the tag that says *graphite*. Every such form that was seen
is remembered, so that the next value of the series is found by its bytes alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from coordinator.store import series_kernels as kernels
from coordinator.store.labels import LabelIndex
from m3metrics.errors import IdError
from m3metrics.ids import ID_SCHEME_TAG, Tag, Tags, decode_tags, encode_tags, parse_tags
from m3metrics.series_ids import validate_tags
from m3x.byte_table import ByteTable

__all__ = ["SeriesIndex", "StoredForms", "series_tags", "stored_form", "stored_forms"]

_FORMS_PER_SERIES = 4
_FEWEST_FORMS = 1 << 16
_MAGIC = b"\x75\x27"
_RESERVED = (1 << 23, 2 << 30)
"""Address space for series and bytes of their ids: nothing is copied, and nothing of it is memory, until it is used."""


def series_tags(data: bytes, *, allow_duplicates: bool = False, allow_empty_value: bool = False) -> Tags:
    """The tags under which an id is stored, sorted by name, each name once and with a value. Raises ``IdError`` for what M3 refuses.

    docs/m3/coordinator.md, from message to series. Where options allow a name twice or a tag without a value, what is left is what
    Prometheus can have: a tag without a value is no tag, and of several with one name the first one stays.
    """
    tags = decode_tags(data)
    graphite = any(name == ID_SCHEME_TAG and value == b"graphite" for name, value in tags)
    kept = sorted((tag for tag in tags if tag[0] != ID_SCHEME_TAG), key=itemgetter(0))
    validate_tags(kept, allow_duplicates, allow_empty_value or graphite)
    labels: dict[bytes, bytes] = {}
    for name, value in kept:
        if value:
            labels.setdefault(name, value)
    if not labels:
        raise IdError("no tag has a value")
    return list(labels.items())


def stored_form(data: bytes, *, allow_duplicates: bool, allow_empty_value: bool) -> tuple[bytes, Tags]:
    """Encoded sorted tags, and the tags, of an id as it arrived. Raises ``IdError``; see ``series_tags``."""
    try:
        tags, pieces = _parse(data)
        names = [name for name, _ in tags]
        if (
            ID_SCHEME_TAG not in names
            and all(names)
            and all(value for _, value in tags)
            and len(set(names)) == len(names) > 0
        ):
            pieces.sort(key=itemgetter(0))
            tags.sort()
            return data[:4] + b"".join([piece for _, piece in pieces]), tags
    except (IndexError, ValueError):
        pass  # The careful way finds out what is wrong.
    tags = series_tags(data, allow_duplicates=allow_duplicates, allow_empty_value=allow_empty_value)
    return encode_tags(tags), tags


@dataclass(slots=True)
class StoredForms:
    """Stored forms of ids: ``buf[at[i]:at[i] + size[i]]``."""

    buf: NDArray[np.uint8]
    at: NDArray[np.int64]
    size: NDArray[np.int64]
    errors: dict[int, str] = field(default_factory=dict)
    """What is wrong with ids that have none, by row, ascending."""


def stored_forms(
    buf: NDArray[np.uint8],
    at: NDArray[np.int64],
    size: NDArray[np.int64],
    *,
    allow_duplicates: bool,
    allow_empty_value: bool,
) -> StoredForms:
    """``stored_form`` of many ids ``buf[at[i]:at[i] + size[i]]``."""
    n = len(at)
    out = np.empty(int(size.sum()), np.uint8)
    forms = StoredForms(out, np.empty(n, np.int64), np.empty(n, np.int64))
    status = np.empty(n, np.uint8)
    if not kernels.stored_forms(buf, at, size, out, forms.at, forms.size, status):
        return forms
    more = bytearray()
    for row in np.flatnonzero(status == kernels.FORM_ODD).tolist():
        data = buf[at[row] : at[row] + size[row]].tobytes()
        try:
            form, _ = stored_form(data, allow_duplicates=allow_duplicates, allow_empty_value=allow_empty_value)
        except IdError as error:
            forms.errors[row] = str(error)
            continue
        forms.at[row], forms.size[row] = len(out) + len(more), len(form)
        more += form
    forms.buf = np.concatenate([out, np.frombuffer(more, np.uint8)])
    return forms


def _parse(data: bytes) -> tuple[Tags, list[Tag]]:
    """Tags in their order, and each name with the encoded tag as a whole. Quick, for sound ids: others are an error or not seen through."""
    tags: Tags = []
    pieces: list[Tag] = []
    if data[:2] != _MAGIC:
        raise ValueError("no encoded tags")
    at = 4
    for _ in range(data[2] | data[3] << 8):
        start = at
        size = data[at] | data[at + 1] << 8
        at += 2 + size
        name = data[at - size : at]
        size = data[at] | data[at + 1] << 8
        at += 2 + size
        tags.append((name, data[at - size : at]))
        pieces.append((name, data[start:at]))
    if at > len(data):
        raise ValueError("truncated tags")
    return tags, pieces


class SeriesIndex:
    """Entries are 0, 1, 2 …; numbers are those of the database, ascending with the entries.

    One thread adds; ``labels``, ``tags``, ``ids`` and ``numbers`` may be asked by others at the same time.
    """

    def __init__(self) -> None:
        self.labels = LabelIndex(self.ids)
        self._count = 0
        self._series = ByteTable(_RESERVED)
        self._forms = ByteTable(_RESERVED)
        self._numbers = np.zeros(256, np.uint32)
        self._seen_s = np.zeros(256, np.int64)

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """Memory of the tables."""
        arrays = self._numbers.nbytes + self._seen_s.nbytes
        return self._series.size_bytes + self._forms.size_bytes + self.labels.size_bytes + arrays

    def load(self, series_ids: Sequence[bytes], numbers: Sequence[int] | NDArray[np.uint32], now_s: int) -> None:
        """Adds series that are not there yet, by their encoded sorted tags."""
        self._series.add(series_ids, range(len(self), len(self) + len(series_ids)))
        self._added(numbers, now_s)

    def enter(
        self, forms: StoredForms, rows: NDArray[np.int64], most: int, first_number: int, now_s: int
    ) -> NDArray[np.int64]:
        """Entries of those ``rows`` of stored forms, -1 where ``most`` series are there.

        New ones get numbers from ``first_number`` on.
        """
        entries = self._series.number(forms.buf, forms.at[rows], forms.size[rows], limit=most)
        self._added(range(first_number, first_number + len(self._series) - len(self)), now_s)
        return entries

    def _added(self, numbers: Sequence[int] | NDArray[np.uint32], now_s: int) -> None:
        first, last = len(self), len(self) + len(numbers)
        if last > len(self._numbers):
            more = max(len(self._numbers), last - first)
            self._numbers = np.concatenate([self._numbers, np.zeros(more, np.uint32)])
            self._seen_s = np.concatenate([self._seen_s, np.zeros(more, np.int64)])
        self._numbers[first:last] = numbers
        self._seen_s[first:last] = now_s
        # Last: other threads look at complete series only.
        self._count = last

    def find(
        self, buf: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], int]:
        """Entries by the bytes that arrived, -1 where those bytes are new, and how many are new."""
        return self._forms.find(buf, at, size)

    def remember(
        self, buf: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64], entries: NDArray[np.int64]
    ) -> None:
        """New forms to write series; all are forgotten when there are far more of them than series."""
        if len(self._forms) + len(at) > max(_FEWEST_FORMS, _FORMS_PER_SERIES * len(self)):
            self._forms = ByteTable(_RESERVED)
        self._forms.number(buf, at, size, entries)

    def numbers(self, entries: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Numbers in the database."""
        return self._numbers[entries]

    def seen(self, entries: NDArray[np.int64], now_s: int) -> None:
        """A value of each of them was written now."""
        self._seen_s[entries] = now_s

    def unseen_since(self, before_s: int) -> NDArray[np.int64]:
        """Entries without a write at or after ``before_s``."""
        return np.flatnonzero(self._seen_s[: len(self)] < before_s)

    def without(self, entries: NDArray[np.int64]) -> "SeriesIndex":
        """A new index without those; it begins with no forms."""
        kept = SeriesIndex()
        stay = np.setdiff1d(np.arange(len(self)), entries, assume_unique=True)
        kept.load(self._ids_of(stay), self._numbers[stay], 0)
        kept._seen_s[: len(stay)] = self._seen_s[stay]
        return kept

    def tags(self, entry: int) -> Tags:
        """Name and value of each tag, sorted by name."""
        return parse_tags(self._series.key(entry))

    def ids(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Arena of all encoded tag sets, and start and size by entry."""
        count = len(self)
        arena, at, size = self._series.ranges()
        return arena, at[:count], size[:count]

    def new_ids(self, first: int, last: int) -> tuple[NDArray[np.uint32], list[bytes]]:
        """Numbers and encoded tags of entries ``[first, last)``."""
        return self._numbers[first:last], self._ids_of(np.arange(first, last))

    def _ids_of(self, entries: NDArray[np.int64]) -> list[bytes]:
        arena, at, size = self.ids()
        begin, text = at[entries], arena.data
        ends = begin + size[entries]
        return [text[a:b].tobytes() for a, b in zip(begin.tolist(), ends.tolist(), strict=True)]
