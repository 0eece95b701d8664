"""Writing before answering: what waits, and for what."""

import errno
import os
import shutil
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab.waiting import wait_until
from tests.aggregator.engine.engine_calls import NOW, SECOND, all_shards, engine_of, flush, flush_all, options
from tests.aggregator.engine.engine_frames import frame

from aggregator import ipc
from aggregator.journal import JournalOptions
from aggregator.journal.replaying import carry_out
from aggregator.lists import KIND_STANDARD
from aggregator.worker.durable import Durable, Stopped
from m3metrics import codec
from m3metrics.metadata import DEFAULT_STAGED_METADATAS
from m3metrics.shard import shard_of
from m3x.segments import AppendError, SegmentLog

SHARDS = ipc.Shards(4, 16, all_shards())


class Bench:
    def __init__(self, folder: Path, **journal: Any) -> None:
        self.engine = engine_of(options())
        self.told: list[Any] = []
        self.stopped = False
        described = JournalOptions(path=str(folder), shards=SHARDS, **journal)
        self.durable = Durable(described, self.engine, self.told.append, lambda: self.stopped)
        self.acked: list[int] = []

    def batch(
        self,
        seq: int,
        *messages: int,
        since_ns: int = 0,
        host: int = 0,
        ident: bytes = b"c",
        settled: int = -1,
        connection: int = -1,
    ) -> None:
        """With these messages, by their ids; ``connection``: -1: nobody looks at their order."""
        messages = messages or (seq,)
        metrics = (codec.CounterWithMetadatas(id=ident, value=1, metadatas=DEFAULT_STAGED_METADATAS) for _ in messages)
        frames = [frame(codec.encode_metric(metric), ident=m) for m, metric in zip(messages, metrics, strict=True)]
        data = np.frombuffer(b"".join(frames), np.uint8)
        header = ipc.Batch(
            seq, NOW + seq, [max(connection, 1)], [len(data)], [len(messages)], 3, settled, [host], since_ns
        )
        again = self.durable.look_for_late(header, NOW + seq)
        sizes = np.array([len(data)], np.int64)
        result = self.engine.ingest(
            data, sizes, NOW + seq, hosts=[host], connections=[connection] if connection >= 0 else [], journaled=True, again=again,
            comes_again=lambda of: self.durable.comes_again(of, seq, NOW + seq),
        )  # fmt: skip
        self.durable.batch(header, NOW + seq, result.rows, lambda: self.acked.append(seq), expected=result.expected)

    def order(self, command: Any) -> None:
        """A command in its place in the stream."""
        self.durable.order(NOW, command, lambda: carry_out(self.engine, command, NOW))

    def sums(self) -> dict[bytes, float]:
        """What a flush of ten seconds puts out."""
        out = flush(self.engine, flush_all(KIND_STANDARD, 10, NOW + 60 * SECOND), NOW + 60 * SECOND)
        return {
            ident.removeprefix(b"stats.counts.").removesuffix(b"sum"): struct.unpack(">d", bytes.fromhex(value))[0]
            for ident, _, _, value, *_ in out
        }

    @property
    def redelivered(self) -> int:
        return int(self.engine.stats()[0]["redelivered"])


def ago(seconds: float) -> int:
    return time.monotonic_ns() - int(seconds * 1e9)


def test_without_a_journal_all_is_done_at_once(tmp_path: Path) -> None:
    durable = Durable(None, engine_of(options()), lambda _: None, lambda: False)
    assert durable.begin()[1] == ""
    done: list[str] = []
    durable.batch(ipc.Batch(0, NOW, [], []), NOW, np.zeros(0, np.uint8), lambda: done.append("ack"))
    durable.order(NOW, ipc.Expire(), lambda: done.append("order"))
    assert (done, durable.on, durable.blocked, durable.owes) == (["ack", "order"], False, False, False)


def test_a_full_disk_holds_acks_and_all_behind_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.durable.begin()
    bench.batch(0)
    assert bench.acked == [0]
    real, full = SegmentLog.append, True

    def append(self: SegmentLog, parts: Any) -> Any:
        if full:
            raise AppendError(self.path, OSError(errno.ENOSPC, "No space left on device"))
        return real(self, parts)

    monkeypatch.setattr(SegmentLog, "append", append)
    bench.batch(1)
    assert (bench.acked, bench.durable.blocked) == ([0], True)
    assert "No space left" in bench.durable.trouble
    full = False

    def goes_on() -> bool:
        bench.durable.step()
        return not bench.durable.blocked

    wait_until("it to go on", goes_on, 5, every_s=0.01)
    assert (bench.acked, bench.durable.trouble) == ([0, 1], "")
    bench.durable.close()
    again = Bench(tmp_path)
    assert again.durable.begin()[0].samples == 2
    assert again.durable.has(ipc.Batch(1, NOW, [], [], front=3))
    assert not again.durable.has(ipc.Batch(2, NOW, [], [], front=3))
    again.durable.close()


