"""The series of the store: id bytes as they arrive → entry, and the labels of an entry.

A series is its tags, sorted by name. What arrives are encoded tags in an order of the sender's (reference/coordinator.md §2), perhaps
with bytes behind them (a suffix, which vanishes as in M3) and with the tag that says *graphite*. Every such form that was seen is
remembered, so that the next value of the series is found by its bytes alone.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from coordinator.store.id_table import IdTable
from coordinator.store.labels import LabelIndex
from m3metrics.ids import ID_SCHEME_TAG, Tags, decode_tags
from m3metrics.series_ids import validate_tags

__all__ = ["SeriesIndex", "series_tags"]

_FORMS_PER_SERIES = 4
_FEWEST_FORMS = 1 << 16


def series_tags(data: bytes, *, allow_duplicates: bool = False, allow_empty_value: bool = False) -> Tags:
    """The tags under which an id is stored, sorted by name. Raises ``IdError`` for what M3 refuses (reference/coordinator.md §11.3)."""
    tags = decode_tags(data)
    graphite = any(name == ID_SCHEME_TAG and value == b"graphite" for name, value in tags)
    kept = sorted((tag for tag in tags if tag[0] != ID_SCHEME_TAG), key=lambda tag: tag[0])
    validate_tags(kept, allow_duplicates, allow_empty_value or graphite)
    return kept


class SeriesIndex:
    """Entries are 0, 1, 2 …; numbers are those of the database, ascending with the entries."""

    def __init__(self) -> None:
        self.labels = LabelIndex()
        self._series = IdTable()
        self._forms = IdTable()
        self._numbers = np.zeros(256, np.uint32)
        self._seen_s = np.zeros(256, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size_bytes(self) -> int:
        """Memory of the id tables, labels not counted."""
        return self._series.size_bytes + self._forms.size_bytes + self._numbers.nbytes + self._seen_s.nbytes

    def add(self, series_id: bytes, number: int, now_s: int, tags: Tags | None = None) -> int:
        """Adds a series that is not there yet by its encoded sorted tags; returns its entry."""
        entry = len(self)
        if entry == len(self._numbers):
            self._numbers = np.concatenate([self._numbers, np.zeros_like(self._numbers)])
            self._seen_s = np.concatenate([self._seen_s, np.zeros_like(self._seen_s)])
        self._numbers[entry] = number
        self._seen_s[entry] = now_s
        self._series.add(series_id, entry)
        return self.labels.add(decode_tags(series_id) if tags is None else tags)

    def find(
        self, buf: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], int]:
        """Entries by the bytes that arrived, -1 where those bytes are new, and how many are new."""
        return self._forms.find(buf, at, size)

    def entry_of(self, series_id: bytes) -> int:
        """Entry of encoded sorted tags, or -1."""
        return self._series.get(series_id)

    def remember(self, form: bytes, entry: int) -> None:
        """``form`` is another way to write the series; all forms are forgotten when there are far more of them than series."""
        if len(self._forms) >= max(_FEWEST_FORMS, _FORMS_PER_SERIES * len(self)):
            self._forms = IdTable()
        if self._forms.get(form) < 0:
            self._forms.add(form, entry)

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
        gone = set(entries.tolist())
        for entry in range(len(self)):
            if entry not in gone:
                kept.add(self._series.key(entry), int(self._numbers[entry]), int(self._seen_s[entry]))
        return kept

    def tags(self, entry: int) -> Tags:
        """Name and value of each tag, sorted by name."""
        return decode_tags(self._series.key(entry))

    def ids(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Arena of all encoded tag sets, and start and size by entry."""
        return self._series.ranges()

    def new_ids(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """Number and encoded tags of entries ``[first, last)``."""
        for entry in range(first, last):
            yield int(self._numbers[entry]), self._series.key(entry)
