"""The journal of one worker: a directory that it opens, replays, and then appends to."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.journal.records import FORMAT, Batch, Numbers, Order, Preamble, RecordError, decode, encode
from aggregator.journal.replaying import Replay, Replayer, rows_of
from aggregator.journal.sessions import Sessions
from m3x.log import logger
from m3x.segments import START, Position, SegmentLog, SyncPolicy

__all__ = ["Journal", "JournalOptions"]

log = logger(__name__)

_ROWS = np.zeros(0, np.uint32)
"""Numbers that are rows of entries."""
_EVERY_BYTES = 4 << 20
"""Progress is told this often."""


class JournalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where a worker's journal is, and how safe."""

    path: str
    sync: SyncPolicy = "os"
    segment_bytes: int = 64 << 20
    shards: ipc.Shards
    """Those of the worker, for a journal that has lost its beginning."""


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
        self._words: dict[Position, NDArray[np.uint64]] = {}
        """While replaying: what may come again, by batch."""
        self._own = START
        """From here on numbers are rows of this process's engine."""

    # --- replaying

    def replay(self, engine: Engine, progress: Callable[[int, int], None]) -> Replay:
        """Applies all that is there to an empty engine, and makes it ready for what may come again.

        ``progress`` is called now and then with the bytes done and the bytes in all. Raises ``AppendError``.
        """
        replayer = Replayer(engine)
        engine.begin_replay()
        engine.set_shards(self._options.shards, 0)
        total = self.log.size_bytes
        told = 0
        damages = len(self.log.damage)
        reader = self.log.reader(START)
        for record in reader:
            if record.lost or len(self.log.damage) > damages:
                damages = len(self.log.damage)
                replayer.forget_numbers()
            try:
                header, data = decode(record.data)
            except RecordError as error:
                replayer.result.unknown += 1
                replayer.forget_numbers()
                log.warning_limited("a record of the journal is left out", error=str(error))
                continue
            replayer.apply(header, data)
            if isinstance(header, Batch):
                self._replayed(header, data, record.start, engine, replayer.numbers)
            done = total - self.log.size_from(record.end)
            if done - told >= _EVERY_BYTES:
                told = done
                progress(done, total)
        reader.close()
        for words in self._words.values():
            engine.expect_repeats(words)
        self._words.clear()
        self._own = self.log.end
        engine.end_replay()
        if (pairs := replayer.renumbered()) is not None:
            self.log.append(encode(Numbers(len(pairs) // 2), pairs))
        return replayer.result

    def _replayed(
        self, header: Batch, data: memoryview, start: Position, engine: Engine, numbers: NDArray[np.uint32]
    ) -> None:
        """Remembers what of a batch may come again, as long as it may: later the numbers in its rows may be others."""
        self.sessions.wrote(header.front, header.seq, header.settled, header.now_ns, start)
        self._words[start] = engine.repeats_of(rows_of(data), sum(header.counts), numbers, header.now_ns)
        first = self.sessions.open_from
        while self._words and (first is None or next(iter(self._words)) < first):
            del self._words[next(iter(self._words))]

    # --- what may come again

    def expect_repeats(self, engine: Engine, connections: list[int] | None = None) -> int:
        """What these connections (None: all) sent and may not know to be acked may come again; returns how many messages that are.

        That of earlier processes is expected anyway.
        """
        first = self.sessions.open_from
        if first is None:
            return 0
        expected = 0
        reader = self.log.reader(max(first, self._own))
        for record in reader:
            header, data = decode(record.data)
            if not isinstance(header, Batch) or not self.sessions.is_open(header.front, header.seq):
                continue
            words = engine.repeats_of(rows_of(data), sum(header.counts), _ROWS, header.now_ns)
            if connections is not None:
                of = np.repeat(np.array(header.connections, np.int64), header.counts)
                words = words[np.isin(of, connections)]
            engine.expect_repeats(words)
            expected += int(np.count_nonzero(words))
        reader.close()
        return expected

    # --- appending

    def batch(self, message: ipc.Batch, now_ns: int, rows: NDArray[np.uint8]) -> Position:
        """Writes a batch that was applied at ``now_ns``; returns what to wait for. Raises ``AppendError``: nothing is written."""
        header = Batch(message.front, message.seq, message.settled, now_ns, message.connections, message.counts)
        appended = self.log.append(encode(header, rows))
        self.sessions.wrote(message.front, message.seq, message.settled, now_ns, appended.start)
        return appended.end

    def order(self, now_ns: int, command: ipc.Command) -> None:
        """Writes a command that is about to be carried out. Raises ``AppendError``: nothing is written."""
        self.log.append(encode(Order(now_ns, command)))

    def close(self) -> None:
        """Makes durable what can be, and gives the directory back."""
        self.log.close()
