"""The journal of one worker: a directory that it opens, replays, and then appends to."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine.snapshot import Table
from aggregator.journal.records import FORMAT, Batch, Numbers, Order, Preamble, RecordError, decode, encode
from aggregator.journal.replaying import Replay, Replayer, before, rows_of
from aggregator.journal.sessions import Sessions
from aggregator.journal.snapshots import FORMAT as SNAPSHOT_FORMAT
from aggregator.journal.snapshots import Head, newest, remove_others, write
from m3x.log import logger
from m3x.segments import (
    START,
    DirectoryError,
    DirectoryLocked,
    Position,
    SegmentError,
    SegmentLog,
    SyncPolicy,
    VersionError,
)
from m3x.segments.directory import segment_name

__all__ = ["SNAPSHOT_FACTOR", "Journal", "JournalOptions"]

log = logger(__name__)

SNAPSHOT_FACTOR = 8
"""So many times the size of the last snapshot is written before the next one: a snapshot costs the child's time and that of copied pages,
3 % of all at full load. The more is written, the longer a restart takes: a quarter of a second for each million rows."""
_LOOK_S = 0.05
_MOST_UNREAD = 512
_EVERY_BYTES = 4 << 20
"""Progress is told this often."""
_BATCH_BYTES = 2048
"""A batch takes as long to replay as so many bytes more."""


class JournalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where a worker's journal is, and how safe."""

    path: str
    sync: SyncPolicy = "os"
    segment_bytes: int = 32 << 20
    snapshot_bytes: int = 64 << 20
    """So much is written before there is a snapshot, and ``SNAPSHOT_FACTOR`` times the size that the next one is expected to have.

    Batches count, too.
    """
    sources: tuple[str, ...] = ()
    """Journals of workers that had other shards: as long as there is no snapshot here, what is in them is taken over."""
    shards: ipc.Shards
    """Those of the worker, for a journal that has lost its beginning."""


def _give_up(error: Exception) -> None:
    raise error


def _until_done(write: Callable[[], object], blocked: Callable[[Exception], None]) -> None:
    while True:
        try:
            write()
        except (OSError, SegmentError) as error:
            blocked(error)
        else:
            return


