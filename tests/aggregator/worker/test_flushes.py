"""The order in which flushes of a real engine give their parts."""

from collections.abc import Iterator

import numpy as np
from tests.aggregator.engine.engine_calls import NOW, SECOND, engine_of, flush_all, options, send
from tests.aggregator.engine.test_windows import counter, timer

from aggregator import ipc
from aggregator.engine import Engine, FlushPart
from aggregator.lists import KIND_STANDARD, ListId
from aggregator.worker.flushes import Flushes
from m3metrics import codec
from m3msg.batch import MessageBatch

LIST = ListId(KIND_STANDARD, 10 * SECOND)
KNOWN = [b"known-%03d" % k for k in range(100)]


def flush_of(number: int, target_ns: int) -> ipc.Flush:
    return ipc.Flush(number, LIST, True, flush_all(KIND_STANDARD, 10, target_ns).bounds)


def window(engine: Engine, number: int, new: int) -> list[bytes]:
    """Values of known series and of ``new`` other ones in window ``number``; returns the ids of the latter."""
    at, others = NOW + number * 10 * SECOND, [b"new-%d-%06d" % (number, k) for k in range(new)]
    assert send(engine, [counter(ident, number) for ident in (*others, *KNOWN)], at) == []
    return others


def taken(flushes: Flushes) -> Iterator[tuple[int, list[bytes], bool]]:
    """Flush, ids and whether it was the last, of each part that may go."""
    while flushes.ready:
        header, part = flushes.take()
        batch = None if part is None else part.batch
        ids = []
        if batch is not None:
            spans = zip(batch.offsets, batch.offsets[1:], strict=False)
            ids = [codec.decode_aggregated(batch.payload[a:b].tobytes()).id for a, b in spans]
        yield header.id, [ident.removeprefix(b"stats.counts.").removesuffix(b"sum") for ident in ids], header.last


def settled(engine: Engine) -> None:
    """Known series have been put out alone."""
    window(engine, 0, 0)
    for _ in engine.flush(flush_of(1, NOW + 10 * SECOND), NOW + 10 * SECOND):
        pass


def test_what_was_there_before_passes_what_is_new_of_flushes_before() -> None:
    engine, flushes = engine_of(options(), max_series=1 << 16), Flushes(1)
    settled(engine)
    new = {k: window(engine, k, 9000) for k in (1, 2)}
    begun = NOW + 20 * SECOND
    flushes.start(flush_of(1, begun), engine.flush(flush_of(1, begun), begun))
    # There is credit for one part.
    assert list(taken(flushes)) == [(1, KNOWN, False)]
    begun += 10 * SECOND
    flushes.start(flush_of(2, begun), engine.flush(flush_of(2, begun), begun))
    flushes.credit(1 << 30, forwarded=False)
    parts = list(taken(flushes))
    assert parts[0] == (2, KNOWN, False)
    assert [(flush, last) for flush, _, last in parts[1:] if last] == [(1, True), (2, True)]
    for number in (1, 2):
        assert [ident for flush, ids, _ in parts[1:] if flush == number for ident in ids] == new[number]
    assert not len(flushes)


def test_windows_that_are_covered_go_while_a_later_flush_runs() -> None:
    engine = engine_of(options(), max_series=1 << 16)
    settled(engine)
    window(engine, 1, 9000)
    window(engine, 2, 9000)
    first = engine.flush(flush_of(1, NOW + 20 * SECOND), NOW + 20 * SECOND)
    next(first)
    second = engine.flush(flush_of(2, NOW + 30 * SECOND), NOW + 30 * SECOND)
    next(second)
    held = engine.stats()[1]["engine.windows"]
    engine.commit(ipc.Commit(LIST, [], NOW + 20 * SECOND))
    # The second one is read by its flush, the first one as well.
    assert engine.stats()[1]["engine.windows"] == held - 1
    assert sum(part.batch is not None for part in first) > 0
    assert engine.stats()[1]["engine.windows"] == held - 2
    engine.commit(ipc.Commit(LIST, [], NOW + 30 * SECOND))
    assert engine.stats()[1]["engine.windows"] == held - 2
    assert [part.last for part in second][-1]
    assert engine.stats()[1]["engine.windows"] == held - 3


