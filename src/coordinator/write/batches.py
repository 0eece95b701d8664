"""Samples in columns → encoded messages, in batches; and which series are too large for that.

Everything here happens before the first message is given to anybody: what cannot be sent is known by then.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.downsample import TemplateSpec
from coordinator.not_kept import Reason
from coordinator.write import kernels
from coordinator.write.door import Door, Refused
from coordinator.write.interest import Interest
from coordinator.write.series_cache import Maker, Prepared, RowNumbers, SeriesCache, SeriesTooLargeError
from coordinator.write.steps import Steps, finished
from m3metrics.kernels import SAMPLE_OVERHEAD, encode_timed_samples, samples_size_bound
from m3metrics.kernels import encode_samples as encode_mixed
from m3msg.batch import MessageBatch

MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000
UNBOUNDED = 1 << 62


class BatchTooLargeError(ValueError):
    """The messages of one request are more than the producer can hold at all."""


@dataclass(slots=True)
class Columns:
    """Series (or lines) and their samples."""

    buf: NDArray[np.uint8]
    key_at: NDArray[np.uint32]
    key_size: NDArray[np.uint32]
    """Ranges of ``buf``."""
    contexts: NDArray[np.uint64]
    series: NDArray[Any]
    """``kernels.SERIES_ROW``: their samples are rows of ``times`` and ``values``."""
    times: NDArray[np.int64]
    """Counting ``unit_ns``."""
    unit_ns: int
    values: NDArray[np.float64]


@dataclass(slots=True)
class Preparation:
    """How series that the cache does not know are prepared: the arguments of ``SeriesCache.resolve``, rows being those of all columns."""

    make: Maker
    plain: bytes | None = None
    plain_rows: NDArray[np.bool_] | None = None
    check: Callable[[RowNumbers], None] | None = None
    interest: Interest | None = None


@dataclass(slots=True)
class Encoded:
    """What came of the rows of ``Columns``."""

    count: NDArray[np.int64]
    """Messages per sample of each row; 0: none."""
    unsent: NDArray[np.int64]
    """Where ``count`` is 0: the code of the ``Reason``, or 0 where ``make`` gave none, or the row is ``too_large``."""
    any_unsent: bool = False
    batches: list[MessageBatch] = field(default_factory=list)
    too_large: dict[int, str] = field(default_factory=dict)
    """Rows that make no message, and why."""
    refused: Refused = field(default_factory=Refused)
    """What came too late or too early."""
    fewer: NDArray[np.int64] | None = None
    """Where some of that was not sent: the messages of each row, of all its samples; -1: as many as ever."""

    def messages(self, samples: NDArray[Any]) -> NDArray[np.int64]:
        """How many there are of each row, which has so many samples."""
        usual = self.count * samples.astype(np.int64)
        return usual if self.fewer is None else np.where(self.fewer < 0, usual, self.fewer)

    @property
    def size_bytes(self) -> int:
        """Of all messages."""
        return sum(batch.size_bytes for batch in self.batches)


class Encoder:
    """Encodes through one cache. ``largest_message`` and ``largest_batch``: bytes that the sink takes (see ``MessageSink``). ``door``: who
    judges how late samples are; None: the aggregators."""

    def __init__(
        self,
        cache: SeriesCache,
        largest_message: int = UNBOUNDED,
        largest_batch: int = UNBOUNDED,
        door: Door | None = None,
    ) -> None:
        self._door = door
        self._cache = cache
        self._largest_message = largest_message
        self._largest_batch = largest_batch

    def encode(self, columns: Columns, preparation: Preparation, num_shards: int) -> Encoded:
        """One message per sample and template. Raises ``BatchTooLargeError``, and whatever ``preparation`` raises."""
        return finished(self.steps(columns, preparation, num_shards, len(columns.key_at)))

    def steps(self, columns: Columns, preparation: Preparation, num_shards: int, most_rows: int) -> Steps[Encoded]:
        """As ``encode``, at most so many rows a step. What ``preparation`` says has to hold until the end."""
        rows = len(columns.key_at)
        result = Encoded(np.zeros(rows, np.int64), np.zeros(rows, np.int64))
        for begin, end in _chunks(columns.key_size, self._cache, most_rows):
            if begin:
                yield None
            self._encode(columns, preparation, num_shards, begin, end, result)
        return result

    def _encode(
        self, columns: Columns, preparation: Preparation, num_shards: int, begin: int, end: int, result: Encoded
    ) -> None:
        """Rows ``[begin, end)``; halves where they do not fit into the cache together."""

        def make(row: int) -> Prepared:
            made = preparation.make(begin + row)
            if made is None or isinstance(made, Reason):
                return made
            largest = max((_size_bound(spec) for spec in made), default=0)
            if largest > self._largest_message:
                result.too_large[begin + row] = (
                    f"series too large: its messages have up to {largest} bytes, the aggregators are sent at most "
                    f"{self._largest_message} (producer: buffer.maxMessageSize, writer.encoder.maxMessageSize)"
                )
                return None
            return made

        def check(rows: RowNumbers) -> None:
            if preparation.check is not None:
                preparation.check(begin + rows)

        part, plain_rows = slice(begin, end), preparation.plain_rows
        try:
            first, count = self._cache.resolve(
                columns.buf, columns.key_at[part], columns.key_size[part], columns.contexts[part],
                make, preparation.plain, None if plain_rows is None else plain_rows[part], check, preparation.interest,
                self._largest_message - SAMPLE_OVERHEAD,
            )  # fmt: skip
        except SeriesTooLargeError as error:
            if end - begin == 1:
                result.too_large[begin] = str(error)
                return
            middle = (begin + end) // 2
            self._encode(columns, preparation, num_shards, begin, middle, result)
            self._encode(columns, preparation, num_shards, middle, end, result)
            return
        result.count[part] = count
        if np.count_nonzero(count) < len(count):
            nothing = count == 0
            result.unsent[part][nothing] = first[nothing]
            result.any_unsent = True
        door = None if self._door is None else _Judgement(self._door, result, part, columns.series[part], count)
        batch = encode_samples(
            self._cache, columns, part, first, count, num_shards, self._largest_batch - result.size_bytes, door
        )
        if batch is not None:
            result.batches.append(batch)


@dataclass(slots=True)
class _Judgement:
    """The door, for some rows."""

    door: Door
    result: Encoded
    part: slice
    series: NDArray[Any]
    count: NDArray[np.int64]

    def sent(
        self, cache: SeriesCache, which: NDArray[np.int64], times_ns: NDArray[np.int64]
    ) -> NDArray[np.bool_] | None:
        """Which messages are to be sent; None: all."""

        def samples() -> NDArray[np.int64]:
            of_sample = np.repeat(self.count, self.series["samples"])
            return np.repeat(np.arange(len(of_sample)), of_sample)

        sent = self.door.judge(cache.arena, cache.templates, which, times_ns, samples, self.result.refused)
        if sent is not None:
            if self.result.fewer is None:
                self.result.fewer = np.full(len(self.result.count), -1, np.int64)
            rows = np.repeat(np.arange(len(self.series)), self.count * self.series["samples"].astype(np.int64))
            self.result.fewer[self.part] = np.bincount(rows[sent], minlength=len(self.series))
        return sent


def encode_samples(
    cache: SeriesCache,
    columns: Columns,
    part: slice,
    first: NDArray[np.int64],
    count: NDArray[np.int64],
    num_shards: int,
    most_bytes: int,
    judgement: _Judgement | None = None,
) -> MessageBatch | None:
    """One message per sample and template, timed or untimed as the template says; None if there is none.

    ``first`` and ``count``: what ``cache.resolve`` just returned for the rows ``part`` of ``columns``. Raises ``BatchTooLargeError``
    where they could have more than ``most_bytes``.
    """
    series = columns.series[part]
    total = int((count * series["samples"]).sum())
    if total == 0:
        return None
    _bound(total * SAMPLE_OVERHEAD, most_bytes)
    series_index, time_ns = np.empty(total, np.int64), np.empty(total, np.int64)
    sample_values, shards = np.empty(total, np.float64), np.empty(total, np.uint32)
    templates = cache.templates
    kernels.expand(
        series, len(series), first, count, cache.hashes, templates, columns.times, columns.unit_ns, num_shards, columns.values,
        series_index, time_ns, sample_values, shards,
    )  # fmt: skip
    if judgement is not None and (sent := judgement.sent(cache, series_index, time_ns)) is not None:
        total = int(np.count_nonzero(sent))
        if total == 0:
            return None
        series_index, time_ns, sample_values, shards = (
            series_index[sent],
            time_ns[sent],
            sample_values[sent],
            shards[sent],
        )
    encode, room = (encode_mixed, 8 * total) if cache.any_untimed else (encode_timed_samples, 0)
    size = samples_size_bound(templates, series_index) + room
    _bound(size, most_bytes)
    payload = np.empty(size, np.uint8)
    offsets = np.empty(total + 1, np.int64)
    used = encode(cache.arena, templates, series_index, time_ns, sample_values, payload, offsets)
    return MessageBatch(payload[:used], offsets, shards)


def pieces(batch: MessageBatch, most_bytes: int) -> Iterator[tuple[MessageBatch, slice]]:
    """The batch cut into parts of at most ``most_bytes``, but at least one message each, and which messages they have."""
    begin = 0
    while begin < len(batch):
        end = int(np.searchsorted(batch.offsets, batch.offsets[begin] + most_bytes, side="right")) - 1
        end = min(max(end, begin + 1), len(batch))
        yield (
            MessageBatch(batch.payload, batch.offsets[begin : end + 1], batch.shards[begin:end]),
            slice(begin, end),
        )
        begin = end


def _size_bound(spec: TemplateSpec) -> int:
    return len(spec.id) + len(spec.metadatas) + len(spec.annotation) + SAMPLE_OVERHEAD


def _bound(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise BatchTooLargeError(
            f"the request makes up to {size} bytes of messages, and the buffer towards the aggregators has room for {most_bytes}: "
            "send fewer samples in a request (max_samples_per_send), or raise producer.buffer.maxBufferSize"
        )


def _chunks(key_size: NDArray[np.uint32], cache: SeriesCache, most_rows: int) -> Iterator[tuple[int, int]]:
    """Row ranges that one ``resolve`` can take, of at most so many rows."""
    rows, most_rows = len(key_size), max(1, min(most_rows, cache.max_rows))
    used = np.cumsum(key_size, dtype=np.int64)
    begin = 0
    while begin < rows or rows == 0 == begin:
        before = int(used[begin - 1]) if begin else 0
        end = int(np.searchsorted(used, before + cache.max_key_bytes, side="right"))
        end = min(max(end, begin + 1), begin + most_rows, rows)
        yield begin, end
        begin = max(end, 1)
