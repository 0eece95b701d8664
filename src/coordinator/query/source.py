"""What queries are answered from: one interface for every kind of store, and the columns in which it answers.

A source is asked with label matchers and a range of time in ms, both ends of which belong to it. It raises ``QueryError`` for what it
cannot answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.matchers import Matcher
from coordinator.query.errors import QueryError
from m3metrics.ids import Tags, parse_tags
from m3metrics.policy import StoragePolicy

__all__ = [
    "EARLIEST_MS",
    "LATEST_MS",
    "NO_NOTES",
    "Alternatives",
    "Listing",
    "Notes",
    "ReadOptions",
    "Restriction",
    "Selection",
    "Series",
    "Source",
    "beyond_docs_limit",
]

EARLIEST_MS, LATEST_MS = 0, ((1 << 63) - 1) // 1_000_000
"""Both ends of a range that says neither."""

Alternatives = Sequence[Sequence[Matcher]]
"""Series that satisfy all matchers of one of them are meant; without any, all series."""


class Restriction(msgspec.Struct, frozen=True):
    """To which part of storage a query is restricted; None says nothing (docs/m3/coordinator.md, query headers)."""

    aggregated: bool | None = None
    policy: StoragePolicy | None = None


class ReadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says beside matchers and times."""

    restriction: Restriction = Restriction()
    series_limit: int = 0
    """Series that may match, in each part of storage; 0: any number. As the range, for sources that are not ours to bound."""
    docs_limit: int = 0
    """Entries of the index that may match."""
    range_limit_ns: int = 0
    """How long the range may be."""
    require_exhaustive: bool = True
    """Whether a query beyond a limit is refused, or answered in part."""
    timeout_s: float = 30.0
    paths: bool = False
    """Whether Graphite's paths are asked for: what never holds any may be left out."""


def beyond_docs_limit(matched: int, options: ReadOptions) -> bool:
    """Whether more entries of an index match than may, and some are to be left out. Raises ``QueryError`` where none may be."""
    limit = options.docs_limit
    if not 0 < limit < matched:
        return False
    if options.require_exhaustive:
        raise QueryError(
            f"query exceeded limit: require_exhaustive=true, docs_limit={limit}, docs_matched={matched}",
            kind="execution",
        )
    return True


class Notes(msgspec.Struct, frozen=True):
    """What is to be said of an answer."""

    limited: bool = False
    """Whether a limit was reached, so that something is missing."""
    warnings: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    """Names of the parts of storage that were asked, sorted; empty: there are none to tell apart."""

    def joined(self, other: "Notes") -> "Notes":
        """Those of an answer that is made of two."""
        return Notes(
            self.limited or other.limited,
            tuple(dict.fromkeys(self.warnings + other.warnings)),
            tuple(sorted({*self.places, *other.places})),
        )


NO_NOTES = Notes()


@dataclass(slots=True)
class Listing:
    """Names or values of labels, sorted."""

    texts: list[bytes]
    notes: Notes = NO_NOTES


@dataclass(slots=True)
class Series:
    """Series: the encoded tags of series ``i`` are ``arena[at[i]:at[i] + size[i]]``: sorted by name, each name once, none without value."""

    arena: NDArray[np.uint8]
    at: NDArray[np.int64]
    size: NDArray[np.int64]
    notes: Notes = NO_NOTES

    def __len__(self) -> int:
        return len(self.at)

    def tags(self, i: int) -> Tags:
        """Name and value of each tag of series ``i``, sorted by name."""
        at = int(self.at[i])
        return parse_tags(self.arena[at : at + int(self.size[i])].tobytes())


@dataclass(slots=True)
class Selection:
    """Series with their points: those of series ``i`` are ``[offsets[i], offsets[i + 1])``, ascending in time, at least one."""

    series: Series
    windows_ms: NDArray[np.int64]
    """Resolution at which each series was read; 0: as its points came."""
    offsets: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    bits: NDArray[np.uint64]
    """IEEE-754 patterns of the values."""

    @property
    def notes(self) -> Notes:
        """What is to be said of the answer."""
        return self.series.notes

    def __len__(self) -> int:
        return len(self.series)

    @property
    def values(self) -> NDArray[np.float64]:
        """The values of all points."""
        return self.bits.view(np.float64)

    def tags(self, i: int) -> Tags:
        """Tags of series ``i``, sorted by name."""
        return self.series.tags(i)

    def order_by_labels(self) -> list[int]:
        """The series sorted by their labels, as Prometheus does."""
        return sorted(range(len(self)), key=self.tags)


class Source(Protocol):
    """A store that can be read. The methods belong to the event loop that owns it, and raise ``QueryError``."""

    @property
    def lists_cheaply(self) -> bool:
        """Whether ``series`` costs no more than ``label_values``."""

    @property
    def knows_ids(self) -> bool:
        """Whether the ids of series can be matched, as if they were a label (``graphite.paths.ID_TAG``)."""

    def oldest_ms(self, resolution_ms: int) -> int:
        """From when on points of that resolution are kept."""

    async def select(
        self, matchers: Sequence[Matcher], start_ms: int, end_ms: int, options: ReadOptions, *, lookback_ms: int = 0
    ) -> Selection:
        """Points of the series that satisfy all ``matchers``, with start ≤ time ≤ end.

        With a look-back, points up to that much before ``start_ms`` come as well (at least the resolution of what is read).
        """

    async def label_names(
        self, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions
    ) -> Listing:
        """Names of labels of the series that have a point in the range, as far as the store knows times: M3DB does by block."""

    async def label_values(
        self, name: bytes, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions
    ) -> Listing:
        """Values of one label, of the same series."""

    async def series(self, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions) -> Series:
        """The same series without their points, in no order, each once."""