def test_several_windows_of_one_flush_give_what_was_there_before_first() -> None:
    engine = engine_of(options(), max_series=1 << 16)
    settled(engine)
    new = [window(engine, k, 9000) for k in (1, 2)]
    assert send(engine, [timer(b"late-kind", (1.0, 2.0))], NOW + 15 * SECOND) == []
    flushes = Flushes(1 << 30)
    flushes.start(flush_of(1, NOW + 30 * SECOND), engine.flush(flush_of(1, NOW + 30 * SECOND), NOW + 30 * SECOND))
    parts = list(taken(flushes))
    assert parts[0] == (1, KNOWN + KNOWN, False)
    rest = [ident for _, ids, _ in parts[1:] for ident in ids]
    assert [ident for ident in rest if ident.startswith(b"new-")] == new[0] + new[1]
    assert any(b"late-kind" in ident for ident in rest)
    assert [last for _, _, last in parts] == [False] * (len(parts) - 1) + [True]


def test_nothing_passes_a_last_part_of_series_that_are_settled_since() -> None:
    engine, flushes = engine_of(options(), max_series=1 << 16), Flushes(1)
    settled(engine)
    new = window(engine, 1, 5000)
    begun = NOW + 20 * SECOND
    flushes.start(flush_of(1, begun), engine.flush(flush_of(1, begun), begun))
    # There is credit for one part; the last one is made, and waits.
    assert list(taken(flushes)) == [(1, KNOWN, False)]
    assert send(engine, [counter(ident, 2) for ident in new], begun) == []
    window(engine, 2, 1)
    begun += 10 * SECOND
    flushes.start(flush_of(2, begun), engine.flush(flush_of(2, begun), begun))
    flushes.credit(1 << 30, forwarded=False)
    assert [flush for flush, ids, _ in taken(flushes) if new[0] in ids] == [1, 2]


class Made:
    """Parts of a flush that are there already."""

    def __init__(self, *parts: FlushPart) -> None:
        self._parts = list(parts)

    @property
    def early(self) -> bool:
        return bool(self._parts) and self._parts[0].early

    def __iter__(self) -> "Made":
        return self

    def __next__(self) -> FlushPart:
        if not self._parts:
            raise StopIteration
        return self._parts.pop(0)


def part(nbytes: int = 8, *, last: bool = False, early: bool = False, forwarded: bool = False) -> FlushPart:
    batch = MessageBatch(np.zeros(nbytes, np.uint8), np.array([0, nbytes]), np.zeros(1, np.uint32))
    return FlushPart(batch, last=last, discarded=0, early=early, forwarded=forwarded)


def given(flushes: Flushes) -> Iterator[tuple[int, bool]]:
    """Flush, and whether it was the last, of each part that may go."""
    while flushes.ready:
        header, _ = flushes.take()
        yield header.id, header.last


def test_rollups_of_a_later_flush_without_credit_do_not_hold_values_of_an_earlier_one() -> None:
    flushes = Flushes(1)
    flushes.forwarded_credit_bytes = 0
    flushes.start(flush_of(1, NOW), Made(part(), part(last=True)))
    flushes.start(flush_of(2, NOW), Made(part(early=True, forwarded=True), part(last=True)))
    assert [flush for flush, _ in given(flushes)] == [1]
    flushes.credit(8, forwarded=False)
    assert [flush for flush, _ in given(flushes)] == [1]
    # Its own values wait for its rollups.
    flushes.credit(8, forwarded=False)
    assert list(given(flushes)) == []
    flushes.credit(1, forwarded=True)
    assert list(given(flushes)) == [(2, False), (2, True)]
