"""The journal of a worker without processes: killed at any byte, it goes on as if nothing had been."""

import random
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aggregator.engine.engine_calls import NOW, SECOND, all_shards, engine_of, flush_both, options
from tests.aggregator.engine.engine_frames import frame
from tests.aggregator.engine.reference_engine import bits
from tests.aggregator.engine.test_engine import alike, random_metric, random_stages
from tests.aggregator.engine.test_shorthand import close_all, command_of

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.journal import Journal, JournalOptions, carry_out
from aggregator.journal.snapshots import newest
from m3metrics import codec
from m3metrics.metadata import DEFAULT_STAGED_METADATAS, PipelineMetadata, StagedMetadata
from m3metrics.pipeline import RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3x.segments import DirectoryLock
from m3x.segments.directory import segment_name, segment_numbers

OPTIONS = options()
SHARDS = ipc.Shards(4, 16, all_shards())


class Core:
    """A worker: engine and journal. ``kill`` ends it, ``start`` begins its successor."""

    def __init__(self, folder: Path, **journal: Any) -> None:
        self.options = JournalOptions(path=str(folder), segment_bytes=3000, **({"shards": SHARDS} | journal))
        self.start()

    def start(self) -> None:
        self.engine = Engine(OPTIONS, max_series=1 << 12)
        self.journal = Journal(self.options)
        self.result = self.journal.replay(self.engine, lambda *_: None)

    def batch(self, batch: ipc.Batch, payload: bytes) -> bool:
        """Whether it was applied now."""
        if self.journal.sessions.has(batch.front, batch.seq):
            return False
        data = np.frombuffer(payload, np.uint8)
        result = self.engine.ingest(data, np.array(batch.sizes, np.int64), batch.now_ns, journaled=True)
        self.journal.batch(batch, batch.now_ns, result.rows)
        return True

    def order(self, command: Any, now_ns: int) -> None:
        self.journal.order(now_ns, command)
        carry_out(self.engine, command, now_ns)

    def snapshot(self, now_ns: int, *, deleted: bool = True, noticed: bool = True) -> None:
        head = self.journal.begin_snapshot(now_ns, self.engine.saved_bytes())
        once, tables = self.engine.save()
        self.journal.write_snapshot(msgspec.structs.replace(head, once=once), tables)
        if deleted:
            self.journal.delete_unneeded()
        if noticed:
            self.journal.snapshot_written(head)

    def kill(self, lost: int = 0) -> int:
        """Takes ``lost`` bytes from the end of the last segment; returns how many were there to take."""
        last = segment_numbers(self.journal.log.path)[-1:]
        self.journal.close()
        for number in last:
            path = self.journal.log.path / segment_name(number)
            size = path.stat().st_size
            lost = min(lost, size)
            with path.open("rb+") as file:
                file.truncate(size - lost)
        return lost


def batch_of(r: random.Random, pool: list[Any], now: int, seq: int, **more: Any) -> tuple[ipc.Batch, bytes]:
    parts = []
    counts = [r.randint(1, 6) for _ in range(r.randint(1, 2))]
    for connection, count in enumerate(counts):
        metrics = [random_metric(r, pool, now, True) for _ in range(count)]
        frames = (frame(codec.encode_metric(m), ident=100 * seq + 10 * connection + k) for k, m in enumerate(metrics))
        parts.append(b"".join(frames))
    settled = more.pop("settled", -1)
    batch = ipc.Batch(seq, now, list(range(len(parts))), [len(p) for p in parts], counts, front=7, settled=settled)
    return batch, b"".join(parts)


def same(one: Engine, other: Engine, command: ipc.Flush, now: int) -> None:
    out, sent = flush_both(one, command, now)
    other_out, other_sent = flush_both(other, command, now)
    assert sorted(out) == sorted(other_out)
    assert sorted(map(alike, sent)) == sorted(map(alike, other_sent))


