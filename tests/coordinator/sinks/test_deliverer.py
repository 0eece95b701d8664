"""A sink's shell over a real queue: what lags, what is damaged, and copies of the directory as ``kill -9`` would leave it."""

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from lab.waiting import until
from tests.coordinator.sinks.batches import RecordingSink, Row, batch_of

from coordinator.sinks.hub import Hub, HubOptions, QueuedSink, open_hub
from coordinator.sinks.queue import QueueOptions
from coordinator.sinks.sink import Delivered, Parked, Refused, RefusedWhy, TryAgainError
from coordinator.sinks.values import Values
from m3x.instrument import Registry
from m3x.segments import Cursor

_TINY_WINDOW = QueueOptions(window_bytes=20_000, max_bytes=4 << 20)


@asynccontextmanager
async def _hub(
    directory: Path, sink: RecordingSink, queue: QueueOptions, registry: Registry | None = None
) -> AsyncIterator[Hub]:
    scope = (registry or Registry()).scope("sink")
    async with open_hub([QueuedSink(sink, queue)], directory, scope, HubOptions(settle_s=0.05)) as hub:
        yield hub


def _rows(first: int, count: int) -> list[Row]:
    """Times tell values apart."""
    return [Row(b"series %d" % (i % 11), i) for i in range(first, first + count)]


def _in_order(rows: list[Row]) -> bool:
    """Whether each series came oldest first."""
    last: dict[bytes, int] = {}
    return all(last.get(row.id, -1) < row.time_ns and not last.update({row.id: row.time_ns}) for row in rows)


async def _settled(hub: Hub) -> None:
    await until(lambda: hub.status()[0].waiting_values == 0)


def _saved(queue: Path) -> list[tuple[int, int]] | None:
    cursor = Cursor(queue / "delivered.cursor", list[tuple[int, int]])
    cursor.close()
    return cursor.value


@pytest.mark.parametrize("lanes", [1, 4])
async def test_what_lags_comes_from_disk_in_order(tmp_path: Path, lanes: int) -> None:
    sink = RecordingSink(lanes=lanes, batch_rows=1000)
    sink.open.clear()
    async with _hub(tmp_path, sink, _TINY_WINDOW) as hub:
        for k in range(0, 20_000, 100):
            await hub.write(batch_of(hub.table, _rows(k, 100)))
            assert hub.status()[0].memory_bytes <= _TINY_WINDOW.window_bytes
        assert hub.status()[0].waiting_values == 20_000
        sink.open.set()
        for k in range(20_000, 25_000, 100):
            await hub.write(batch_of(hub.table, _rows(k, 100)))
            await asyncio.sleep(0)
        await _settled(hub)
    assert len(sink.rows) == 25_000
    assert _in_order(sink.rows)
    assert not any(again for _, again in sink.calls)


