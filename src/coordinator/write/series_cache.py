"""The series the write path has met: key bytes → what is sent of them, so that a repeated series costs no Python.

Of a series whose id can be made of its labels alone, which are nearly all of them, the cache has 32 bytes: a hash of the labels instead of
themselves, the hash of the id, and which *form* the rest of the message has; the id is written anew from the labels of each request, which
are in the processor's cache anyway. Another one (several messages, an annotation, tags that rules or headers add, a path of carbon) has
them in a log. The hash has 128 bits under a secret that each start draws: that two series are taken for one has a probability far below
that of a broken machine (``m3x.keyed_hash`` says how far), whatever labels somebody sends.

There are no generations and nothing is ever emptied for want of room: where a new series finds none, what was not seen for some minutes
gives way to it, then what was seen only once; where all are wanted the new one is prepared each time it comes.

Memory is reserved, not touched, until it is needed. Tables and their layouts: ``cache_kernels``.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.downsample import TemplateSpec
from coordinator.not_kept import Reason
from coordinator.write import kernels
from coordinator.write.growth import NewSeries
from coordinator.write.interest import Interest
from coordinator.write.key_log import KeyLog
from m3metrics.metric import MetricType
from m3metrics.rows import METRIC_TEMPLATE
from m3x.keyed_hash import secret
from m3x.log import logger
from m3x.reserve import release, reserve, reserve_wide

log = logger(__name__)

_MAX_LABELS = 256
_MAX_ROWS = 8192
_MAX_TEMPLATES = 1 << 17
"""Of one call."""
_MAX_FORMS = 1 << 16
_UNBOUNDED = 1 << 62
_NO_INTEREST = Interest.none()
_LEAST_BYTES = 1 << 20
_LEAST_SHARED_BYTES = 1 << 18
_MOST_SHARED_BYTES = 1 << 26
_MOST_ARENA_BYTES = 1 << 30
_ARENA_KEPT_BYTES = 1 << 23
"""What calls have used is given back beyond it."""
_MOST_LOG_BYTES = 8 << 32
_CHUNK_BYTES = (1 << 14, 1 << 18)
"""Least and most."""
_SEGMENTS = (2, 1024)
_SEGMENT_SERIES = 4096
"""Of a segment, where there are fewer segments than there may be."""
_SURVEYED = 1 << 14
"""Entries that are counted for all."""
_MINUTE_S = 60


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


@dataclass(slots=True)
class _Call:
    """What one ``resolve`` was asked, and its answer."""

    keys: kernels.Keys
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

    ``max_bytes`` bounds its memory, ``max_series`` (0: nothing) how many it remembers. ``clock`` counts seconds.
    """

    def __init__(self, max_series: int, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        limit = max(max_bytes, _LEAST_BYTES)
        self._clock = clock
        self._limit = limit
        self._head = head = np.zeros(1, kernels.CACHE)
        self._address = np.uint64(head.ctypes.data)
        # Columns of the one row, so that they can be set.
        self._used, self._template_count, self._now = head["used"], head["template_count"], head["now"]
        self._secret = secret()
        head["secret"] = self._secret.ctypes.data
        head["limit_bytes"] = limit
        self._place_table(max_series)
        self._chunk = min(max(limit // 64, _CHUNK_BYTES[0]), _CHUNK_BYTES[1]) // 8 * 8
        most_chunks = min(limit, _MOST_LOG_BYTES) // self._chunk
        self._log, self._chunk_used = reserve(most_chunks * self._chunk, np.uint8), np.zeros(most_chunks, np.int64)
        head["log"], head["chunk_used"] = self._log.ctypes.data, self._chunk_used.ctypes.data
        head["chunk_bytes"], head["most_chunks"] = self._chunk, most_chunks
        self._shared = min(max(limit // 16, _LEAST_SHARED_BYTES), _MOST_SHARED_BYTES)
        self._room = min(limit // 2, _MOST_ARENA_BYTES)
        self.arena: NDArray[np.uint8] = reserve(self._shared + self._room, np.uint8)
        """The bytes that the templates refer to."""
        self.templates = reserve(_MAX_TEMPLATES, METRIC_TEMPLATE)
        """``METRIC_TEMPLATE`` rows that ``resolve`` refers to; valid until the next ``resolve``."""
        self.hashes = reserve(_MAX_TEMPLATES, np.uint32)
        """murmur3-32 of the id of each template."""
        self._forms = reserve(_MAX_FORMS, kernels.FORM)
        head["arena"], head["templates"] = self.arena.ctypes.data, self.templates.ctypes.data
        head["hashes"], head["forms"] = self.hashes.ctypes.data, self._forms.ctypes.data
        head["arena_bytes"], head["shared_bytes"] = len(self.arena), self._shared
        head["most_templates"] = _MAX_TEMPLATES
        self._used[0] = self._shared
        self._keys = KeyLog(head, self._room, _MAX_ROWS, limit)
        self._metadatas: dict[bytes, tuple[int, int]] = {}
        self._metadata_end = 0
        self._form_numbers: dict[tuple[bytes, int, bool], int] = {}
        self._spans = np.zeros((_MAX_LABELS, 4), np.int64)
        self._generation = 0
        self._full_since = -np.inf
        """When it was full last."""
        self.any_untimed = False
        """Whether any template may be untimed."""
        self.built = 0
        """Series prepared since the start."""
        self.new = NewSeries()
        """What they are."""

    def _place_table(self, max_series: int) -> None:
        head = self._head
        most = self._limit // kernels.ENTRY.itemsize
        if max_series:
            most = min(most, max_series)
        segments = 1 << max(most // _SEGMENT_SERIES, 1).bit_length() - 1
        segments = min(max(segments, _SEGMENTS[0]), _SEGMENTS[1])
        # Half as much again as is taken, and what a hash deals one segment more than others.
        per_segment = -(-most * 3 // (2 * segments)) + _SEGMENT_SERIES // 4
        self._segments = np.zeros(segments, kernels.SEGMENT)
        self._slots = reserve(segments * per_segment, np.uint64)
        self._spare = reserve(per_segment, np.uint64)
        self._entries, self._free = reserve_wide(most, kernels.ENTRY), reserve(most, np.uint32)
        head["segments"], head["slots"] = self._segments.ctypes.data, self._slots.ctypes.data
        head["spare"], head["entries"] = self._spare.ctypes.data, self._entries.ctypes.data
        head["free"], head["most_entries"] = self._free.ctypes.data, most
        head["shift"], head["segment_slots"] = 64 - (segments.bit_length() - 1), per_segment

    @property
    def max_rows(self) -> int:
        """Rows that one ``resolve`` may have."""
        return _MAX_ROWS

    @property
    def max_key_bytes(self) -> int:
        """Key bytes that the rows of one ``resolve`` may have together."""
        return self._room // 4

    @property
    def series(self) -> int:
        """Series remembered."""
        return int(self._head["count"][0])

    @property
    def forgotten(self) -> int:
        """Series that gave way to others since the start."""
        return int(self._head["forgotten"][0])

    @property
    def not_kept(self) -> int:
        """Times that there was no room to remember a series since the start."""
        return int(self._head["not_kept"][0])

    @property
    def new_series(self) -> int:
        """Series that were not known when they came, since the start, but for those that come again after a change of rules."""
        return self.new.count

    @property
    def size_bytes(self) -> int:
        """Memory in use, but for what each call uses anew."""
        head = self._head
        return int(head["table_bytes"][0] + head["chunks"][0] * self._chunk) + self._other_bytes

    @property
    def _other_bytes(self) -> int:
        return self._keys.size_bytes + self._metadata_end

    def full(self) -> str | None:
        """What to say if series that come have not found room of late."""
        if self._clock() - self._full_since > kernels.STALE * _MINUTE_S:
            return None
        entries, fresh = kernels.survey(self._address, self.series // _SURVEYED + 1)
        seen = round(self.series * fresh / max(entries, 1))
        return (
            f"the series cache is full: {self.series} series, about {seen} of them seen in the last minutes; those that do not fit "
            "are prepared anew each time they come: raise writeCache.maxBytes (and writeCache.maxSeries, if it is given)"
        )

    def expect(self, generation: int) -> None:
        """Forgets all series if what they map to has changed since, which another number says."""
        if generation == self._generation:
            return
        self._generation = generation
        self.new.expect_again(self.series)
        release(self._entries, 0, int(self._head["high"][0]))
        release(self._slots, 0, len(self._slots))
        # Of the last page release leaves what is there.
        self._slots[-(PAGESIZE // self._slots.itemsize) :] = 0
        release(self._log, 0, len(self._log))
        self._segments[:] = 0
        for name in ("count", "high", "free_count", "hand", "table_bytes", "chunks", "chunk"):
            self._head[name] = 0
        self._keys.clear()
        self._head["other_bytes"] = self._other_bytes
        self._metadatas.clear()
        self._form_numbers.clear()
        self._metadata_end = 0
        self.any_untimed = False

    def metadata_range(self, metadatas: bytes) -> tuple[int, int]:
        """Where in the arena these staged metadatas are: start and size."""
        found = self._metadatas.get(metadatas)
        if found is None:
            end = self._metadata_end + len(metadatas)
            if end > self._shared:
                raise TooManyMetadatasError(f"staged metadatas need more than {self._shared} bytes together")
            found = (self._metadata_end, len(metadatas))
            self.arena[self._metadata_end : end] = np.frombuffer(metadatas, np.uint8)
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
        that are not known; it may raise. Then a row is prepared in compiled code if ``plain`` (the staged metadatas of ordinary gauges)
        is given, ``plain_rows`` (None: all) has it, it is not in ``interest`` (None: no series is) and its id and ``plain`` have at most
        ``largest`` bytes, else by ``make``, which may raise as well: nothing is lost then but this call. Raises ``SeriesTooLargeError``.
        """
        rows = len(key_at)
        keys = kernels.Keys(buf, key_at, key_size, contexts, np.empty((rows, 2), np.uint64))
        call = _Call(
            keys, make, plain, plain_rows, check, interest or _NO_INTEREST, largest,
            np.zeros(rows, np.int64), np.zeros(rows, np.int64),
        )  # fmt: skip
        self._begin()
        if not self._answer(call):
            raise SeriesTooLargeError(
                f"{rows} series with {int(key_size.sum())} bytes of labels do not fit into the series cache of "
                f"{self._limit} bytes; raise writeCache.maxBytes"
            )
        return call.first, call.count

    def find(
        self,
        buf: NDArray[np.uint8],
        key_at: NDArray[np.uint32],
        key_size: NDArray[np.uint32],
        contexts: NDArray[np.uint64],
    ) -> NDArray[np.int64]:
        """The rows that are not known."""
        rows = len(key_at)
        misses = np.empty(rows, np.int64)
        keys = kernels.Keys(buf, key_at, key_size, contexts, np.empty((rows, 2), np.uint64))
        return misses[: kernels.missing(self._address, keys, misses)]

    def encode_known(
        self,
        buf: NDArray[np.uint8],
        size: int,
        num_shards: int,
        out: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        shards: NDArray[np.uint32],
    ) -> tuple[int, int, int]:
        """See ``kernels.known``: nothing is prepared, and no template is made."""
        self._now[0] = int(self._clock() // _MINUTE_S)
        done: tuple[int, int, int] = kernels.known(self._address, buf, size, num_shards, out, offsets, shards)
        return done

    def remembered(self, after: int, limit: int) -> tuple[list[tuple[bytes, int]], int | None]:
        """Keys and contexts of at most ``limit`` series from place ``after`` on, and the place of the next ones; None: that was all.

        While series come and go, one may be left out or come twice.
        """
        return self._keys.known(after, limit)

    def _begin(self) -> None:
        """Forgets the templates of the call before."""
        used = int(self._used[0])
        if used > self._shared + _ARENA_KEPT_BYTES:
            release(self.arena, self._shared + _ARENA_KEPT_BYTES, used)
        self._used[0] = self._shared
        self._template_count[0] = 0
        self._now[0] = int(self._clock() // _MINUTE_S)

    def _answer(self, call: _Call) -> bool:
        """One pass over all rows; False: there is no room for what is to be sent of them."""
        keys, first, count = call.keys, call.first, call.count
        misses = np.empty(len(first), np.int64)
        n = kernels.find(self._address, self.arena, keys, self._spans, first, count, misses)
        if n <= 0:
            return bool(n == 0)
        missing = misses[:n]
        if call.check is not None:
            call.check(missing)
        self.built += n
        self.new.see(keys.buf, keys.at[missing], keys.size[missing])
        if int(keys.size[missing].sum(dtype=np.int64)) > self._room:
            return False
        if call.plain is not None:
            self.metadata_range(call.plain)
            form = self._form(call.plain)
            plain_rows = call.plain_rows
            ordinary = missing if plain_rows is None else missing[plain_rows[missing]]
            others = missing[:0] if plain_rows is None else missing[~plain_rows[missing]]
            asked, left = call.interest, np.empty(n, np.int64)
            plain = kernels.Plain(form, call.largest, asked.tags, asked.lengths, asked.values)
            n = kernels.prepare(self._address, self.arena, keys, ordinary, plain, self._spans, first, count, left)
            if n < 0:
                self._settle()
                return False
            missing = np.sort(np.concatenate((others, left[:n])))
        seen: _Seen = {}
        try:
            return all(self._make(int(i), call, seen) for i in missing)
        finally:
            self._settle()

    def _settle(self) -> None:
        """What is to be done after new series."""
        self._keys.settle(self.series, short=self.size_bytes > self._limit * 7 // 8)
        self._head["other_bytes"] = self._other_bytes
        if self._head["full"][0]:
            self._head["full"] = 0
            self._full_since = self._clock()
            log.warning_limited(
                "the series cache is full", per_second=1 / _MINUTE_S, series=self.series, forgotten=self.forgotten,
                not_kept=self.not_kept, max_bytes=self._limit,
            )  # fmt: skip

    def _make(self, row: int, call: _Call, seen: _Seen) -> bool:
        """Prepares one row in Python; False: no room. ``seen``: what this call has made of which key."""
        keys = call.keys
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
        begin = int(self._template_count[0])
        if self._used[0] + room > len(self.arena) or begin + len(specs) > _MAX_TEMPLATES:
            return False
        for k, spec in enumerate(specs, begin):
            ident, metadatas, annotation = (
                self._put(spec.id), self._put_metadatas(spec.metadatas), self._put(spec.annotation)
            )  # fmt: skip
            self.templates[k] = (*ident, *metadatas, *annotation, spec.metric_type, spec.untimed)
            self.any_untimed |= spec.untimed
        kernels.hash_ids(self.arena, self.templates, begin, begin + len(specs), self.hashes)
        self._template_count[0] = begin + len(specs)
        form = kernels.NO_FORM
        if not specs:
            begin = form = made.code if isinstance(made, Reason) else 0
        elif len(specs) == 1 and not specs[0].annotation:
            form = self._form(specs[0].metadatas, specs[0].metric_type, specs[0].untimed)
        call.first[row], call.count[row] = seen[key] = begin, len(specs)
        kernels.remember(self._address, self.arena, keys, row, begin, len(specs), form, self._spans)
        return True

    def _form(self, metadatas: bytes, metric_type: int = MetricType.GAUGE, untimed: bool = False) -> int:
        """The number of a form; ``NO_FORM``: there is no room for another."""
        key = metadatas, int(metric_type), untimed
        number = self._form_numbers.get(key)
        if number is None:
            if len(self._form_numbers) == _MAX_FORMS or not self._may_share(metadatas):
                return kernels.NO_FORM
            number = self._form_numbers[key] = len(self._form_numbers)
            self._forms[number] = (*self.metadata_range(metadatas), metric_type, untimed)
        return number

    def _may_share(self, metadatas: bytes) -> bool:
        """A quarter is left for ``metadata_range``."""
        return metadatas in self._metadatas or self._metadata_end + len(metadatas) <= self._shared * 3 // 4

    def _put_metadatas(self, metadatas: bytes) -> tuple[int, int]:
        """Shared while there is room; then with the series, as rollups into other rollups have metadatas of their own for nearly every
        series."""
        return self.metadata_range(metadatas) if self._may_share(metadatas) else self._put(metadatas)

    def _put(self, data: bytes) -> tuple[int, int]:
        at = int(self._used[0])
        if not data:
            return at, 0
        self.arena[at : at + len(data)] = np.frombuffer(data, np.uint8)
        self._used[0] = at + len(data)
        return at, len(data)


def warm() -> None:
    """Compiles the kernels of the cache, or loads them from the cache of kernels."""
    cache = SeriesCache(0, _LEAST_BYTES)
    key = np.frombuffer(bytearray(b"\x0a\x06\x0a\x01a\x12\x01b.."), np.uint8)
    at, contexts = np.array([0, 8], np.uint32), np.zeros(2, np.uint64)
    size = np.array([8, 2], np.uint32)
    for _ in range(2):
        cache.resolve(key, at, size, contexts, lambda _: [TemplateSpec(b"a", b"m", annotation=b"n")], b"m")
    cache.find(key, at, size, contexts)
    cache.encode_known(
        np.zeros(128, np.uint8), 1, 1, np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.uint32)
    )
    cache.remembered(0, 1)
    kernels.survey(cache._address, 1)
    kernels.write_again(cache._address, np.zeros(0, np.uint8), 0)
