"""The journal of a worker without processes: killed at any byte, it goes on as if nothing had been."""

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aggregator.engine.engine_calls import NOW, SECOND, all_shards, engine_of, flush_both, options
from tests.aggregator.engine.engine_frames import frame
from tests.aggregator.engine.test_engine import alike, random_metric, random_stages
from tests.aggregator.engine.test_shorthand import close_all, command_of

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.journal import Journal, JournalOptions, carry_out
from m3metrics import codec
from m3x.segments.directory import segment_name, segment_numbers

OPTIONS = options()
SHARDS = ipc.Shards(4, 16, all_shards())


class Core:
    """A worker: engine and journal. ``kill`` ends it, ``start`` begins its successor."""

    def __init__(self, folder: Path, **journal: Any) -> None:
        self.options = JournalOptions(path=str(folder), shards=SHARDS, segment_bytes=3000, **journal)
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

    def snapshot(self, now_ns: int, *, noticed: bool = True) -> None:
        head = self.journal.begin_snapshot(now_ns)
        once, tables = self.engine.save()
        self.journal.write_snapshot(msgspec.structs.replace(head, once=once), tables)
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
            core.snapshot(now, noticed=r.random() < 0.8)
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