async def test_a_sink_that_is_not_ordered_gets_the_newest_first(tmp_path: Path) -> None:
    sink = RecordingSink(ordered=False, lanes=1, batch_rows=100)
    sink.open.clear()
    async with _hub(tmp_path, sink, QueueOptions(window_bytes=200_000)) as hub:
        await hub.write(batch_of(hub.table, _rows(0, 100)))
        await until(lambda: sink.calls)
        for k in range(100, 10_000, 100):
            await hub.write(batch_of(hub.table, _rows(k, 100)))
        # Newer values have three quarters of the window; what is beyond was read from disk.
        await until(lambda: hub.status()[0].memory_bytes > 150_000)
        sink.open.set()
        await _settled(hub)
    assert Counter(row.time_ns for row in sink.rows) == Counter(range(10_000))
    order = [rows[0].time_ns // 100 for rows, _ in sink.calls]
    # One batch was under way before anything lagged; then the newest, and every fourth one from the backlog.
    assert order[0] == 0
    newest, backlog = [one for one in order[1:21] if one > 50], [one for one in order[1:21] if one <= 50]
    assert newest == list(range(99, 84, -1))
    assert backlog == [1, 2, 3, 4, 5]


async def test_nothing_is_lost_and_little_comes_twice_whenever_the_process_is_killed(tmp_path: Path) -> None:
    """The sink fails and refuses at random; the directory is copied as it is, and a new process goes on with the copy."""
    chance = random.Random(5)
    final: set[int] = set()
    acked = 0

    def verdict(batch: Values) -> Delivered | Exception:
        if chance.random() < 0.3:
            return TryAgainError("no", retry_after_s=0.001)
        final.update(batch.time_ns.tolist())
        bad = np.flatnonzero(batch.time_ns % 97 == 5)
        return Delivered([Refused(RefusedWhy.BAD_REQUEST, bad, "bad")] if len(bad) else [])

    for life in range(8):
        sink = RecordingSink(lanes=chance.randint(1, 4), batch_rows=chance.choice([7, 50, 1000]))
        sink.verdict = verdict
        before = set(final)
        async with _hub(tmp_path / str(life), sink, _TINY_WINDOW) as hub:
            for _ in range(chance.randint(1, 60)):
                count = chance.randint(1, 200)
                await hub.write(batch_of(hub.table, _rows(acked, count)))
                acked += count
                await asyncio.sleep(0.001 * (chance.random() < 0.3))
            shutil.copytree(tmp_path / str(life), tmp_path / str(life + 1))
            at_the_copy = set(final)
        assert all(again for rows, again in sink.calls if {row.time_ns for row in rows} & before)
        final &= at_the_copy
    last = RecordingSink(lanes=2)
    async with _hub(tmp_path / "8", last, _TINY_WINDOW) as hub:
        await _settled(hub)
    assert final | {row.time_ns for row in last.rows} == set(range(acked))
    assert _in_order(last.rows)


async def test_what_was_saved_does_not_come_again(tmp_path: Path) -> None:
    sink = RecordingSink(lanes=3)
    async with _hub(tmp_path / "a", sink, _TINY_WINDOW) as hub:
        await hub.write(batch_of(hub.table, _rows(0, 2000)))
        await _settled(hub)
        await until(lambda: _saved(tmp_path / "a" / "recording") == [(0, 2000)])
        sink.open.clear()
        await hub.write(batch_of(hub.table, _rows(2000, 50)))
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    again = RecordingSink(lanes=3)
    async with _hub(tmp_path / "b", again, _TINY_WINDOW) as hub:
        await _settled(hub)
    assert sorted(row.time_ns for row in again.rows) == list(range(2000, 2050))


async def test_damage_of_the_queue_is_counted(tmp_path: Path) -> None:
    sink, registry = RecordingSink(), Registry()
    sink.open.clear()
    async with _hub(tmp_path, sink, _TINY_WINDOW) as hub:
        for k in range(0, 1000, 100):
            await hub.write(batch_of(hub.table, _rows(k, 100)))
    [segment] = (tmp_path / "recording").glob("*.segment")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    sink = RecordingSink()
    async with _hub(tmp_path, sink, _TINY_WINDOW, registry) as hub:
        await _settled(hub)
        assert hub.status()[0].unreadable == 100
    assert len(sink.rows) == 900
    assert registry.counter("sink_unreadable", sink="recording") == 100


async def test_a_file_that_is_none_any_more_is_damage_and_not_dropped(tmp_path: Path) -> None:
    sink, registry = RecordingSink(), Registry()
    sink.open.clear()
    async with _hub(tmp_path, sink, _TINY_WINDOW) as hub:
        await hub.write(batch_of(hub.table, _rows(0, 100)))
    async with _hub(tmp_path, sink, _TINY_WINDOW) as hub:
        await hub.write(batch_of(hub.table, _rows(100, 50)))
    first, _ = sorted((tmp_path / "recording").glob("*.segment"))
    first.write_bytes(b"no segment")
    sink = RecordingSink()
    async with _hub(tmp_path, sink, _TINY_WINDOW, registry) as hub:
        await _settled(hub)
        status = hub.status()[0]
        assert (status.unreadable, status.dropped) == (100, 0)
        assert any("100 values lost as its queue is damaged" in problem for problem in hub.problems())
    assert len(sink.rows) == 50
    assert registry.counter("sink_unreadable", sink="recording") == 100
    assert registry.counter("sink_dropped", sink="recording") == 0


def _park(batch: Values, wanted: Callable[[int], bool], due_in_s: float | None = None) -> Delivered:
    rows = np.array([k for k, one in enumerate(batch.time_ns.tolist()) if wanted(one)], np.int64)
    return Delivered(parked=[Parked(rows, due_in_s, "not yet: its shard")] if len(rows) else [])


async def test_what_is_parked_holds_nothing_and_comes_again_when_it_is_due(tmp_path: Path) -> None:
    sink, registry = RecordingSink(lanes=2, batch_rows=50), Registry()
    waiting = {one for one in range(3000) if one % 7 == 3}
    sink.verdict = lambda batch: _park(batch, waiting.__contains__, 0.01)
    async with _hub(tmp_path, sink, QueueOptions(), registry) as hub:
        for k in range(0, 3000, 100):
            await hub.write(batch_of(hub.table, _rows(k, 100)))
        await until(lambda: hub.status()[0].delivered == 3000 - len(waiting))
        await until(lambda: b'sink_parked_values{sink="recording"}' in registry.render())
        status = hub.status()[0]
        assert (status.waiting_values, status.age_s) == (len(waiting), 0.0)
        assert status.parked_s > 0
        assert status.parked_why in {"not yet: its shard", ""}
        sink.rows.clear()
        sink.verdict = lambda _: Delivered()
        await _settled(hub)
        assert (hub.status()[0].parked_values, hub.status()[0].delivered) == (0, 3000)
    assert {row.time_ns for row in sink.rows} == waiting
    assert all(again for rows, again in sink.calls if {row.time_ns for row in rows} <= waiting)
    assert registry.counter("sink_delivered", sink="recording") == 3000


async def test_what_is_parked_when_the_process_is_killed_comes_again(tmp_path: Path) -> None:
    sink = RecordingSink(lanes=2)
    sink.verdict = lambda batch: _park(batch, lambda one: one == 1234, 1000.0)
    async with _hub(tmp_path / "a", sink, _TINY_WINDOW) as hub:
        for k in range(0, 2000, 100):
            await hub.write(batch_of(hub.table, _rows(k, 100)))
        await until(lambda: hub.status()[0].parked_values == 1)
        await until(lambda: _saved(tmp_path / "a" / "recording") == [(0, 1200), (1300, 2000)])
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    again = RecordingSink(lanes=2)
    async with _hub(tmp_path / "b", again, _TINY_WINDOW) as hub:
        await _settled(hub)
    assert sorted(row.time_ns for row in again.rows) == list(range(1200, 1300))


async def test_a_window_full_of_parked_values_holds_the_sink(tmp_path: Path) -> None:
    sink = RecordingSink(lanes=1, batch_rows=50)
    sink.verdict = lambda batch: _park(batch, lambda _: True, 0.05)
    async with _hub(tmp_path, sink, _TINY_WINDOW) as hub:
        for k in range(0, 3000, 100):
            await hub.write(batch_of(hub.table, _rows(k, 100)))
        await until(lambda: hub.status()[0].memory_bytes > 15_000)
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert hub.status()[0].memory_bytes <= _TINY_WINDOW.window_bytes + 5_000
        sink.verdict = lambda _: Delivered()
        await _settled(hub)
    assert {row.time_ns for row in sink.rows} == set(range(3000))


async def test_parked_values_do_not_keep_the_disk_occupied(tmp_path: Path) -> None:
    """One value in a thousand waits for itself; the queue is a twentieth of what goes through it."""
    sink = RecordingSink(lanes=2, batch_rows=1000)
    sink.verdict = lambda batch: _park(batch, lambda one: one % 1000 == 5, 1000.0)
    queue, count = QueueOptions(max_bytes=200_000, segment_bytes=10_000, window_bytes=100_000), 100_000
    async with _hub(tmp_path / "a", sink, queue) as hub:
        for k in range(0, count, 100):
            await hub.write(batch_of(hub.table, _rows(k, 100)))
        await until(lambda: hub.status()[0].waiting_values == 100)
        assert not hub.status()[0].full
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    delivered = {row.time_ns for row in sink.rows if row.time_ns % 1000 != 5}
    assert len(delivered) == count - 100
    again = RecordingSink()
    async with _hub(tmp_path / "b", again, queue) as hub:
        await _settled(hub)
    assert {one for one in range(count) if one % 1000 == 5} <= {row.time_ns for row in again.rows}


async def test_a_mistake_in_a_sink_is_like_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sink, registry = RecordingSink(lanes=1), Registry()
    errors: list[Exception] = [ZeroDivisionError("http://user:secret@host/")]
    sink.verdict = lambda _: errors.pop() if errors else Delivered()
    async with _hub(tmp_path, sink, _TINY_WINDOW, registry) as hub:
        await hub.write(batch_of(hub.table, _rows(0, 10)))
        await until(lambda: hub.status()[0].error)
        assert hub.status()[0].error == "ZeroDivisionError, a mistake of ours: see the log"
        await _settled(hub)
    assert [again for _, again in sink.calls] == [False, True]
    logged = capsys.readouterr().err
    assert "raise verdict" in logged
    assert "secret" not in logged
    assert registry.counter("sink_failed_attempts", sink="recording") == 1


async def test_the_figures_of_a_sink(tmp_path: Path) -> None:
    sink, registry = RecordingSink(), Registry()
    sink.verdict = lambda _: TryAgainError("503 of http://a/b")
    async with _hub(tmp_path, sink, _TINY_WINDOW, registry) as hub:
        await hub.write(batch_of(hub.table, _rows(0, 100)))
        await until(lambda: b'sink_depth_values{sink="recording"} 100' in registry.render())
        page = registry.render()
        assert b'sink_failing{sink="recording"} 1' in page
        assert b'sink_full{sink="recording"} 0' in page
        assert b'sink_age_seconds{sink="recording"}' in page
        [status] = hub.status()
        assert (status.waiting_values, status.appended, status.delivered) == (100, 100, 0)
        assert (status.error, status.held, status.full) == ("503 of http://a/b", False, False)
        assert 100 * 20 < status.waiting_bytes <= status.disk_bytes
        assert 0 <= status.age_s < 60
        assert status.failing_s > 0
        sink.verdict = lambda _: Delivered()
        await until(lambda: b'sink_depth_values{sink="recording"} 0' in registry.render())
        [status] = hub.status()
        assert (status.waiting_values, status.delivered, status.error, status.age_s) == (0, 100, "", 0.0)
        assert status.rate_in > 0
    assert registry.counter("sink_appended", sink="recording") == 100
    assert registry.counter("sink_delivered", sink="recording") == 100