@settings(max_examples=12)
@given(st.integers(0, 2**32))
def test_killed_at_any_byte(tmp_path_factory: Any, seed: int) -> None:
    """The front keeps what is not acked and gives it again; a record that was cut off was never acked."""
    r = random.Random(seed)
    core = Core(tmp_path_factory.mktemp("journal"))
    plain = engine_of(OPTIONS)
    pool = [random_stages(r, NOW, True) for _ in range(5)]
    now, seq = NOW, 0
    for _ in range(50):
        now += r.choice([1, SECOND // 3, SECOND, 4 * SECOND])
        action = r.random()
        if action < 0.6:
            batch, payload = batch_of(r, pool, now, seq, settled=r.choice([-1, seq - 3]))
            seq += 1
            before = core.journal.log.end
            assert core.batch(batch, payload)
            if r.random() < 0.3:
                # Dead between applying and the ack: of its last record any part may be missing, or all is there.
                size = core.journal.log.end.offset - before.offset
                core.kill(r.randint(0, size) if core.journal.log.end.segment == before.segment and size > 0 else 0)
                core.start()
                core.batch(batch, payload)
            data = np.frombuffer(payload, np.uint8)
            plain.ingest(data, np.array(batch.sizes, np.int64), batch.now_ns)
            assert core.journal.sessions.has(7, batch.seq)
        elif action < 0.85:
            command = r.choice([command_of(r, now, OPTIONS), ipc.Expire(), ipc.RuntimeOptions(r.choice([0, 5]), 0)])
            core.order(command, now)
            carry_out(plain, command, now)
            if r.random() < 0.3:
                list_id = command_of(r, now, OPTIONS).list_id
                for other in (ipc.Commit(list_id, [], now - 40 * SECOND), ipc.Reopen(1, list_id, now - 60 * SECOND)):
                    core.order(other, now)
                    carry_out(plain, other, now)
        elif action < 0.95:
            core.snapshot(now, deleted=r.random() < 0.8, noticed=r.random() < 0.8)
        else:
            core.kill()
            core.start()
            assert (core.result.lost, core.result.unknown) == (0, 0)
    core.kill()
    core.start()
    for command in close_all(now):
        same(plain, core.engine, command, now)
    core.journal.close()


@settings(max_examples=8)
@given(st.integers(0, 2**32))
def test_what_was_not_settled_may_come_again(tmp_path_factory: Any, seed: int) -> None:
    """After the end of everything the producers send what they know no ack of, over other connections, in other batches."""
    r = random.Random(seed)
    core = Core(tmp_path_factory.mktemp("journal"))
    plain = engine_of(OPTIONS)
    pool = [random_stages(r, NOW, True) for _ in range(5)]
    now, seq, settled = NOW, 0, -1
    sent: dict[int, tuple[ipc.Batch, bytes]] = {}
    for _ in range(12):
        for _ in range(r.randint(0, 4)):
            now += r.choice([1, SECOND])
            batch, payload = batch_of(r, pool, now, seq, settled=settled)
            seq += 1
            assert core.batch(batch, payload)
            plain.ingest(np.frombuffer(payload, np.uint8), np.array(batch.sizes, np.int64), now)
            sent[batch.seq] = batch, payload
            settled = max(settled, batch.seq - r.randint(1, 6))
            if r.random() < 0.1:
                core.snapshot(now)
        if r.random() < 0.5:
            core.kill()
            core.start()
        else:
            core.journal.expect_repeats(core.engine)
        for number in [n for n in sent if n > (settled if sent else -1)]:
            batch, payload = sent[number]
            if r.random() < 0.5:
                data = np.frombuffer(payload, np.uint8)
                core.engine.ingest(data, np.array(batch.sizes, np.int64), now, journaled=True)
        core.engine.forget_repeats()
        sent.clear()
    for command in close_all(now):
        same(plain, core.engine, command, now)
    core.journal.close()


def test_of_a_connection_that_ended_only_what_it_may_lack_acks_of_is_expected(tmp_path: Path) -> None:
    core = Core(tmp_path)
    payloads = [gauges(NOW, {b"series-%d" % k: float(seq) for k in range(5)}, first_id=1000 * seq) for seq in range(6)]
    for seq, payload in enumerate(payloads):
        core.batch(ipc.Batch(seq, NOW, [seq % 2], [len(payload)], [5], front=7), payload)
    assert core.journal.expect_repeats(core.engine, {0: 6}) == 0
    assert core.journal.expect_repeats(core.engine, {0: 3, 1: 5}) == 10
    for seq, again in enumerate([0, 0, 0, 0, 5, 5]):
        before = core.engine.stats()[0]["redelivered"]
        core.engine.ingest(np.frombuffer(payloads[seq], np.uint8), np.array([len(payloads[seq])]), NOW, journaled=True)
        assert core.engine.stats()[0]["redelivered"] - before == again, seq
    core.journal.close()


@settings(max_examples=8)
@given(st.integers(0, 2**32))
def test_other_workers_take_over(tmp_path_factory: Any, seed: int) -> None:
    """Shards that were on two workers, on one or on three: whatever was open comes out as if nothing had been."""
    r = random.Random(seed)
    folder = tmp_path_factory.mktemp("journal")
    parts = [all_shards()[:2], all_shards()[2:]]
    old = [Core(folder / f"old-{k}", shards=ipc.Shards(4, 16, own)) for k, own in enumerate(parts)]
    plain = engine_of(OPTIONS)
    for core, own in zip(old, parts, strict=True):
        core.order(ipc.Shards(4, 16, own), NOW)
    pool = [random_stages(r, NOW, True) for _ in range(5)]
    now = NOW
    for seq in range(30):
        now += r.choice([1, SECOND // 3, SECOND, 4 * SECOND])
        if r.random() < 0.7:
            batch, payload = batch_of(r, pool, now, seq)
            plain.ingest(np.frombuffer(payload, np.uint8), np.array(batch.sizes, np.int64), now)
            for core in old:
                assert core.batch(batch, payload)
        else:
            command = command_of(r, now, OPTIONS)
            carry_out(plain, command, now)
            for core in old:
                core.order(command, now)
        if r.random() < 0.1:
            r.choice(old).snapshot(now)
    for core in old:
        core.kill()
    sources = tuple(str(folder / f"old-{k}") for k in range(2))
    shards = all_shards()
    layout = r.choice([[shards], [shards[:1], shards[1:3], shards[3:]]])
    new = [Core(folder / f"new-{k}", shards=ipc.Shards(4, 16, own), sources=sources) for k, own in enumerate(layout)]
    for core in new:
        core.kill()
        core.start()
    for command in close_all(now):
        out, sent = flush_both(plain, command, now)
        found: list[Any] = []
        forwarded: list[bytes] = []
        for core in new:
            more, others = flush_both(core.engine, command, now)
            found += more
            forwarded += others
        assert sorted(out) == sorted(found)
        assert sorted(map(alike, sent)) == sorted(map(alike, forwarded))
    for core in new:
        core.journal.close()


def test_a_journal_that_another_worker_is_taking_over_is_waited_for(tmp_path: Path) -> None:
    """They read all of them at the same time."""
    old = Core(tmp_path / "old")
    payload = gauges(NOW, {b"series": 7.0})
    assert old.batch(ipc.Batch(0, NOW, [1], [len(payload)], [1], front=7), payload)
    old.kill()
    lock = DirectoryLock(tmp_path / "old")
    asked: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        asked.append((done, total))
        lock.close()

    options = JournalOptions(path=str(tmp_path / "new"), shards=SHARDS, sources=(str(tmp_path / "old"),))
    journal, engine = Journal(options), Engine(OPTIONS, max_series=1 << 12)
    result = journal.replay(engine, progress)
    assert (asked[0], result.samples, result.unknown) == ((0, 1), 1, 0)
    journal.close()


def gauges(now: int, values: dict[bytes, float], first_id: int = 1) -> bytes:
    metrics = (codec.GaugeWithMetadatas(id=i, value=v, metadatas=DEFAULT_STAGED_METADATAS) for i, v in values.items())
    return b"".join(frame(codec.encode_metric(m), ident=first_id + k) for k, m in enumerate(metrics))


def put(core: Core, seq: int, now: int, values: dict[bytes, float], settled: int = -1) -> None:
    payload = gauges(now, values, first_id=100 * seq)
    core.batch(ipc.Batch(seq, now, [1], [len(payload)], [len(values)], front=7, settled=settled), payload)


def test_damage_in_the_middle_gives_no_value_to_a_wrong_series(tmp_path: Path) -> None:
    core = Core(tmp_path, snapshot_bytes=1 << 30)
    put(core, 0, NOW, {b"a": 1.0})
    before = core.journal.log.end
    put(core, 1, NOW, {b"b": 2.0})
    put(core, 2, NOW + 1, {b"a": 3.0, b"b": 4.0})
    put(core, 3, NOW + 2, {b"c": 5.0})
    put(core, 4, NOW + 3, {b"c": 6.0})
    core.kill()
    path = tmp_path / segment_name(before.segment)
    data = bytearray(path.read_bytes())
    data[before.offset + 40] ^= 0x10
    path.write_bytes(data)
    core.start()
    assert core.result.lost == 2
    out, _ = flush_both(core.engine, close_all(NOW)[0], NOW)
    assert {entry[0]: entry[3] for entry in out} == {b"a": bits(1.0), b"c": bits(6.0)}
    put(core, 5, NOW + 20 * SECOND, {b"a": 7.0, b"b": 8.0})
    core.kill()
    core.start()
    core.journal.close()


def test_a_damaged_snapshot_is_set_aside(tmp_path: Path) -> None:
    core = Core(tmp_path)
    put(core, 0, NOW, {b"a": 1.0})
    core.snapshot(NOW)
    put(core, 1, NOW + 1, {b"a": 3.0, b"b": 4.0})
    core.kill()
    (file,) = (tmp_path / "snapshot-00000001").glob("*.segment")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    core.start()
    assert core.result.unknown == 1
    out, _ = flush_both(core.engine, close_all(NOW)[0], NOW)
    assert {entry[0] for entry in out} <= {b"a", b"b"}
    assert [path.name for path in tmp_path.glob("*.damaged")] == ["snapshot-00000001.damaged"]
    core.snapshot(NOW)
    core.kill()
    core.start()
    assert (core.result.lost, core.result.unknown) == (0, 0)
    core.journal.close()


def test_segments_go_when_a_snapshot_has_them_and_nothing_in_them_may_come_again(tmp_path: Path) -> None:
    core = Core(tmp_path, snapshot_bytes=2000)
    for seq in range(40):
        payload = gauges(NOW, {b"series-%d" % k: 1.0 for k in range(20)}, first_id=100 * seq)
        batch = ipc.Batch(seq, NOW + seq, [1], [len(payload)], [20], front=7, settled=-1 if seq < 30 else seq - 2)
        core.batch(batch, payload)
    assert core.journal.snapshot_due(core.engine.saved_bytes())
    core.snapshot(NOW)
    assert not core.journal.snapshot_due(core.engine.saved_bytes())
    assert core.journal.log.size_bytes < 2500
    core.kill()
    core.start()
    assert core.journal.sessions.has(7, 39)
    assert core.engine.stats()[1]["engine.entries"] == 20
    core.journal.close()


def test_whoever_writes_a_snapshot_deletes_what_is_in_it(tmp_path: Path) -> None:
    """The worker has nothing to do then but to take note: what it reads afterwards, and writes, is what it was."""
    core = Core(tmp_path)
    for seq in range(40):
        payload = gauges(NOW, {b"series-%d" % k: 1.0 for k in range(20)}, first_id=100 * seq)
        core.batch(ipc.Batch(seq, NOW + seq, [1], [len(payload)], [20], front=7, settled=seq - 3), payload)
        if seq == 20:
            core.snapshot(NOW + seq)
    core.snapshot(NOW + 40, noticed=False)
    there = segment_numbers(tmp_path)
    # What may come again is in the last one, or the one before it.
    assert len(there) <= 2 < len(core.journal.log.segments)
    assert [path.name for path in tmp_path.glob("snapshot-*")] == ["snapshot-00000002"]
    assert core.journal.expect_repeats(core.engine) == 60
    head = newest(tmp_path)[0].head  # type: ignore[union-attr]
    core.journal.snapshot_written(head)
    assert [segment.number for segment in core.journal.log.segments] == segment_numbers(tmp_path) == there
    put(core, 40, NOW + 41, {b"series-0": 2.0})
    core.kill()
    core.start()
    assert (core.result.lost, core.result.unknown) == (0, 0)
    assert core.journal.sessions.has(7, 40)
    assert core.engine.stats()[1]["engine.entries"] == 20
    core.journal.close()


def test_the_next_snapshot_comes_earlier_where_flush_times_cover_the_windows(tmp_path: Path) -> None:
    """What it is measured by is what there is to save, not the last snapshot, which had windows that are gone."""
    core = Core(tmp_path, snapshot_bytes=2000)
    names = [b"series-%d" % k for k in range(40)]
    for window in range(30):
        put(core, window, NOW + 10 * window * SECOND, dict.fromkeys(names, 1.0))
    core.snapshot(NOW)
    written = 30
    while core.journal.log.size_from(core.journal._covered) < 8000:
        put(core, written, NOW + 300 * SECOND, dict.fromkeys(names, 1.0))
        written += 1
    assert not core.journal.snapshot_due(core.engine.saved_bytes())
    end = NOW + 400 * SECOND
    for command in close_all(end):
        core.order(command, end)
        core.order(ipc.Commit(command.list_id, [], end), end)
    assert core.journal.snapshot_due(core.engine.saved_bytes())
    core.snapshot(end)
    core.kill()
    core.start()
    # Entries have survived, with what is known of them; nothing comes out once more.
    assert core.engine.stats()[1]["engine.entries"] == 40
    for command in close_all(end):
        assert flush_both(core.engine, command, end) == ([], [])
    core.journal.close()


def test_the_next_snapshot_waits_where_it_would_have_samples_of_timers_that_are_soon_gone(tmp_path: Path) -> None:
    """They are as many bytes there as in the journal: what is written is worth it when their window is gone, or there is too much of it."""
    core = Core(tmp_path, snapshot_bytes=10_000)
    put(core, 0, NOW, {b"series": 1.0})
    core.snapshot(NOW)
    timer = codec.BatchTimerWithMetadatas(id=b"t", values=(1.0,) * 2000, metadatas=DEFAULT_STAGED_METADATAS)
    payload = frame(codec.encode_metric(timer))
    for seq in range(1, 5):
        core.batch(ipc.Batch(seq, NOW, [1], [len(payload)], [1], front=7), payload)
    assert core.journal.log.size_from(core.journal._covered) > 64_000 > 10 * core.journal._snapshot_bytes
    assert not core.journal.snapshot_due(core.engine.saved_bytes())
    for seq in range(5, 13):
        core.batch(ipc.Batch(seq, NOW, [1], [len(payload)], [1], front=7), payload)
    assert core.journal.snapshot_due(core.engine.saved_bytes())
    core.snapshot(NOW)
    for seq in range(13, 17):
        core.batch(ipc.Batch(seq, NOW, [1], [len(payload)], [1], front=7), payload)
    assert not core.journal.snapshot_due(core.engine.saved_bytes())
    end = NOW + 100 * SECOND
    for command in close_all(end):
        core.order(command, end)
        core.order(ipc.Commit(command.list_id, [], end), end)
    assert core.journal.snapshot_due(core.engine.saved_bytes())
    core.journal.close()


def test_where_a_record_was_torn_nothing_is_missing_after_the_next_snapshot(tmp_path: Path) -> None:
    """The worker ends before it hears that the snapshot is written and what is in it deleted."""
    core = Core(tmp_path)
    put(core, 0, NOW, {b"series": 1.0})
    put(core, 1, NOW, {b"series": 2.0})
    core.kill(lost=1)
    core.start()
    for seq in range(1, 5):
        put(core, seq, NOW, {b"series": float(seq)}, settled=seq - 1)
        core.journal.log.roll()
    there = segment_numbers(tmp_path)
    core.snapshot(NOW, noticed=False)
    assert len(segment_numbers(tmp_path)) < len(there)
    put(core, 5, NOW, {b"series": 3.0})
    core.kill()
    core.start()
    assert (core.result.lost, core.result.unknown) == (0, 0)
    core.journal.close()


def test_a_directory_of_the_first_format(tmp_path: Path) -> None:
    """``format-1`` was written by ``write_format`` when the format was new; every release goes on from it."""
    folder = tmp_path / "journal"
    shutil.copytree(Path(__file__).with_name("format-1"), folder)
    core = Core(folder)
    assert (core.result.lost, core.result.unknown) == (0, 0)
    assert core.result.samples == 3
    out, sent = flush_both(core.engine, close_all(NOW + 60 * SECOND)[0], NOW + 60 * SECOND)
    found = {(name.decode(), (at - NOW) // SECOND): value for name, at, _, value, _, _ in out}
    timers = {key for key in found if key[0].startswith("t.")}
    assert {key: found[key] for key in found.keys() - timers} == {key: bits(value) for key, value in FORMAT_1.items()}
    assert found["t.p99", 10] == bits(2.0)
    assert len(timers) > 5
    assert len(sent) == 1
    core.journal.close()


FORMAT_1 = {
    ("first", 10): 1.5,
    ("first", 20): 3.0,
    ("second", 20): 4.0,
    ("stats.counts.hitssum", 10): 10.0,
    ("rate", 20): 2.0,
}
"""Series and seconds since ``NOW`` → value."""


def write_format(folder: Path) -> None:
    """What ``format-1`` holds: a snapshot, and a journal behind it, of every kind of record and of state."""
    core = Core(folder)
    policy = StoragePolicy.parse("10s:2d")
    plain = (StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(policy,)),)),)
    rated = (
        StagedMetadata(
            pipelines=(
                PipelineMetadata(
                    storage_policies=(policy,), pipeline=(TransformationOp(TransformationType.PER_SECOND),)
                ),
            )
        ),
    )
    rolled = (
        StagedMetadata(
            pipelines=(
                PipelineMetadata(
                    aggregation_id=1 << 6, storage_policies=(policy,), pipeline=(RollupOp(b"rolled", 1 << 6),)
                ),
            )
        ),
    )
    seq = 0

    def send(now: int, *metrics: Any) -> None:
        nonlocal seq
        payload = b"".join(frame(codec.encode_metric(m), ident=100 * seq + k) for k, m in enumerate(metrics))
        core.batch(ipc.Batch(seq, now, [1], [len(payload)], [len(metrics)], front=7, settled=seq - 1), payload)
        seq += 1

    core.order(SHARDS, NOW)
    core.order(ipc.RuntimeOptions(1000, 1000), NOW)
    send(
        NOW,
        codec.GaugeWithMetadatas(id=b"first", value=1.5, metadatas=plain, annotation=b"note"),
        codec.CounterWithMetadatas(id=b"hits", value=3, metadatas=plain),
        codec.GaugeWithMetadatas(id=b"rate", value=20.0, metadatas=rated),
        codec.GaugeWithMetadatas(id=b"source", value=5.0, metadatas=rolled),
        codec.BatchTimerWithMetadatas(id=b"t", values=(1.0, 2.0), metadatas=plain),
    )
    send(NOW + 1, codec.CounterWithMetadatas(id=b"hits", value=7, metadatas=plain))
    core.snapshot(NOW)
    later = NOW + 10 * SECOND
    send(
        later,
        codec.GaugeWithMetadatas(id=b"first", value=3.0, metadatas=plain, annotation=b"note"),
        codec.GaugeWithMetadatas(id=b"second", value=4.0, metadatas=plain),
        codec.GaugeWithMetadatas(id=b"rate", value=40.0, metadatas=rated),
    )
    core.order(ipc.Expire(), later)
    core.journal.close()