class Journal:
    """See the module. Raises ``DirectoryLocked``, ``VersionError`` or ``DirectoryError``."""

    def __init__(self, options: JournalOptions) -> None:
        self._options = options
        self.log = SegmentLog(
            Path(options.path),
            sync=options.sync,
            segment_bytes=options.segment_bytes,
            preamble=lambda: msgspec.json.encode(Preamble(FORMAT)),
        )
        self.sessions = Sessions()
        self._words: dict[Position, NDArray[np.void]] = {}
        """While replaying: what may come again, by batch, …"""
        self._unread: dict[Position, tuple[Batch, memoryview]] = {}
        """… and batches that may, of which it has not been worked out: most are settled by what follows."""
        self._own = START
        """From here on numbers are rows of this process's engine."""
        self._covered = START
        """What is before is in a snapshot."""
        self._unneeded = START
        """What is before is in the newest one, or the one that is being made, and nothing of it may come again."""
        self._number = 0
        """Of the newest snapshot, or the one that is being made."""
        self._snapshot_bytes = 0
        self._snapshot_of = 0
        """``Engine.saved_bytes`` at that time; 0: there is no snapshot."""
        self._batches = 0
        """Written since the newest that is there, …"""
        self._batches_in = 0
        """… and those of them that are in the one that is being made."""

    # --- replaying

    def replay(
        self, engine: Engine, progress: Callable[[int, int], None], blocked: Callable[[Exception], None] = _give_up
    ) -> Replay:
        """Applies all that is there to an empty engine, and makes it ready for what may come again.

        ``progress`` is called now and then with the bytes done and the bytes in all; ``blocked`` with why nothing can be written: it is
        tried again when that returns. Raises ``OSError`` or ``SegmentError`` without it.
        """
        replayer = Replayer(engine)
        engine.begin_replay()
        engine.set_shards(self._options.shards, 0)
        takes_over = bool(self._options.sources) and newest(self.log.path)[0] is None
        if takes_over:
            engine.set_shards(msgspec.structs.replace(self._options.shards, owned=[]), 0)
            self._take_over(engine, replayer.result, progress, blocked)
        start = self._load(engine, replayer)
        self._replay(replayer, start, progress)
        replayer.result.unknown += self._unreadable()
        if not takes_over:
            replayer.result.through_ns = replayer.result.now_ns
        for words in self._words.values():
            engine.expect_repeats(words)
        self._words.clear()
        self._own = self.log.end
        engine.end_replay()
        if (pairs := replayer.renumbered()) is not None:
            record = encode(Numbers(len(pairs) // 2), pairs)
            _until_done(lambda: self.log.append(record), blocked)
        return replayer.result

    def _replay(self, replayer: Replayer, start: Position, progress: Callable[[int, int], None]) -> None:
        total = self.log.size_from(start)
        since = 0
        damages = len(self.log.damage)
        reader = self.log.reader(start)
        for record in reader:
            if record.lost or len(self.log.damage) > damages:
                damages = len(self.log.damage)
                self._read(replayer)
                replayer.forget_numbers()
            try:
                header, data = decode(record.data)
            except RecordError as error:
                replayer.result.unknown += 1
                self._read(replayer)
                replayer.forget_numbers()
                log.warning_limited("a record of the journal is left out", error=str(error))
                continue
            if isinstance(header, Numbers):
                self._read(replayer)
            replayer.apply(header, data)
            if isinstance(header, Batch):
                self.sessions.wrote(header.front, header.seq, header.settled, header.now_ns, record.start)
                self._unread[record.start] = header, data
                self._batches += 1
                if len(self._unread) > _MOST_UNREAD:
                    self._forget_settled()
                    if len(self._unread) > _MOST_UNREAD // 2:
                        self._read(replayer)
            since += record.end.offset - record.start.offset + _BATCH_BYTES
            if since >= _EVERY_BYTES:
                since = 0
                progress(total - self.log.size_from(record.end), total)
        reader.close()
        self._read(replayer)

    def _unreadable(self) -> int:
        """How many parts were damaged, but for the record that was being written at the end: nothing of that was acked."""
        return sum(not damage.torn for damage in self.log.damage)

    def _read(self, replayer: Replayer) -> None:
        """Works out what may come again, by the numbers of the moment."""
        self._forget_settled()
        for start, (header, data) in self._unread.items():
            count = sum(header.counts)
            self._words[start] = replayer.engine.repeats_of(rows_of(data), count, replayer.numbers, header.now_ns)
        self._unread.clear()

    def _forget_settled(self) -> None:
        first = self.sessions.open_from
        for batches in (self._words, self._unread):
            while batches and (first is None or next(iter(batches)) < first):
                del batches[next(iter(batches))]

    def _take_over(
        self,
        engine: Engine,
        result: Replay,
        progress: Callable[[int, int], None],
        blocked: Callable[[Exception], None],
    ) -> None:
        """Replays the journals of other workers one after the other, keeps the own shards, and saves what that makes.

        One that somebody else has, as each of them reads all, is waited for; ``progress`` is called meanwhile. One that cannot be opened is
        said, and left out.
        """
        through: list[int] = []
        for source in self._options.sources:
            if not Path(source).exists():
                log.error("a journal of another number of workers is not there", path=source)
                result.unknown += 1
                continue
            try:
                other = self._other(source, progress)
            except (VersionError, DirectoryError) as error:
                log.error("a journal of another number of workers is left out", error=str(error))
                result.unknown += 1
                continue
            newest_ns, result.now_ns = result.now_ns, 0
            try:
                replayer = Replayer(engine, result, among_others=True)
                other._replay(replayer, other._load(engine, replayer), progress)
                for words in other._words.values():
                    engine.expect_repeats(words)
                result.unknown += other._unreadable()
            finally:
                other.close()
            through.append(result.now_ns)
            result.now_ns = max(newest_ns, result.now_ns)
            engine.add_shards(msgspec.structs.replace(self._options.shards, owned=[]), result.now_ns)
        engine.set_shards(self._options.shards, result.now_ns)
        result.through_ns = min(through, default=0)
        # What some worker lacks another one has; what none has shows in no other way.
        result.lost = 0

        def save() -> None:
            head = self.begin_snapshot(result.now_ns, engine.saved_bytes())
            once, tables = engine.save()
            self.write_snapshot(msgspec.structs.replace(head, once=once), tables)

        _until_done(save, blocked)

    def _other(self, source: str, progress: Callable[[int, int], None]) -> "Journal":
        while True:
            try:
                return Journal(msgspec.structs.replace(self._options, path=source, sources=()))
            except DirectoryLocked:
                progress(0, 1)
                time.sleep(_LOOK_S)

    def _load(self, engine: Engine, replayer: Replayer) -> Position:
        """Loads the newest snapshot; returns where to go on."""
        if self._options.sources and self._number:
            # It was made a moment ago, of what the engine is.
            self._covered = self.log.end
            return self.log.end
        snapshot, problems = newest(self.log.path)
        for problem in problems:
            log.error("a snapshot of the journal is left out", problem=problem)
            replayer.result.unknown += 1
        if snapshot is None:
            return START
        head = snapshot.head
        loader = engine.loader(head.once, replayer.numbers)
        try:
            for table in snapshot.tables():
                if table.name == "shards":
                    replayer.loaded(table.columns["id"].tolist())
                loader.take(table)
        except ValueError as error:
            aside = snapshot.set_aside()
            raise ValueError(f"{error}; the snapshot is now {aside}") from error
        engine.finish_loading()
        replayer.result.now_ns = head.now_ns
        self._number, self._snapshot_bytes = snapshot.number, snapshot.size_bytes
        self._snapshot_of = engine.saved_bytes()
        start = Position(head.segment, head.offset)
        self._covered = start
        self._look_back(engine, replayer.numbers, start)
        self.sessions.restore(head.front, head.seq, head.settled)
        return start

    def _look_back(self, engine: Engine, numbers: NDArray[np.uint32], end: Position) -> None:
        """What is before a snapshot is in it, but may come again."""
        found: list[tuple[Batch | Numbers, memoryview, Position]] = []
        reader = self.log.reader(START)
        for record in reader:
            if record.start >= end:
                break
            with contextlib.suppress(RecordError):
                header, data = decode(record.data)
                if not isinstance(header, Order):
                    found.append((header, data, record.start))
        reader.close()
        for header, _, start in found:
            if isinstance(header, Batch):
                self.sessions.wrote(header.front, header.seq, header.settled, header.now_ns, start)
        first = self.sessions.open_from
        words = {}
        for header, data, start in reversed(found):
            if first is None or start < first:
                break
            if isinstance(header, Batch):
                words[start] = engine.repeats_of(rows_of(data), sum(header.counts), numbers, header.now_ns)
            else:
                numbers = before(header, data, numbers)
        self._words.update(reversed(words.items()))

    # --- what may come again

    def expect_repeats(self, engine: Engine, connections: dict[int, int] | None = None) -> int:
        """What these connections (None: all) sent and may not know to be acked may come again; returns how many messages that are.

        Each is named with its first batch of which that is so. That of earlier processes is expected anyway.
        """
        first = self.sessions.open_since(0 if connections is None else min(connections.values(), default=0))
        if first is None:
            return 0
        expected = 0
        reader = self.log.reader(max(first, self._own))
        for record in reader:
            header, data = decode(record.data)
            if not isinstance(header, Batch) or not self.sessions.is_open(header.front, header.seq):
                continue
            wanted = [True] * len(header.connections)
            if connections is not None:
                here = header.front == self.sessions.last[0]
                wanted = [
                    of in connections and not (here and header.seq < connections[of]) for of in header.connections
                ]
                if not any(wanted):
                    continue
            words = engine.repeats_of(rows_of(data), sum(header.counts), None, header.now_ns)
            if not all(wanted):
                words = words[np.repeat(wanted, header.counts)]
            engine.expect_repeats(words)
            expected += int(np.count_nonzero(words["content"]))
        reader.close()
        return expected

    # --- appending

    def batch(self, message: ipc.Batch, now_ns: int, rows: NDArray[np.uint8]) -> Position:
        """Writes a batch that was applied at ``now_ns``; returns what to wait for. Raises ``AppendError``: nothing is written."""
        header = Batch(message.front, message.seq, message.settled, now_ns, message.connections, message.counts)
        appended = self.log.append(encode(header, rows))
        self.sessions.wrote(message.front, message.seq, message.settled, now_ns, appended.start)
        self._batches += 1
        return appended.end

    def order(self, now_ns: int, command: ipc.Command) -> None:
        """Writes a command that is about to be carried out. Raises ``AppendError``: nothing is written."""
        self.log.append(encode(Order(now_ns, command)))

    # --- snapshots

    def snapshot_due(self, saved_bytes: int) -> bool:
        """Whether replaying what was written since the last snapshot takes so long that the next one pays.

        ``saved_bytes``: ``Engine.saved_bytes`` now. Windows that the flush times cover are gone, and the next snapshot is smaller by them.
        It is larger by what has come: samples of timers above all, which are as many bytes there, and gone when their windows are. That
        counts up to the size of the last one, or ``snapshot_bytes``, so that replaying ends in time where windows are long.
        """
        since = self.log.size_from(self._covered) + _BATCH_BYTES * self._batches
        size = self._snapshot_bytes
        if saved_bytes < self._snapshot_of:
            size = size * saved_bytes // self._snapshot_of
        elif self._snapshot_of:
            size += min(saved_bytes - self._snapshot_of, max(size, self._options.snapshot_bytes))
        return since > max(self._options.snapshot_bytes, SNAPSHOT_FACTOR * size)

    def begin_snapshot(self, now_ns: int, saved_bytes: int) -> Head:
        """Completes the segment; what is to be saved is the engine as it is now (``once`` is to be filled in)."""
        self._snapshot_of = saved_bytes
        self.log.roll()
        self._number += 1
        self._batches_in = self._batches
        end, first = self.log.end, self.sessions.open_from
        self._unneeded = end if first is None else min(end, first)
        front, seq, settled = self.sessions.last
        return Head(SNAPSHOT_FORMAT, end.segment, end.offset, now_ns, front, seq, settled, {})

    def write_snapshot(self, head: Head, tables: Iterator[Table]) -> None:
        """Writes it. May be called in a forked child. Raises ``SegmentError`` or ``OSError``."""
        write(self.log.path, self._number, head, tables, self._options.sync)

    def delete_unneeded(self) -> None:
        """Deletes what is in the snapshot that was written. To be called by who wrote it: it takes as long. Raises ``OSError``."""
        remove_others(self.log.path, self._number)
        damaged = self.log.damaged
        for segment in self.log.segments:
            if Position(segment.number, segment.size) <= self._unneeded and segment.number not in damaged:
                (self.log.path / segment_name(segment.number)).unlink(missing_ok=True)

    def snapshot_written(self, head: Head) -> None:
        """It is there, and what is in it deleted, which counts from now on. Raises ``OSError`` if it is not there, ``SegmentError``."""
        path = self.log.path / f"snapshot-{self._number:08d}"
        self._snapshot_bytes = sum(file.stat().st_size for file in path.iterdir())
        self._covered = Position(head.segment, head.offset)
        self._batches -= self._batches_in
        self.log.drop_through(self._unneeded)

    def close(self) -> None:
        """Makes durable what can be, and gives the directory back."""
        self.log.close()
