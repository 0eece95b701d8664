"""The store as its callers see it: what is written is read back, the last write holds, retention, refusals, bounds, ``kill -9``."""

import asyncio
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.coordinator.store.conftest import satisfies, write_batch

from coordinator.matchers import Matcher, MatchOp
from coordinator.store import (
    QueryTooLargeError,
    Refusal,
    Selection,
    Store,
    StoreError,
    StoreOptions,
    WriteBatch,
    open_store,
)
from coordinator.store.database import _insert_points
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3x.instrument import Registry

NOW_S = 1_700_000_000
POLICIES = [StoragePolicy.parse("10s:2d"), StoragePolicy.parse("1m:40d")]
Batch = Callable[..., WriteBatch]
Sid = Callable[..., bytes]


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> int:
        return self.now_s * 10**9


def by_name(selection: Selection) -> dict[bytes, list[tuple[int, float]]]:
    """Points by metric name, in seconds relative to NOW_S."""
    return {
        dict(selection.tags(i))[b"__name__"]: [
            (int(selection.time_ms[k]) // 1000 - NOW_S, float(selection.values[k]))
            for k in range(selection.offsets[i], selection.offsets[i + 1])
        ]
        for i in range(len(selection))
    }


async def everything(store: Store, **more: object) -> dict[bytes, list[tuple[int, float]]]:
    return by_name(await store.select([], (NOW_S - 10**7) * 1000, (NOW_S + 10**6) * 1000, **more))


def at(offset_s: int) -> int:
    return (NOW_S + offset_s) * 1000


async def test_what_is_written_is_read_back_after_reopening(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    points = [(sid("a", x="1"), at(-20), 1.5), (sid("b"), at(-20), -2.0), (sid("a", x="1"), at(-10), 3.0)]
    expected = {b"a": [(-20, 1.5), (-10, 3.0)], b"b": [(-20, -2.0)]}
    async with open_store(tmp_path / "new" / "m.duckdb", POLICIES, clock=Clock()) as store:
        written = await store.write(batch(points))
        assert not written.refusals.any()
        assert await everything(store) == expected
    async with open_store(tmp_path / "new" / "m.duckdb", POLICIES, clock=Clock()) as store:
        assert await everything(store) == expected
        found = await store.select([Matcher(MatchOp.EQUAL, b"x", b"1")], at(-15), at(0))
        assert by_name(found) == {b"a": [(-10, 3.0)]}


async def test_of_two_writes_of_the_same_time_the_last_holds(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        await store.write(batch([(sid("a"), at(-20), 1.0), (sid("a"), at(-10), 2.0)]))
        await store.write(batch([(sid("a"), at(-20), 3.0), (sid("b"), at(-20), 4.0), (sid("b"), at(-20), 5.0)]))
        assert await everything(store) == {b"a": [(-20, 3.0), (-10, 2.0)], b"b": [(-20, 5.0)]}
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        await store.write(batch([(sid("a"), at(-20), 6.0)]))
        assert (await everything(store))[b"a"] == [(-20, 6.0), (-10, 2.0)]


@pytest.mark.parametrize(
    "bits", [0x7FF0000000000002, 0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000000, 1 << 63]
)
async def test_every_bit_of_a_value_is_kept(tmp_path: Path, batch: Batch, sid: Sid, bits: int) -> None:
    value = struct.unpack("<d", struct.pack("<Q", bits))[0]
    one = batch([(sid("a"), at(-20), 0.0), (sid("a"), at(-10), 1.0)])
    one.values = np.array([value, 1.0])
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        await store.write(one)
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        found = await store.select([], at(-100), at(0))
        assert found.bits.tolist() == [bits, 0x3FF0000000000000]


async def test_all_ways_to_write_an_id_are_one_series(tmp_path: Path, batch: Batch) -> None:
    tags = [(b"__name__", b"a"), (b"b", b"1"), (b"c", b"2")]
    forms = [
        encode_tags(tags),
        encode_tags(tags[::-1]),
        encode_tags(tags) + b".p99",
        encode_tags([*tags, (b"__option_id_scheme__", b"x")]),
    ]
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        for repeat in range(2):
            await store.write(batch([(form, at(10 * i - 100), float(i + repeat)) for i, form in enumerate(forms)]))
        assert len(store.index) == 1
        found = await store.select([], at(-1000), at(0))
        assert found.tags(0) == tags
        assert found.values.tolist() == [1.0, 2.0, 3.0, 4.0]


async def test_refused_rows_are_told_and_do_not_disturb_the_others(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    rows = [
        (b"no tags", at(-20), 1.0),
        (sid("ok"), at(-20), 2.0),
        (sid("old"), at(-2 * 86400 - 1), 3.0),
        (sid("future"), at(2 * 3600), 4.0),
        (encode_tags([]), at(-20), 5.0),
        (encode_tags([(b"a", b"1"), (b"a", b"2")]), at(-20), 6.0),
        (encode_tags([(b"a", b"")]), at(-20), 7.0),
        (encode_tags([(b"__g0__", b"g"), (b"__g1__", b""), (b"__option_id_scheme__", b"graphite")]), at(-20), 8.0),
    ]
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        written = await store.write(batch(rows))
        bad, outside = Refusal.BAD_ID, Refusal.OUTSIDE_RETENTION
        assert written.refusals.tolist() == [bad, 0, outside, outside, bad, bad, bad, 0]
        assert [row for row, _ in written.errors] == [0, 4, 5, 6]
        assert "appears more than once" in written.errors[2][1]
        found = await store.select([], at(-100), at(0))
        assert sorted(found.values.tolist()) == [2.0, 8.0]
        assert not (await store.write(batch([]))).refusals.any()


async def test_what_options_let_in_is_stored_as_labels(tmp_path: Path, batch: Batch) -> None:
    """The first of several values that is none without text; what is the same then is one series."""
    options = StoreOptions(allow_duplicate_tag_names=True, allow_empty_tag_values=True)
    ids = [
        encode_tags([(b"a", b""), (b"a", b"2"), (b"a", b"1")]),
        encode_tags([(b"b", b""), (b"a", b"2")]),
        encode_tags([(b"a", b"2")]),
        encode_tags([(b"a", b"")]),
    ]
    async with open_store(tmp_path / "m.duckdb", POLICIES, options, clock=Clock()) as store:
        written = await store.write(batch([(one, at(-20), 1.0) for one in ids]))
        assert (written.refusals.tolist(), written.errors) == ([0, 0, 0, Refusal.BAD_ID], [(3, "no tag has a value")])
        assert [store.index.tags(i) for i in range(len(store.index))] == [[(b"a", b"2")]]


async def test_series_that_have_a_point_within_a_range(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        await store.write(batch([(sid("early"), at(-100), 1.0), (sid("late"), at(-10), 2.0)]))
        await store.write(batch([(sid("early"), at(-3 * 86400), 3.0), (sid("coarse"), at(-100), 4.0)], policy=1))

        async def names(start_s: int, end_s: int, policies: list[int] | None = None, *wanted: Matcher) -> list[bytes]:
            index, entries = await store.match([list(wanted)], (at(start_s), at(end_s)), policies=policies)
            return [dict(index.tags(entry))[b"__name__"] for entry in entries.tolist()]

        assert await names(-100, -10) == [b"early", b"late", b"coarse"]
        assert await names(-100, -11) == [b"early", b"coarse"]
        assert await names(-99, 0) == [b"late"]
        assert await names(-3 * 86400, -101) == [b"early"]
        assert await names(-3 * 86400, -101, [0]) == []
        assert await names(-100, 0, [1]) == [b"coarse"]
        assert await names(-100, 0, [0, 1], Matcher(MatchOp.REGEX, b"__name__", b".*a.*")) == [
            b"early",
            b"late",
            b"coarse",
        ]
        assert await names(0, -100) == []
        # Few of many are asked for by their numbers.
        await store.write(batch([(sid("more", i=str(i)), at(-50), 0.0) for i in range(100)]))
        assert await names(-100, -60, None, Matcher(MatchOp.EQUAL, b"__name__", b"early")) == [b"early"]
        assert await names(-60, 0, None, Matcher(MatchOp.EQUAL, b"__name__", b"early")) == []


async def test_a_point_beyond_retention_is_no_point(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    clock = Clock()
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=clock) as store:
        await store.write(batch([(sid("a"), at(-10), 1.0)]))
        clock.now_s += 2 * 86400
        assert len((await store.match([[]], (at(-10), at(0))))[1]) == 0


async def test_no_more_series_than_allowed(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    async with open_store(tmp_path / "m.duckdb", POLICIES, StoreOptions(max_series=2), clock=Clock()) as store:
        written = await store.write(batch([(sid(name), at(-10), 1.0) for name in ("a", "b", "c", "a")]))
        assert written.refusals.tolist() == [0, 0, Refusal.TOO_MANY_SERIES, 0]


async def test_policies_are_apart_and_the_finest_that_covers_answers(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        await store.write(batch([(sid("both"), at(-60), 1.0), (sid("fine"), at(-60), 2.0)]))
        await store.write(batch([(sid("both"), at(-60), 10.0), (sid("coarse"), at(-60), 20.0)], policy=1))
        assert store.policy_index(60 * 10**9, 40 * 86400 * 10**9) == 1
        assert store.policy_index(60 * 10**9, 41 * 86400 * 10**9) == -1
        recent = by_name(await store.select([], at(-3600), at(0)))
        assert recent == {b"both": [(-60, 1.0)], b"fine": [(-60, 2.0)], b"coarse": [(-60, 20.0)]}
        # The finer policy does not reach back to the start of this range.
        long = by_name(await store.select([], at(-5 * 86400), at(0)))
        assert long == {b"both": [(-60, 10.0)], b"fine": [(-60, 2.0)], b"coarse": [(-60, 20.0)]}
        assert by_name(await store.select([], at(-3600), at(0), policies=[1])) == {
            b"both": [(-60, 10.0)],
            b"coarse": [(-60, 20.0)],
        }
        # A look-back of at least the resolution: 1 m for the coarse series.
        instant = by_name(await store.select([], at(-20), at(-20), lookback_ms=30_000))
        assert instant == {b"coarse": [(-60, 20.0)], b"both": [(-60, 10.0)]}


async def test_a_store_without_policies_has_nothing_to_expire(tmp_path: Path) -> None:
    async with open_store(tmp_path / "m.duckdb", []) as store:
        await store.expire()


async def test_retention_hides_at_once_and_deletes(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    clock = Clock()
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=clock) as store:
        await store.write(batch([(sid("a"), at(-86400), 1.0), (sid("a"), at(-10), 2.0)]))
        await store.write(batch([(sid("long"), at(-86400), 3.0)], policy=1))
        clock.now_s += 86400 + 60
        assert await everything(store) == {b"a": [(-10, 2.0)], b"long": [(-86400, 3.0)]}
        await store.expire()
        clock.now_s = NOW_S
        assert await everything(store) == {b"a": [(-10, 2.0)], b"long": [(-86400, 3.0)]}


async def test_series_without_points_are_forgotten_and_may_come_back(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    clock = Clock()
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=clock) as store:
        await store.write(batch([(sid(f"old{i}"), at(-10), 1.0) for i in range(10)]))
        clock.now_s += 41 * 86400
        kept = (sid("kept"), clock.now_s * 1000, 2.0)
        await store.write(batch([kept]))
        await store.expire()
        assert store.index.labels.values(b"__name__") == [b"kept"]
        await store.write(batch([kept, (sid("old3"), clock.now_s * 1000, 7.0)]))
        found = await store.select([], at(0), clock.now_s * 1000)
        assert sorted((dict(found.tags(i))[b"__name__"], found.values[i]) for i in range(2)) == [
            (b"kept", 2.0),
            (b"old3", 7.0),
        ]
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=clock) as store:
        assert store.index.labels.values(b"__name__") == [b"kept", b"old3"]


label_sets = st.dictionaries(
    st.sampled_from([b"__name__", b"app", b"dc"]),
    st.sampled_from([b"a", b"ab", b"b", b"\xc3\xa9"]),
    min_size=1,
    max_size=3,
)
any_matcher = st.builds(
    Matcher, st.sampled_from(MatchOp), st.sampled_from([b"__name__", b"app", b"no"]), st.sampled_from([b"a", b"a|b", b".*", b"", b".+"])
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(label_sets, max_size=8), max_size=3),
    st.lists(st.lists(any_matcher, max_size=3), min_size=1, max_size=4),
)
async def test_matching_equals_the_model_before_and_after_a_restart(
    writes: list[list[dict[bytes, bytes]]], questions: list[list[Matcher]]
) -> None:
    known: list[dict[bytes, bytes]] = []

    async def ask(store: Store) -> None:
        for matchers in questions:
            index, entries = await store.match([matchers])
            expected = [tags for tags in known if all(satisfies(tags, matcher) for matcher in matchers)]
            assert [dict(index.tags(entry)) for entry in entries.tolist()] == expected
        assert store.index.labels.names() == sorted({name for tags in known for name in tags})
        assert store.index.labels.values(b"app") == sorted({tags[b"app"] for tags in known if b"app" in tags})

    with tempfile.TemporaryDirectory() as folder:
        for step in [*writes, []]:
            async with open_store(Path(folder) / "m.duckdb", POLICIES, clock=Clock()) as store:
                await ask(store)
                # Tags in an order that is not the stored one, as senders write them.
                points = [(encode_tags(sorted(tags.items(), reverse=True)), at(-10), 1.0) for tags in step]
                assert not (await store.write(write_batch(points))).refusals.any()
                known += [tags for i, tags in enumerate(step) if tags not in known and tags not in step[:i]]
                await ask(store)


async def test_many_writers_share_transactions(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    registry = Registry()
    async with open_store(tmp_path / "m.duckdb", POLICIES, scope=registry.scope("store"), clock=Clock()) as store:
        await asyncio.gather(*(store.write(batch([(sid(f"m{i}"), at(-10), float(i))])) for i in range(200)))
        assert registry.counter("store_rows") == 200
        assert registry.counter("store_commits") < 20
        assert {name: points[0][1] for name, points in (await everything(store)).items()} == {
            f"m{i}".encode(): float(i) for i in range(200)
        }


async def test_writers_wait_while_too_much_is_pending(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    options = StoreOptions(max_pending_rows=10, max_commit_rows=10)
    async with open_store(tmp_path / "m.duckdb", POLICIES, options, clock=Clock()) as store:
        writes = [
            asyncio.create_task(store.write(batch([(sid(f"m{i}-{k}"), at(-10), 1.0) for k in range(8)])))
            for i in range(20)
        ]
        most = 0
        while not all(task.done() for task in writes):
            most = max(most, store.pending_rows)
            await asyncio.sleep(0)
        assert 0 < most < 10 + 8
        assert len(await everything(store)) == 160


@pytest.mark.parametrize("kind", [duckdb.IOException, duckdb.FatalException, MemoryError])
async def test_a_failed_commit_is_told_and_the_next_one_carries_its_series(
    tmp_path: Path, batch: Batch, sid: Sid, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def broken(*_: object) -> None:
        raise kind("disk full")

    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        with monkeypatch.context() as patch:
            patch.setattr("coordinator.store.database._insert_points", broken)
            with pytest.raises(StoreError, match="disk full"):
                await store.write(batch([(sid("a"), at(-20), 1.0)]))
        assert await everything(store) == {}
        await store.write(batch([(sid("a"), at(-20), 2.0)]))
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        assert await everything(store) == {b"a": [(-20, 2.0)]}


async def test_a_commit_under_way_at_the_end_is_told_and_not_repeated(
    tmp_path: Path, batch: Batch, sid: Sid, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> None:
        entered.set()
        assert release.wait(20)
        _insert_points(*arguments)

    monkeypatch.setattr("coordinator.store.database._insert_points", slow)
    async with asyncio.timeout(20):
        opened = open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock())
        store = await opened.__aenter__()
        first = asyncio.create_task(store.write(batch([(sid("a"), at(-20), 1.0)])))
        assert await asyncio.to_thread(entered.wait, 20)
        second = asyncio.create_task(store.write(batch([(sid("b"), at(-20), 2.0)])))
        closing = asyncio.create_task(opened.__aexit__(None, None, None))
        for _ in range(10):
            await asyncio.sleep(0)
        release.set()
        await closing
        await asyncio.gather(first, second)
    with duckdb.connect(str(tmp_path / "m.duckdb")) as connection:
        assert connection.execute("SELECT number FROM series ORDER BY number").fetchall() == [(0,), (1,)]
        assert connection.execute("SELECT series, value FROM points_0 ORDER BY series").fetchall() == [(0, 1), (1, 2)]


async def test_reads_beside_writes_see_whole_commits(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:

        async def write() -> None:
            for k in range(30):
                await store.write(batch([(sid(f"m{i}"), at(-k), float(k)) for i in range(20)]))

        writing = asyncio.create_task(write())
        while not writing.done():
            found = await everything(store)
            assert len({tuple(points) for points in found.values()}) <= 1
            assert len(found) in (0, 20)
        await writing
        assert all(len(points) == 30 for points in (await everything(store)).values())


async def test_reads_are_bounded(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    async with open_store(tmp_path / "m.duckdb", POLICIES, StoreOptions(max_query_points=5), clock=Clock()) as store:
        await store.write(batch([(sid("a"), at(-10 * i), 1.0) for i in range(6)]))
        assert len((await store.select([], at(-45), at(0))).time_ms) == 5
        with pytest.raises(QueryTooLargeError, match="more than 5 points"):
            await store.select([], at(-60), at(0))


async def test_only_points_of_the_selected_series_count(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    options = StoreOptions(max_query_points=6)
    async with open_store(tmp_path / "m.duckdb", POLICIES, options, clock=Clock()) as store:
        for name, points in (("a", 6), ("b", 7)):
            await store.write(batch([(sid(name), at(-10 * i), 1.0) for i in range(points)]))
        chosen = {name: [Matcher(MatchOp.EQUAL, b"__name__", name)] for name in (b"a", b"b")}
        assert len((await store.select(chosen[b"a"], at(-60), at(0))).time_ms) == 6
        with pytest.raises(QueryTooLargeError, match="more than 6 points"):
            await store.select(chosen[b"b"], at(-60), at(0))


async def test_a_file_that_is_not_ours_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.duckdb"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(StoreError, match=r"m\.duckdb"):
        async with open_store(path, POLICIES):
            pass


async def test_windows_tell_what_was_written(tmp_path: Path, batch: Batch, sid: Sid) -> None:
    async with open_store(tmp_path / "m.duckdb", POLICIES, clock=Clock()) as store:
        await store.write(batch([(sid("a"), at(-20), 1.0), (sid("b"), at(-20), 2.0), (sid("a"), at(-10), 3.0)]))
        async with asyncio.timeout(20):
            while not (answer := store.windows(0))[0]:  # noqa: ASYNC110 - the feed is polled
                await asyncio.sleep(0.05)
        windows, following = answer
        assert [(w.policy, w.time_ms, w.count) for w in windows] == [(0, at(-20), 2), (0, at(-10), 1)]
        assert [(dict(store.index.tags(e))[b"__name__"], v) for e, v in windows[0].samples] == [
            (b"a", 1.0),
            (b"b", 2.0),
        ]
        assert store.windows(following) == ([], following)


WRITER = """
import asyncio, sys
import numpy as np
from coordinator.store import WriteBatch, open_store
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy

async def main():
    async with open_store(sys.argv[1], [StoragePolicy.parse("10s:2d")]) as store:
        import time
        start = int(time.time()) - 3600
        for i in range(100_000):
            ids = [encode_tags([(b"__name__", b"m%d" % (i + k))]) for k in range(3)]
            sizes = np.array([len(one) for one in ids], np.int64)
            await store.write(WriteBatch(np.frombuffer(bytearray(b"".join(ids)), np.uint8), np.cumsum(sizes) - sizes, sizes,
                np.full(3, (start + i % 3600) * 1000, np.int64), np.full(3, float(i)), np.zeros(3, np.int64)))
            print(i, start + i % 3600, flush=True)

asyncio.run(main())
"""


def acked_until_killed(path: Path) -> list[tuple[int, ...]]:
    """Starts the writer, kills it in the middle; (i, second) of each write that had returned."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        acked = [tuple(map(int, writer.stdout.readline().split())) for _ in range(150)]
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        rest, _ = writer.communicate()
    complete = rest[: rest.rfind("\n") + 1]
    return acked + [tuple(map(int, line.split())) for line in complete.splitlines()]


async def test_what_was_acked_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "m.duckdb"
    acked = await asyncio.to_thread(acked_until_killed, path)
    async with open_store(path, [StoragePolicy.parse("10s:2d")]) as store:
        found = await store.select([], 0, 2**42)
        stored = {
            (dict(found.tags(s))[b"__name__"], int(found.time_ms[k]), float(found.values[k]))
            for s in range(len(found))
            for k in range(found.offsets[s], found.offsets[s + 1])
        }
    for i, second in acked:
        for k in range(3):
            assert (b"m%d" % (i + k), second * 1000, float(i)) in stored