def test_what_changed_while_it_was_down_counts_from_the_end_of_the_replay_on(tmp_path: Path) -> None:
    """First limits and shards as they were when samples came, then as they are now."""
    names = {shard_of(name, 4): name for name in (b"%d" % k for k in range(40))}
    bench = Bench(tmp_path)
    bench.durable.begin()
    bench.order(ipc.RuntimeOptions(2, 0))
    for seq, name in enumerate(names.values()):
        bench.batch(seq, *range(10 * seq, 10 * seq + 5), ident=name)
    bench.durable.close()
    again = Bench(tmp_path)
    assert again.durable.begin()[0].samples == 20
    # The limit is lifted, one of the shards is gone.
    again.order(ipc.RuntimeOptions(0, 0))
    again.order(ipc.Shards(4, 16, [shard for shard in all_shards() if shard.id != 2]))
    for seq, name in enumerate(names.values(), len(names)):
        again.batch(seq, *range(10 * seq, 10 * seq + 5), ident=name)
    assert again.sums() == {name: 7.0 for shard, name in names.items() if shard != 2}
    again.durable.close()
    last = Bench(tmp_path)
    last.durable.begin()
    assert last.sums() == {name: 7.0 for shard, name in names.items() if shard != 2}
    last.durable.close()


def test_with_the_policy_always_an_ack_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_sync = threading.Event()
    real = __import__("os").fdatasync

    def slow(fd: int) -> None:
        may_sync.wait(20)
        real(fd)

    monkeypatch.setattr("os.fdatasync", slow)
    bench = Bench(tmp_path, sync="always")
    bench.durable.begin()
    bench.batch(0)
    bench.durable.step()
    assert (bench.acked, bench.durable.owes, bench.durable.blocked) == ([], True, False)
    may_sync.set()

    def acked() -> bool:
        bench.durable.step()
        return bench.acked == [0]

    wait_until("the ack", acked, 10, every_s=0.005)
    bench.durable.close()


