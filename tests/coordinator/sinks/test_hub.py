"""The hub: all sinks get what they take, safely, and nothing twice while one of them has no room."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from lab.waiting import until
from tests.coordinator.sinks.batches import LONG, SHORT, RecordingSink, Row, batch_of

from coordinator.sinks import kernels
from coordinator.sinks.hub import Hub, HubOptions, QueuedSink, open_hub
from coordinator.sinks.queue import QueueOptions
from coordinator.sinks.sink import Delivered, HeldError, Refused, RefusedWhy, TryAgainError
from coordinator.sinks.values import UNAGGREGATED
from m3x.instrument import Registry
from m3x.segments import DirectoryLocked

SMALL = QueueOptions(max_bytes=16_000)


@asynccontextmanager
async def _hub(
    directory: Path, sinks: Sequence[RecordingSink], queue: QueueOptions | None = None, registry: Registry | None = None
) -> AsyncIterator[Hub]:
    queued = [QueuedSink(sink, queue or QueueOptions()) for sink in sinks]
    options = HubOptions(settle_s=0.05)
    async with open_hub(queued, directory, (registry or Registry()).scope("sink"), options) as hub:
        yield hub


def _rows(count: int, first: int = 0) -> list[Row]:
    return [Row(b"series %d" % (i % 7), i) for i in range(first, first + count)]


async def test_every_sink_gets_what_it_takes(tmp_path: Path) -> None:
    one, two = RecordingSink("one"), RecordingSink("two")
    one.destinations = {SHORT, UNAGGREGATED}
    two.destinations = {LONG, SHORT}
    rows = [Row(b"a", 1), Row(b"a", 2, 1.0, LONG), Row(b"b", 3, 1.0, UNAGGREGATED)]
    async with _hub(tmp_path, [one, two]) as hub:
        assert hub.takes(LONG)
        assert (await hub.write(batch_of(hub.table, rows))).refused == []
        await until(lambda: len(one.rows) + len(two.rows) == 4)
    assert sorted(one.rows, key=lambda row: row.time_ns) == [rows[0], rows[2]]
    assert sorted(two.rows, key=lambda row: row.time_ns) == [rows[0], rows[1]]
    assert one.closed
    assert two.closed


async def test_what_no_sink_takes_is_refused(tmp_path: Path) -> None:
    sink = RecordingSink()
    sink.destinations = {SHORT}
    async with _hub(tmp_path, [sink]) as hub:
        [refused] = (await hub.write(batch_of(hub.table, [Row(b"a", 1), Row(b"a", 2, 1.0, LONG)]))).refused
        assert (refused.why, refused.rows.tolist()) == (RefusedWhy.NO_NAMESPACE, [1])
        await until(lambda: sink.rows == [Row(b"a", 1)])


async def test_a_sink_without_queue_is_written_at_once(tmp_path: Path) -> None:
    sink = RecordingSink()
    sink.verdict = lambda _: Delivered([Refused(RefusedWhy.TOO_OLD, np.array([0]), "too old")])
    async with open_hub([QueuedSink(sink, None)], tmp_path / "queues", Registry().scope("sink")) as hub:
        [refused] = (await hub.write(batch_of(hub.table, _rows(2)))).refused
        assert refused.why is RefusedWhy.TOO_OLD
        sink.verdict = lambda _: TryAgainError("no")
        with pytest.raises(TryAgainError):
            await hub.write(batch_of(hub.table, _rows(2)))
    assert not (tmp_path / "queues").exists()


async def test_a_sink_without_queue_is_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be one of several"):
        async with open_hub(
            [QueuedSink(RecordingSink("one"), None), QueuedSink(RecordingSink("two"), QueueOptions())],
            tmp_path,
            Registry().scope("sink"),
        ):
            pass


async def test_what_is_in_the_queue_outlives_the_process(tmp_path: Path) -> None:
    sink = RecordingSink()
    sink.open.clear()
    rows = _rows(500)
    async with _hub(tmp_path, [sink]) as hub:
        for k in range(0, 500, 50):
            await hub.write(batch_of(hub.table, rows[k : k + 50]))
    again = RecordingSink(lanes=3)
    async with _hub(tmp_path, [again]):
        await until(lambda: len(again.rows) == 500)
    assert sorted(again.rows, key=lambda row: row.time_ns) == rows
    assert all(flag for _, flag in again.calls)
    assert not list((tmp_path / sink.name).glob("*.segment"))


async def test_a_full_queue_lets_writers_wait_and_a_resend_is_given_to_nobody(tmp_path: Path) -> None:
    stuck, other = RecordingSink("stuck", lanes=1), RecordingSink("other")
    stuck.open.clear()
    async with _hub(tmp_path, [stuck, other], SMALL) as hub:
        written = 0
        while True:
            write = asyncio.create_task(hub.write(batch_of(hub.table, _rows(50, written))))
            written += 50
            await until(lambda write=write: write.done() or hub.status()[0].full)
            if not write.done():
                break
        await until(lambda: len(other.rows) == written)
        # The first sender goes; what it has sent comes again, in other batches, with something new between.
        write.cancel()
        await asyncio.gather(write, return_exceptions=True)
        again = _rows(50, written - 50)
        writes = [
            asyncio.create_task(hub.write(batch_of(hub.table, [*again[:20], Row(b"new", 1)]))),
            asyncio.create_task(hub.write(batch_of(hub.table, again[10:]))),
        ]
        await until(lambda: len(other.rows) == written + 1)
        assert not any(one.done() for one in writes)
        [problem] = [one for one in hub.problems() if "stuck" in one]
        assert "its queue is full" in problem
        stuck.open.set()
        await asyncio.gather(*writes)
        await until(lambda: len(stuck.rows) == written + 1)
        assert hub.problems() == []
    for sink in (stuck, other):
        assert sorted(sink.rows, key=lambda row: row.time_ns) == sorted(
            [*_rows(written), Row(b"new", 1)], key=lambda row: row.time_ns
        )


async def test_the_oldest_are_dropped_where_that_is_wanted(tmp_path: Path) -> None:
    stuck, registry = RecordingSink("stuck", lanes=1, batch_rows=10), Registry()
    stuck.open.clear()
    options = QueueOptions(max_bytes=16_000, drop_oldest=True, window_bytes=4_000)
    async with _hub(tmp_path, [stuck], options, registry) as hub:
        for k in range(0, 3000, 50):
            await hub.write(batch_of(hub.table, _rows(50, k)))
        [status] = hub.status()
        assert status.dropped > 1000
        assert status.dropped + status.waiting_values == 3000
        assert any("dropped as its queue was full" in problem for problem in hub.problems())
        stuck.open.set()
        await until(lambda: hub.status()[0].waiting_values == 0)
        assert len(stuck.rows) == 3000 - hub.status()[0].dropped
        assert registry.counter("sink_dropped", sink="stuck") == hub.status()[0].dropped
    assert stuck.rows[-1] == _rows(1, 2999)[0]


async def test_a_write_hears_the_verdict_if_it_comes_in_time(tmp_path: Path) -> None:
    quick, slow, registry = RecordingSink("quick"), RecordingSink("slow"), Registry()
    quick.destinations = {LONG}
    bad = Row(b"b", 2, 1.0, LONG)

    def verdict(batch: object) -> Delivered:
        refused = [k for k, row in enumerate(quick.calls[-1][0]) if row == bad]
        return Delivered([Refused(RefusedWhy.BAD_REQUEST, np.array(refused), "bad")] if refused else [])

    quick.verdict = verdict
    slow.verdict = lambda batch: Delivered([Refused(RefusedWhy.TOO_OLD, np.arange(len(batch)), "old")])
    slow.open.clear()
    # Loading them must not take the time that is there for the answer.
    kernels.warm()
    async with _hub(tmp_path, [quick, slow], registry=registry) as hub:
        verdicts = await hub.write_watched(batch_of(hub.table, [Row(b"a", 1), Row(b"a", 1, 1.0, LONG), bad]), 1.0)
        assert verdicts.waiting == ["slow"]
        [refused] = verdicts.delivered["quick"].refused
        assert (refused.why, refused.rows.tolist(), refused.text) == (RefusedWhy.BAD_REQUEST, [2], "bad")
        slow.open.set()
        await until(lambda: registry.counter("sink_refused_after_answer", sink="slow") == 3)
        verdicts = await hub.write_watched(batch_of(hub.table, [Row(b"a", 1)]), 5.0)
        assert verdicts.waiting == []
        assert verdicts.delivered["slow"].refused[0].rows.tolist() == [0]
    assert registry.counter("sink_refused_after_answer", sink="slow") == 3
    assert registry.counter("sink_refused", sink="slow", reason="past-buffer") == 4


async def test_a_write_that_is_safe_is_not_refused_as_others_wait(tmp_path: Path) -> None:
    stuck = RecordingSink("stuck")
    stuck.open.clear()
    async with _hub(tmp_path, [stuck], QueueOptions(max_bytes=2_000)) as hub:
        watched = asyncio.create_task(hub.write_watched(batch_of(hub.table, _rows(5)), 0.1))
        await asyncio.sleep(0)
        others = [asyncio.create_task(hub.write(batch_of(hub.table, _rows(50, k)))) for k in range(5, 500, 50)]
        await until(lambda: hub.status()[0].full)
        assert (await watched).waiting == ["stuck"]
        stuck.open.set()
        await asyncio.gather(*others)


async def test_a_held_sink_is_named_at_once(tmp_path: Path) -> None:
    sink = RecordingSink()
    sink.verdict = lambda _: HeldError("401 of http://a/b: is the token right?")
    async with _hub(tmp_path, [sink]) as hub:
        await hub.write(batch_of(hub.table, _rows(5)))
        await until(hub.problems)
        [problem] = hub.problems()
        assert problem.startswith(
            "sink recording does not take values, and waiting alone will not cure it: 401 of http://a/b: is the token right?; 5 values wait"
        )


async def test_a_queue_without_sink_is_kept_and_named(tmp_path: Path) -> None:
    sink = RecordingSink("gone")
    sink.open.clear()
    async with _hub(tmp_path, [sink]) as hub:
        await hub.write(batch_of(hub.table, _rows(5)))
    async with _hub(tmp_path, [RecordingSink("new")]) as hub:
        assert [orphan.name for orphan in hub.orphans] == ["gone"]
        assert "the queue gone has" in hub.problems()[0]
    # The same for a sink that has no queue any more, as it is alone now.
    async with open_hub([QueuedSink(RecordingSink("gone"), None)], tmp_path, Registry().scope("sink")) as hub:
        assert [orphan.name for orphan in hub.orphans] == ["gone"]
        assert "the queue gone has" in hub.problems()[0]
    assert list((tmp_path / "gone").glob("*.segment"))


async def test_a_second_process_is_told(tmp_path: Path) -> None:
    async with _hub(tmp_path, [RecordingSink()]):
        with pytest.raises(DirectoryLocked):
            async with _hub(tmp_path, [RecordingSink()]):
                pass


async def test_a_table_that_is_too_large_is_left(tmp_path: Path) -> None:
    sink = RecordingSink()
    options = HubOptions(most_series=10)
    async with open_hub([QueuedSink(sink, QueueOptions())], tmp_path, Registry().scope("sink"), options) as hub:
        for k in range(0, 100, 5):
            await hub.write(batch_of(hub.table, [Row(b"%d" % i, i) for i in range(k, k + 5)]))
            assert len(hub.table) <= 10
        await until(lambda: len(sink.rows) == 100)
    assert sorted(row.time_ns for row in sink.rows) == list(range(100))


@pytest.mark.parametrize("sync", ["interval", "always"])
async def test_a_write_returns_when_it_is_durable(tmp_path: Path, sync: str) -> None:
    sink = RecordingSink()
    async with _hub(tmp_path, [sink], QueueOptions(sync=sync, sync_interval_s=0.01)) as hub:  # type: ignore[arg-type]
        for k in range(0, 50, 10):
            await hub.write(batch_of(hub.table, _rows(10, k)))
        await until(lambda: len(sink.rows) == 50)


async def test_a_full_disk_lets_writers_wait_and_goes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, pwritev = True, os.pwritev

    def write(fd: int, buffers: Sequence[bytes], offset: int) -> int:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwritev(fd, buffers, offset)

    sink, rows = RecordingSink(), _rows(30)
    async with _hub(tmp_path, [sink]) as hub:
        monkeypatch.setattr("os.pwritev", write)
        writes = [asyncio.create_task(hub.write(batch_of(hub.table, rows[k : k + 10]))) for k in (0, 10, 20)]
        await until(hub.problems)
        [problem] = hub.problems()
        assert "No space left on device (ENOSPC); make room on its file system" in problem
        with pytest.raises(TryAgainError, match="not yet safe with recording"):
            await hub.write_watched(batch_of(hub.table, rows[:10]), 0.01)
        assert not any(one.done() for one in writes)
        # Whoever hears that, and sends it again, shares the fate of the first one.
        watched = asyncio.create_task(hub.write_watched(batch_of(hub.table, rows[:10]), 60.0))
        await asyncio.sleep(0)
        full = False
        await asyncio.gather(*writes)
        assert (await watched).waiting == ["recording"]
        assert hub.problems() == []
        await until(lambda: len(sink.rows) == 30)
    assert sorted(sink.rows, key=lambda row: row.time_ns) == rows


async def test_who_still_waits_at_the_end_is_told_that_it_is_not_safe(tmp_path: Path) -> None:
    stuck = RecordingSink()
    stuck.open.clear()
    async with _hub(tmp_path, [stuck], QueueOptions(max_bytes=2_000)) as hub:
        writes = [asyncio.create_task(hub.write(batch_of(hub.table, _rows(50, k)))) for k in range(0, 500, 50)]
        await until(lambda: hub.status()[0].full)
    with pytest.raises(TryAgainError, match="the process ends"):
        await hub.write(batch_of(hub.table, _rows(1)))
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert any(isinstance(one, TryAgainError) for one in results)
    acked = [_rows(50, 50 * k) for k, one in enumerate(results) if not isinstance(one, TryAgainError)]
    sink = RecordingSink()
    async with _hub(tmp_path, [sink]):
        await until(lambda: len(sink.rows) == 50 * len(acked))
    assert sorted(sink.rows, key=lambda row: row.time_ns) == [row for rows in acked for row in rows]


async def test_what_waits_in_memory_is_bounded(tmp_path: Path) -> None:
    stuck, other = RecordingSink("stuck"), RecordingSink("other")
    stuck.open.clear()
    queued = [QueuedSink(one, QueueOptions(max_bytes=2_000)) for one in (stuck, other)]
    options = HubOptions(most_waiting_bytes=10_000, settle_s=0.05)
    async with open_hub(queued, tmp_path, Registry().scope("sink"), options) as hub:
        writes = [asyncio.create_task(hub.write(batch_of(hub.table, _rows(50, k)))) for k in range(0, 2000, 50)]
        await until(lambda: len(other.rows) >= 300)
        for _ in range(20):
            await asyncio.sleep(0)
        # Some are in the queue, some wait in memory; nobody has the others.
        assert len(other.rows) <= 500
        stuck.open.set()
        await asyncio.gather(*writes)
        await until(lambda: len(other.rows) == len(stuck.rows) == 2000)
    assert sorted(row.time_ns for row in stuck.rows) == list(range(2000))


async def test_what_cannot_be_made_durable_is_not_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails, fdatasync = True, os.fdatasync

    def sync(fd: int) -> None:
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fdatasync(fd)

    sink, rows = RecordingSink(), _rows(20)
    async with _hub(tmp_path, [sink], QueueOptions(sync="always")) as hub:
        monkeypatch.setattr("os.fdatasync", sync)
        writes = [asyncio.create_task(hub.write(batch_of(hub.table, rows))) for _ in range(3)]
        await until(lambda: any("fsync failed" in one for one in hub.problems()))
        assert not any(one.done() for one in writes)
        fails = False
        await asyncio.gather(*writes)
        await until(lambda: hub.status()[0].waiting_values == 0)
        assert hub.problems() == []
    # Those that came again have shared the fate of the first.
    assert sorted(sink.rows, key=lambda row: row.time_ns) == rows
