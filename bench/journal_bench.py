"""What the journal of one worker costs, alone in this process on one core: writing, replaying, snapshots and their loading.

    scripts/bench journal [--kind timed] [--series 1000000] [--rounds 5]

Rounds with and without a journal come in turn, on engines of their own, as machines are noisy; of all that is done several times the best
and the median are told. Messages of the first round are those of new series and are replayed from their bytes; all others are of known
series. A snapshot is written by a forked child while ingest goes on at full speed, which changes every page: the memory that both then
have (PSS) is the most it can be. A batch is 512 KiB of messages.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from aggregator import ipc
from aggregator.engine import Engine, warm
from aggregator.journal import SNAPSHOT_FACTOR, Journal, JournalOptions
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


def _snapshot(run: _Run, *, busy: bool = True) -> dict[str, float]:
    """A snapshot by a child, while ``run`` goes on if it is ``busy``."""
    journal = run.journal
    assert journal is not None
    run.longest_s = 0.0
    before = most = proportional_bytes()
    began = time.monotonic()
    head = journal.begin_snapshot(START_NS, run.engine.saved_bytes())
    child = os.fork()
    if child == 0:
        try:
            once, tables = run.engine.save(consuming=True)
            journal.write_snapshot(msgspec.structs.replace(head, once=once), tables)
            journal.delete_unneeded()
        finally:
            os._exit(0)
    paused_s = time.monotonic() - began
    number = 0
    while True:
        pid, _, usage = os.wait4(child, 0 if not busy else os.WNOHANG)
        if pid:
            break
        run.batch(number)
        number += 1
        if number % 16 == 0:
            most = max(most, proportional_bytes() + proportional_bytes(child))
    journal.snapshot_written(head)
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "pause_ms": paused_s * 1e3,
        "batch_ms": run.longest_s * 1e3,
        "memory": 100 * (most / before - 1),
    }


def main(values: list[str]) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="scripts/bench journal", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kind", choices=_KINDS, default="timed")
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5, help="of known series, with and without a journal in turn")
    parser.add_argument("--repeat", type=int, default=3, help="how often a replay and a snapshot are measured")
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary one)")
    options = parser.parse_args(values)
    warm(lambda _: None)
    folder = Path(tempfile.mkdtemp(prefix="m3journal-", dir=options.directory))
    try:
        _measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _replayed(described: JournalOptions, repeat: int) -> tuple[list[float], int, Engine, Journal]:
    """CPU seconds of replays into fresh engines, the samples of one; the last engine, and the journal, open."""
    took: list[float] = []
    while True:
        engine, journal = engine_of(), Journal(described)
        began = time.process_time()
        samples = journal.replay(engine, lambda *_: None).samples
        took.append(time.process_time() - began)
        if len(took) == repeat:
            return took, samples, engine, journal
        journal.close()


def _range(values: Sequence[float], digits: int) -> str:
    """The best and the median."""
    return f"{min(values):.{digits}f}, {statistics.median(values):.{digits}f}"


def _measure(options: argparse.Namespace, folder: Path) -> None:
    described = JournalOptions(path=str(folder / "journal"), shards=ipc.Shards(NUM_SHARDS, 64, _OWNED))
    frames = build(options.kind, options.series, max(options.series, 300_000), 10)
    frames.stamp(START_NS)
    n = len(frames.matrix)
    journal = Journal(described)
    plain, durable = _Run(frames, None), _Run(frames, journal)
    plain.round()
    durable.round()
    journal.close()
    new, new_samples, _, journal = _replayed(described, options.repeat)
    durable.journal, written = journal, journal.log.size_bytes
    durable.longest_s = 0.0
    took = [(plain.round(), durable.round()) for _ in range(options.rounds)]
    without, with_journal = ([1e9 * time / n for time in times] for times in zip(*took, strict=True))
    ratios = [one / other for one, other in took]
    per_sample = (journal.log.size_bytes - written) / (n * options.rounds)
    beside_ms = durable.longest_s * 1e3
    del plain
    journal.close()
    whole, samples, durable.engine, durable.journal = _replayed(described, options.repeat)
    known = [(samples - new_samples) / (one - min(new)) / 1e6 for one in whole]
    found = [_snapshot(durable) for _ in range(options.repeat)]
    _snapshot(durable, busy=False)
    size = sum(file.stat().st_size for path in folder.glob("journal/snapshot-*") for file in path.iterdir())
    durable.journal.close()
    loaded, _, _, journal = _replayed(described, options.repeat)
    journal.close()
    pauses, batches = ([one[name] for one in found] for name in ("pause_ms", "batch_ms"))
    print(
        f"{options.kind}, {options.series} series; best, median of CPU time\n"
        f"  ns a message: {_range(without, 0)} without a journal; {_range(with_journal, 0)} with\n"
        f"  messages per CPU second with a journal: {100 * statistics.median(ratios):.0f} % of those without "
        f"(median of {options.rounds} pairs; {100 * min(ratios):.0f} to {100 * max(ratios):.0f} %)\n"
        f"  bytes a known sample: {per_sample:.1f}, and {per_sample / SNAPSHOT_FACTOR:.1f} for snapshots while there are many\n"
        f"  replay, M samples/s: {max(known):.1f}, {statistics.median(known):.1f} of known series; "
        f"{new_samples / min(new) / 1e6:.1f}, {new_samples / statistics.median(new) / 1e6:.1f} of new ones; "
        f"the whole journal, {samples / 1e6:.1f} M: {samples / min(whole) / 1e6:.1f}, "
        f"{samples / statistics.median(whole) / 1e6:.1f}\n"
        f"  snapshot, s: {_range([one['cpu_s'] for one in found], 2)}; {size / _MIB:.0f} MiB, "
        f"{size / options.series:.0f} bytes a series; loading it, s: {_range(loaded, 2)}\n"
        f"  while it is written (best, median, worst; wall clock): pause for the fork, ms: {_range(pauses, 0)}, "
        f"{max(pauses):.0f}; longest batch, ms: {_range(batches, 0)}, {max(batches):.0f} (otherwise {beside_ms:.0f}); "
        f"memory of both +{max(one['memory'] for one in found):.0f} %"
    )
