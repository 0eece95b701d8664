"""The series the write path has met: key bytes → what is sent of them, so that a repeated series costs no Python.

Two generations of fixed size. Everything is looked up in the current one; what is only in the old one is copied over; when the
current one is full it becomes the old one and the former old one is forgotten, the series longest not seen with it. Memory is
reserved, not touched, until it is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.downsample import TemplateSpec
from coordinator.not_kept import Reason
from coordinator.write import kernels
from coordinator.write.interest import Interest
from m3metrics.rows import METRIC_TEMPLATE
from m3x.byte_table import place
from m3x.reserve import release, reserve
from m3x.table_kernels import Keys

_METADATA_BYTES = kernels.SHARED_BYTES
_MAX_LABELS = 256
_UNBOUNDED = 1 << 62
_NO_INTEREST = Interest.none()
_MAX_KNOWN_METADATAS = 4096
"""Staged metadatas of one generation that are looked for before they are stored again."""


class SeriesTooLargeError(ValueError):
    """One series needs more room than the cache has altogether."""


class TooManyMetadatasError(RuntimeError):
    """More different staged metadatas than the cache has room for."""


_Seen = dict[tuple[bytes, int], tuple[int, int]]
"""Key and context → templates."""


# By name, since functions that are made for every request would build these types anew each time.
Prepared = Sequence[TemplateSpec] | Reason | None
"""What to send for a series, or why nothing; None: nothing, and do not remember it (it is not valid)."""
RowNumbers = NDArray[np.int64]


class Maker(Protocol):
    """Prepares a series that the cache does not know."""

    def __call__(self, row: int) -> Prepared:
        """What becomes of series ``row``."""


class _Generation:
    """The arrays of one generation; layouts in ``kernels``."""

    def __init__(self, max_series: int, max_bytes: int) -> None:
        self.slots = reserve(1 << (max_series * 2 - 1).bit_length(), np.uint64)
        self.entries = reserve(max_series, kernels.ENTRY)
        self.templates = reserve(max_series * 2, METRIC_TEMPLATE)
        self.hashes = reserve(max_series * 2, np.uint32)
        self.arena: NDArray[np.uint8] = reserve(max_bytes, np.uint8)
        head = np.zeros(1, kernels.GENERATION)
        self.address = place(head, self.slots, self.entries, self.arena)
        """What kernels call a generation."""
        head["templates"], head["hashes"] = self.templates.ctypes.data, self.hashes.ctypes.data
        head["max_entries"], head["max_templates"] = len(self.entries), len(self.templates)
        head["arena_bytes"] = len(self.arena)
        # Columns of the one row, so that they can be set.
        self.count, self.template_count, self.used = head["count"], head["template_count"], head["used"]
        self.used[0] = _METADATA_BYTES
        self.metadatas: dict[bytes, tuple[int, int]] = {}
        """Where staged metadatas are that did not find room among the shared ones."""

    def clear(self) -> None:
        """Forgets everything and gives the memory back, except for the staged metadatas."""
        # A power of two of 8-byte words, at least 8 KiB: whole pages, which read as zero afterwards.
        release(self.slots, 0, len(self.slots))
        release(self.arena, _METADATA_BYTES, len(self.arena))
        self.count[0] = self.template_count[0] = 0
        self.used[0] = _METADATA_BYTES
        self.metadatas.clear()

    def has_room(self, templates: int, nbytes: int) -> bool:
        """Whether one more series with so many templates and bytes fits into it."""
        return bool(
            self.count[0] < len(self.entries)
            and self.template_count[0] + templates <= len(self.templates)
            and self.used[0] + nbytes <= len(self.arena)
        )


@dataclass(slots=True)
class _Call:
    """What one ``resolve`` was asked, and its answer."""

    keys: Keys
    make: Maker
    plain: bytes | None
    plain_rows: NDArray[np.bool_] | None
    check: Callable[[RowNumbers], None] | None
    interest: Interest
    largest: int
    first: NDArray[np.int64]
    count: NDArray[np.int64]


class SeriesCache:
    """Keys are byte ranges of a buffer plus a 64-bit context; see the module for what is remembered how long.

    ``max_series`` and ``max_bytes`` bound both generations together.
    """

    def __init__(self, max_series: int, max_bytes: int) -> None:
        series, size = max(max_series // 2, 512), max(max_bytes // 2, 4 * _METADATA_BYTES)
        self._current = _Generation(series, min(size, 0xFFFF_0000))
        self._old = _Generation(series, min(size, 0xFFFF_0000))
        self._metadatas: dict[bytes, tuple[int, int]] = {}
        self._metadata_end = 0
        self._spans = np.zeros((_MAX_LABELS, 4), np.int64)
        self._generation = 0
        self.any_untimed = False
        """Whether any template may be untimed."""
        self.built = 0
        """Series prepared since the start."""
        self.rotations = 0

    @property
    def max_rows(self) -> int:
        """Rows that one ``resolve`` may have."""
        return min(8192, len(self._current.entries) // 2)

    @property
    def max_key_bytes(self) -> int:
        """Key bytes that the rows of one ``resolve`` may have together."""
        return (len(self._current.arena) - _METADATA_BYTES) // 4

    @property
    def series(self) -> int:
        """Series remembered, those in both generations counted twice."""
        return int(self._current.count[0] + self._old.count[0])

    @property
    def templates(self) -> NDArray[Any]:
        """``METRIC_TEMPLATE`` rows that ``resolve`` refers to; valid until the next ``resolve``."""
        return self._current.templates

    @property
    def hashes(self) -> NDArray[np.uint32]:
        """murmur3-32 of the id of each template."""
        return self._current.hashes

    @property
    def arena(self) -> NDArray[np.uint8]:
        """The bytes that the templates refer to."""
        return self._current.arena

    def expect(self, generation: int) -> None:
        """Forgets all series if what they map to has changed since, which another number says."""
        if generation == self._generation:
            return
        self._generation = generation
        for one in (self._current, self._old):
            one.clear()
        self._metadatas.clear()
        self._metadata_end = 0
        self.any_untimed = False

    def metadata_range(self, metadatas: bytes) -> tuple[int, int]:
        """Where in every arena these staged metadatas are: start and size."""
        found = self._metadatas.get(metadatas)
        if found is None:
            end = self._metadata_end + len(metadatas)
            if end > _METADATA_BYTES:
                raise TooManyMetadatasError(f"staged metadatas need more than {_METADATA_BYTES} bytes together")
            found = (self._metadata_end, len(metadatas))
            for generation in (self._current, self._old):
                generation.arena[self._metadata_end : end] = np.frombuffer(metadatas, np.uint8)
            self._metadata_end = end
            self._metadatas[metadatas] = found
        return found

    def resolve(
        self,
        buf: NDArray[np.uint8],
        key_at: NDArray[np.uint32],
        key_size: NDArray[np.uint32],
        contexts: NDArray[np.uint64],
        make: Maker,
        plain: bytes | None = None,
        plain_rows: NDArray[np.bool_] | None = None,
        check: Callable[[RowNumbers], None] | None = None,
        interest: Interest | None = None,
        largest: int = _UNBOUNDED,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The template range of every row: ``(first, count)``; count 0: nothing is sent, and ``first`` is the code of the ``Reason``, or
        0 where ``make`` gave none.

        At most ``max_rows`` rows, their keys at most ``max_key_bytes``. Before anything is prepared ``check`` is called with the rows
        that the current generation does not know; it may raise. Then a row that is not known at all is prepared in compiled code if
        ``plain`` (the staged metadatas of ordinary gauges) is given, ``plain_rows`` (None: all) has it, it is not in ``interest``
        (None: no series is) and its id and ``plain`` have at most ``largest`` bytes, else by ``make``, which may raise as well: nothing is
        lost then but this call. Raises ``SeriesTooLargeError``.
        """
        rows = len(key_at)
        keys = Keys(buf, key_at, key_size, contexts, np.empty(rows, np.uint32))
        call = _Call(
            keys, make, plain, plain_rows, check, interest or _NO_INTEREST, largest,
            np.zeros(rows, np.int64), np.zeros(rows, np.int64),
        )  # fmt: skip
        for _ in range(3):
            if self._attempt(call):
                return call.first, call.count
            self._rotate()
        raise SeriesTooLargeError(
            f"{rows} series with {int(key_size.sum())} bytes of labels do not fit into the series cache of "
            f"{2 * len(self._current.arena)} bytes; raise writeCache.maxBytes"
        )

    def find(
        self,
        buf: NDArray[np.uint8],
        key_at: NDArray[np.uint32],
        key_size: NDArray[np.uint32],
        contexts: NDArray[np.uint64],
    ) -> NDArray[np.int64]:
        """The rows that the current generation does not know."""
        rows = len(key_at)
        misses, scratch = np.empty(rows, np.int64), np.empty(rows, np.int64)
        keys = Keys(buf, key_at, key_size, contexts, np.empty(rows, np.uint32))
        return misses[: kernels.find(self._current.address, keys, scratch, scratch, misses)]

    def remembered(self, after: int, limit: int) -> tuple[list[tuple[bytes, int]], int | None]:
        """Keys and contexts of at most ``limit`` series from place ``after`` on, and the place of the next ones; None: that was all.

        A series in both generations comes twice; while series come and go, some may be left out.
        """
        counts = int(self._current.count[0]), int(self._old.count[0])
        found = []
        for at in range(after, min(after + limit, sum(counts))):
            one, row = (self._current, at) if at < counts[0] else (self._old, at - counts[0])
            entry = one.entries[row]
            begin = int(entry["at"])
            found.append((one.arena[begin : begin + int(entry["size"])].tobytes(), int(entry["context"])))
        following = after + limit
        return found, following if following < sum(counts) else None

    def _attempt(self, call: _Call) -> bool:
        """One pass over all rows; False: the generation is full."""
        now, old = self._current, self._old
        keys, first, count = call.keys, call.first, call.count
        misses = np.empty(len(first), np.int64)
        n = kernels.find(now.address, keys, first, count, misses)
        if n == 0:
            return True
        missing = misses[:n]
        if call.check is not None:
            call.check(missing)
        left = np.empty(n, np.int64)
        if old.count[0]:
            done, n = kernels.promote(old.address, now.address, keys, missing, first, count, left)
            if done < len(missing):
                return False
            missing, left = left[:n], np.empty(n, np.int64)
        self.built += len(missing)
        if call.plain is not None and len(missing):
            plain_rows = call.plain_rows
            ordinary = missing if plain_rows is None else missing[plain_rows[missing]]
            others = missing[:0] if plain_rows is None else missing[~plain_rows[missing]]
            asked = call.interest
            plain = kernels.Plain(
                *self.metadata_range(call.plain), call.largest, asked.tags, asked.lengths, asked.values
            )
            done, n = kernels.prepare(now.address, now.arena, keys, ordinary, plain, self._spans, first, count, left)
            if done < len(ordinary):
                return False
            missing = np.sort(np.concatenate((others, left[:n])))
        seen: _Seen = {}
        return all(self._make(int(i), call, seen) for i in missing)

    def _make(self, row: int, call: _Call, seen: _Seen) -> bool:
        """Prepares one row in Python; False: no room. ``seen``: what this call has made of which key."""
        now, keys = self._current, call.keys
        at, size = int(keys.at[row]), int(keys.size[row])
        key = keys.buf[at : at + size].tobytes(), int(keys.contexts[row])
        # The same new series may stand twice in one call.
        found = seen.get(key)
        if found is not None:
            call.first[row], call.count[row] = found
            return True
        made = call.make(row)
        if made is None:
            call.first[row] = call.count[row] = 0
            return True
        specs: Sequence[TemplateSpec] = () if isinstance(made, Reason) else made
        room = size + sum(len(spec.id) + len(spec.annotation) + len(spec.metadatas) for spec in specs)
        if not now.has_room(len(specs), room):
            return False
        begin = int(now.template_count[0])
        for k, spec in enumerate(specs, begin):
            ident, metadatas, annotation = (
                self._put(spec.id), self._put_metadatas(spec.metadatas), self._put(spec.annotation)
            )  # fmt: skip
            now.templates[k] = (*ident, *metadatas, *annotation, spec.metric_type, spec.untimed)
            self.any_untimed |= spec.untimed
        kernels.hash_ids(now.arena, now.templates, begin, begin + len(specs), now.hashes)
        now.template_count[0] = begin + len(specs)
        if not specs:
            begin = made.code if isinstance(made, Reason) else 0
        call.first[row], call.count[row] = seen[key] = begin, len(specs)
        kernels.insert(now.address, keys, row, begin, len(specs))
        return True

    def _put_metadatas(self, metadatas: bytes) -> tuple[int, int]:
        """Shared while there is room (a quarter is left for ``metadata_range``); then in this generation, as rollups into other
        rollups have metadatas of their own for nearly every series."""
        if metadatas in self._metadatas or self._metadata_end + len(metadatas) <= _METADATA_BYTES * 3 // 4:
            return self.metadata_range(metadatas)
        known = self._current.metadatas
        found = known.get(metadatas)
        if found is None:
            if len(known) >= _MAX_KNOWN_METADATAS:
                known.clear()
            found = known[metadatas] = self._put(metadatas)
        return found

    def _put(self, data: bytes) -> tuple[int, int]:
        now = self._current
        at = int(now.used[0])
        if not data:
            return at, 0
        now.arena[at : at + len(data)] = np.frombuffer(data, np.uint8)
        now.used[0] = at + len(data)
        return at, len(data)

    def _rotate(self) -> None:
        self._current, self._old = self._old, self._current
        self._current.clear()
        self.rotations += 1
