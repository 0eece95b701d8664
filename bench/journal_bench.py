"""What the journal of one worker costs, alone in this process on one core: writing, replaying, a snapshot and its loading.

    scripts/bench journal [--kind timed] [--series 1000000] [--rounds 4]

Rounds with and without a journal come in turn, on engines of their own, as machines are noisy: the best of each counts. A snapshot is
written by a forked child while ingest goes on at full speed, which changes every page: the memory that both then have is the most it can
be.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from aggregator import ipc
from aggregator.engine import Engine, warm
from aggregator.journal import Journal, JournalOptions
from bench.engine_bench import NUM_SHARDS, START_NS, batches_of, engine_of
from bench.messages import Frames, build
from m3x.process import proportional_bytes

__all__ = ["main"]

_KINDS = ("timed", "gauge", "counter")
_OWNED = [ipc.OwnedShard(shard, 0, (1 << 63) - 1) for shard in range(NUM_SHARDS)]
_MIB = 1 << 20


class _Run:
    """An engine, perhaps with a journal, that is given the same messages again and again."""

    def __init__(self, frames: Frames, journal: Journal | None) -> None:
        self.engine: Engine = engine_of()
        self.journal = journal
        self.longest_s = 0.0
        self._size = frames.matrix.shape[1]
        self._batches = batches_of(frames)
        self._seq = 0

    def batch(self, number: int) -> None:
        """Applies one batch."""
        began = time.monotonic()
        data = self._batches[number % len(self._batches)]
        now_ns = START_NS + self._seq
        journaled = self.journal is not None
        result = self.engine.ingest(data, np.array([len(data)], np.int64), now_ns, journaled=journaled)
        if self.journal is not None:
            count = len(data) // self._size
            header = ipc.Batch(self._seq, now_ns, [1], [len(data)], [count], front=1, settled=self._seq - 16)
            self.journal.batch(header, now_ns, result.rows)
        self._seq += 1
        self.longest_s = max(self.longest_s, time.monotonic() - began)

    def round(self) -> float:
        """All messages once: CPU seconds."""
        began = time.process_time()
        for number in range(len(self._batches)):
            self.batch(number)
        return time.process_time() - began


def _snapshot(run: _Run) -> dict[str, Any]:
    """A snapshot by a child while ``run`` goes on."""
    journal = run.journal
    assert journal is not None
    run.longest_s = 0.0
    before = most = proportional_bytes()
    began = time.monotonic()
    head = journal.begin_snapshot(START_NS)
    child = os.fork()
    if child == 0:
        try:
            once, tables = run.engine.save(consuming=True)
            journal.write_snapshot(msgspec.structs.replace(head, once=once), tables)
        finally:
            os._exit(0)
    forked_s = time.monotonic() - began
    number = 0
    while True:
        pid, _, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        run.batch(number)
        number += 1
        if number % 16 == 0:
            most = max(most, proportional_bytes() + proportional_bytes(child))
    journal.snapshot_written(head)
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "fork_ms": forked_s * 1e3,
        "longest_batch_ms": run.longest_s * 1e3,
        "memory": most / before - 1,
    }


def main(values: list[str]) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="scripts/bench journal", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kind", choices=_KINDS, default="timed")
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary one)")
    options = parser.parse_args(values)
    warm(lambda _: None)
    folder = Path(tempfile.mkdtemp(prefix="m3journal-", dir=options.directory))
    try:
        _measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _measure(options: argparse.Namespace, folder: Path) -> None:
    described = JournalOptions(path=str(folder / "journal"), shards=ipc.Shards(NUM_SHARDS, 64, _OWNED))
    frames = build(options.kind, options.series, max(options.series, 300_000), 10)
    frames.stamp(START_NS)
    n = len(frames.matrix)
    journal = Journal(described)
    plain, durable = _Run(frames, None), _Run(frames, journal)
    plain.round()
    durable.round()
    written = journal.log.size_bytes
    took = [(plain.round(), durable.round()) for _ in range(options.rounds)]
    without, with_journal = (min(times) / n * 1e9 for times in zip(*took, strict=True))
    per_sample = (journal.log.size_bytes - written) / (n * options.rounds)
    print(
        f"{options.kind}, {options.series} series: {without:.0f} ns a message without a journal, {with_journal:.0f} with"
    )
    print(f"  {per_sample:.1f} bytes a known sample")
    del plain
    journal.close()
    durable.journal = journal = Journal(described)
    durable.engine = engine_of()
    began = time.process_time()
    samples = journal.replay(durable.engine, lambda *_: None).samples
    took_s = time.process_time() - began
    print(f"  replay: {samples / took_s / 1e6:.1f} M samples/s, {took_s:.2f} s in all")
    found = _snapshot(durable)
    print(
        f"  snapshot: {found['cpu_s']:.2f} s CPU, fork {found['fork_ms']:.0f} ms, longest batch {found['longest_batch_ms']:.0f} ms, "
        f"memory +{100 * found['memory']:.0f} %"
    )
    size = sum(file.stat().st_size for path in folder.glob("journal/snapshot-*") for file in path.iterdir())
    print(f"    {size / _MIB:.0f} MiB, {size / options.series:.0f} bytes a series")
    journal.close()