def test_what_waited_long_for_its_ack_may_come_again_over_the_same_connection(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.durable.begin()
    bench.batch(0, 1, 2, since_ns=ago(1))
    bench.batch(1, 2, 3, since_ns=ago(1))
    assert bench.redelivered == 1
    bench.batch(2, 2, 1, since_ns=ago(1))
    assert bench.redelivered == 3
    # Each of several times; even in one batch, which may hold all that a socket did.
    bench.batch(3, 1, 4, 4, 5, 4, since_ns=ago(1))
    assert bench.redelivered == 6
    # What is of another host only looks alike.
    bench.batch(4, 1, 2, 3, host=7)
    assert bench.redelivered == 6
    bench.durable.close()


def test_full_queues_are_no_stall(tmp_path: Path) -> None:
    """What only waits behind others is expected later than what waits for somebody who does nothing."""
    bench = Bench(tmp_path)
    bench.durable.begin()
    bench.batch(0, 1, since_ns=ago(0))
    for seq in range(1, 4):
        bench.batch(seq, 2, since_ns=ago(1))
    assert bench.redelivered == 0
    bench.batch(4, 3, since_ns=ago(3))
    bench.batch(5, 3, since_ns=ago(3))
    assert bench.redelivered == 1
    time.sleep(0.3)
    bench.batch(6, 4, since_ns=ago(1))
    bench.batch(7, 4, since_ns=ago(1))
    assert bench.redelivered == 2
    bench.batch(8, 5, since_ns=ago(0.01))
    bench.batch(9, 5, since_ns=ago(0.01))
    assert bench.redelivered == 2
    bench.durable.close()


def test_what_the_network_held_comes_again_behind_what_it_held(tmp_path: Path) -> None:
    """Nothing is late here, and a producer has sent all of it a second time."""
    bench = Bench(tmp_path)
    bench.durable.begin()
    bench.batch(1, *range(1, 400), connection=3)
    bench.batch(2, *range(400, 900), connection=3)
    assert bench.redelivered == 0
    # Behind each other in one batch as well, in one block of the kernel or not.
    bench.batch(3, 1000, *range(5, 300), *range(1001, 1400), *range(1001, 1300), connection=3)
    assert bench.redelivered == 295 + 299
    bench.batch(4, *range(300, 900), 1000, 1350, 1400, connection=3)
    assert bench.redelivered == 295 + 299 + 602
    # A third time, and what comes for the first time though it is old.
    bench.batch(5, 2, 400, 1350, 950, 1401, connection=3)
    assert bench.redelivered == 295 + 299 + 602 + 3
    assert bench.sums() == {b"c": 899 + 400 + 1 + 1 + 1}
    assert bench.acked == [1, 2, 3, 4, 5]
    bench.durable.close()


def test_other_connections_and_other_ranges_of_ids_are_sequences_of_their_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.durable.begin()
    for seq, first in enumerate((7 << 32, 3 << 32, 5 << 32)):
        bench.batch(seq, *range(first, first + 100), connection=1)
        bench.batch(seq + 10, *range(1, 100), connection=seq + 2)
    assert bench.engine.stats()[1]["engine.messages-expected-again"] == 0
    bench.batch(20, (3 << 32) + 50, connection=1)
    assert bench.redelivered == 1
    bench.durable.close()


def test_who_sends_in_no_order_is_left_alone(tmp_path: Path) -> None:
    """Each message is behind a later one, and none comes again."""
    bench = Bench(tmp_path)
    bench.durable.begin()
    for seq in range(50):
        bench.batch(seq + 1, 1000 - seq, connection=1)
    assert bench.redelivered == 0
    asked = bench.durable._asked[1]
    assert asked.from_seq < 50
    assert asked.not_before_ns > time.monotonic_ns()
    bench.durable.close()


def test_what_was_acked_at_once_does_not_come_again(tmp_path: Path) -> None:
    """Ids may begin anew: what looks like a message that a producer knows to be acked is another one."""
    bench = Bench(tmp_path)
    bench.durable.begin()
    for seq in range(3):
        bench.batch(seq, 1, 2, since_ns=ago(0.01))
    assert bench.redelivered == 0
    bench.durable.close()


def test_what_waits_for_the_disk_may_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_sync = threading.Event()
    monkeypatch.setattr("os.fdatasync", lambda _: may_sync.wait(20))
    bench = Bench(tmp_path, sync="always")
    bench.durable.begin()
    bench.batch(0, 1, since_ns=ago(0))
    bench.batch(1, 2, since_ns=ago(0))
    time.sleep(0.6)
    bench.batch(2, 2, 1, since_ns=ago(0))
    assert (bench.redelivered, bench.acked) == (2, [])
    may_sync.set()
    bench.durable.close()


def test_who_holds_the_journal_is_waited_for_and_named(tmp_path: Path) -> None:
    with SegmentLog(tmp_path):
        bench = Bench(tmp_path)
        bench.durable._tell = lambda message: (bench.told.append(message), setattr(bench, "stopped", True))  # type: ignore[method-assign, assignment, func-returns-value]
        with pytest.raises(Stopped):
            bench.durable.begin()
    assert isinstance(bench.told[0], ipc.Replaying)
    assert "is in use by" in bench.told[0].waits


def test_a_directory_that_cannot_be_written_is_no_reason_not_to_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bench = Bench(tmp_path / "file" / "journal")
    _, problem = bench.durable.begin()
    assert "file" in problem
    bench.batch(0)
    assert (bench.acked, bench.durable.on) == ([0], False)


def test_a_snapshot_is_written_by_a_child(tmp_path: Path) -> None:
    bench = Bench(tmp_path, snapshot_bytes=1000)
    bench.durable.begin()

    def snapshots() -> list[Path]:
        bench.durable.step()
        return list(tmp_path.glob("snapshot-????????"))

    for seq in range(200):
        bench.batch(seq)
    wait_until("a snapshot", snapshots, 20, every_s=0.02)
    for seq in range(200, 210):
        bench.batch(seq)
    bench.durable.close()
    again = Bench(tmp_path)
    replay, _ = again.durable.begin()
    assert replay.samples < 100
    assert again.durable.has(ipc.Batch(209, NOW, [], [], front=3))
    again.durable.close()


def test_the_worker_itself_deletes_nothing_for_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To delete a gigabyte of journal takes a quarter of a second."""
    bench = Bench(tmp_path, snapshot_bytes=1000, segment_bytes=1000)
    bench.durable.begin()
    worker, unlink, rmtree = os.getpid(), Path.unlink, shutil.rmtree
    deleted: list[str] = []

    def watched(path: Path, missing_ok: bool = False) -> None:
        if os.getpid() == worker and path.exists():
            deleted.append(path.name)
        unlink(path, missing_ok)

    def watched_tree(path: Path, **options: Any) -> None:
        if os.getpid() == worker and path.exists():
            deleted.append(path.name)
        rmtree(path, **options)

    monkeypatch.setattr(Path, "unlink", watched)
    monkeypatch.setattr(shutil, "rmtree", watched_tree)
    seq = 0

    def snapshots() -> bool:
        nonlocal seq
        for _ in range(10):
            bench.batch(seq, settled=seq - 1)
            seq += 1
        bench.durable.step()
        return bench.durable.snapshots[0] >= 2

    wait_until("two snapshots", snapshots, 60, every_s=0.02)
    assert deleted == []
    assert bench.durable.snapshots[1] > 0
    assert [path.name for path in tmp_path.glob("snapshot-????????")] == ["snapshot-00000002"]
    bench.durable.close()
