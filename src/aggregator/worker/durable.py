"""A worker's journal: opened and replayed before anything else, then written before anything is answered (``aggregator.journal``).

Writing may have to wait: for room on the disk (``blocked``; then nothing further is taken from the stream), or under the policy ``always``
for the disk itself (then only acks wait). Without a journal everything is done at once.

Producers send again what is not acked for a while, over the same connection. So what has waited long for its ack, wherever it was
meanwhile, may come again: ``_LATE_NS`` where nothing went on for a part of that time (a worker died, a disk was full, somebody was
stopped), ``_LATE_IN_QUEUES_NS`` where it was only behind others that were being applied. Full queues are no stall, and to expect all that
passes through them would cost a machine that is busy anyway a third of what it can do.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.journal import REPEATS_NS, Journal, JournalOptions, Replay
from aggregator.worker.snapshots import Snapshots
from m3x.clock import monotonic_ns
from m3x.log import logger
from m3x.process import give_back_memory
from m3x.segments import DirectoryLocked, Position, SegmentError

__all__ = ["Durable", "Stopped"]

_log = logger(__name__)

_AGAIN_NS = 100_000_000
_LOOK_S = 0.1
_TELL_NS = 100_000_000
_LATE_NS = 400_000_000
"""M3's producers wait for at least half a second (docs/m3/m3msg.md, Message retry)."""
_LATE_IN_QUEUES_NS = 2_000_000_000
"""They wait for at least two and a half by default."""
_STALL_NS = 200_000_000
"""If nothing was applied for so long though something was there, something is wrong."""
_LATE_REPEATS_NS = 20_000_000_000
"""What comes again because its ack was late is on its way when the ack leaves."""
_IN_VAIN_NS, _LONGEST_PAUSE_NS = 1_000_000_000, 60_000_000_000
_MOST_ASKED = 256


class Stopped(Exception):
    """The worker is to end before it has begun."""


@dataclass(slots=True)
class _Unsynced:
    """A batch that was applied and written; its ack waits for the disk."""

    end: Position
    since_ns: int
    now_ns: int
    messages: int
    rows: NDArray[np.uint8]


@dataclass(slots=True)
class _Asked:
    """What has been looked for of a connection over which something came again."""

    from_seq: int = 0
    """Batches from there on have not been looked at; 0: none has."""
    recognised: int = 0
    """Messages that had been recognised by then."""
    pause_ns: int = 0
    not_before_ns: int = 0


class Durable:
    """See the module. ``tell`` sends to the supervisor; ``stopped`` is asked while something takes long."""

    def __init__(
        self,
        options: JournalOptions | None,
        engine: Engine,
        tell: Callable[[ipc.FromWorker], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._options = options
        self._engine = engine
        self._tell = tell
        self._stopped = stopped
        self._journal: Journal | None = None
        self.trouble = ""
        """Why nothing is taken."""
        self._held: Callable[[], None] | None = None
        self._again_ns = 0
        self._waiting: deque[tuple[Position, Callable[[], None]]] = deque()
        self._told_ns = 0
        self._forget_ns = 0
        self._now_ns = 0
        self._snapshots: Snapshots | None = None
        self._synced = options is not None and options.sync == "always"
        self._done_ns = 0
        """When a batch was written last (monotonic)."""
        self._stalled_until_ns = 0
        """When a stall ended last."""
        self._unsynced: deque[_Unsynced] = deque()
        """Those of ``_waiting`` that are not late."""
        self._asked: dict[int, _Asked] = {}
        """Connections over which something has come again, the latest one last."""

    @property
    def on(self) -> bool:
        """Whether there is a journal."""
        return self._journal is not None

    @property
    def blocked(self) -> bool:
        """Whether nothing further may be applied, as what was applied cannot be written."""
        return self._held is not None

    @property
    def owes(self) -> bool:
        """Whether acks wait for the disk."""
        return bool(self._waiting) or self._held is not None

    @property
    def size_bytes(self) -> int:
        """Of the journal on disk."""
        return self._journal.log.size_bytes if self._journal is not None else 0

    @property
    def snapshots(self) -> tuple[int, float]:
        """How many snapshots were written, and for how many seconds the worker stood still at most for the last one."""
        return (0, 0.0) if self._snapshots is None else (self._snapshots.count, self._snapshots.pause_ns / 1e9)

    # --- the beginning

    def begin(self) -> tuple[Replay, str]:
        """Opens and replays the journal; returns what was done, and why there is none though one is wanted. Raises ``Stopped``."""
        if self._options is None:
            return Replay(), ""
        try:
            journal = self._open(self._options)
        except SegmentError as error:
            _log.error("running without a journal", error=str(error))
            return Replay(), str(error)
        began = time.monotonic()

        def progress(done: int, total: int) -> None:
            now = monotonic_ns()
            if now - self._told_ns >= _TELL_NS:
                self._told_ns = now
                left_s = (time.monotonic() - began) * (total - done) / max(done, 1)
                self._tell(ipc.Replaying(done / max(total, 1), left_s))
                _log.info_limited(
                    "replaying the journal", per_second=1, percent=round(100 * done / total), left_s=round(left_s, 1)
                )
                if self._stopped():
                    raise Stopped

        def blocked(error: Exception) -> None:
            _log.error_limited("the journal takes nothing: nothing is acked until it does", error=str(error))
            self._wait(str(error))

        result = journal.replay(self._engine, progress, blocked)
        if result.batches:
            give_back_memory()
        self._journal = journal
        self._now_ns = result.now_ns
        self._snapshots = Snapshots(self._engine, journal, lambda: self._now_ns)
        self._forget_ns = result.now_ns + REPEATS_NS
        if result.batches or result.lost or result.unknown:
            _log.info(
                "replayed the journal", batches=result.batches, samples=result.samples, lost=result.lost,
                unreadable=result.unknown, seconds=round(time.monotonic() - began, 2),
            )  # fmt: skip
        return result, ""

    def _open(self, options: JournalOptions) -> Journal:
        while True:
            try:
                return Journal(options)
            except DirectoryLocked as error:
                _log.warning_limited("waiting for the journal", per_second=0.5, error=str(error))
                self._wait(str(error))

    def _wait(self, reason: str) -> None:
        """Says what keeps the worker from beginning, and lets some time pass. Raises ``Stopped``."""
        self._tell(ipc.Replaying(0.0, 0.0, waits=reason))
        if self._stopped():
            raise Stopped
        time.sleep(_LOOK_S)

    # --- writing

    def has(self, batch: ipc.Batch) -> bool:
        """Whether that batch was applied by an incarnation before."""
        return self._journal is not None and self._journal.sessions.has(batch.front, batch.seq)

    def batch(
        self, batch: ipc.Batch, now_ns: int, rows: NDArray[np.uint8], ack: Callable[[], None], *, expected: bool = False
    ) -> None:
        """Writes a batch that was applied; ``ack`` is called when it is safe, perhaps later. ``rows`` are to stay while it is ``blocked``.

        ``expected``: its messages are expected to come again anyway.
        """
        journal = self._journal
        if journal is None:
            ack()
            return
        if self._forget_ns and now_ns > self._forget_ns:
            self._forget_ns = 0
            self._engine.forget_repeats()

        self._now_ns = now_ns

        def write() -> None:
            end = journal.batch(batch, now_ns, rows)
            one = _Unsynced(end, batch.since_ns, now_ns, sum(batch.counts), rows)
            late = expected or (self._is_late(batch.since_ns) and self._expect_rows(one))
            self._done_ns = monotonic_ns()
            if self._synced and end > journal.log.durable:
                self._waiting.append((end, ack))
                if not late:
                    one.rows = rows.copy()
                    self._unsynced.append(one)
            else:
                ack()

        self._try(write)

    def order(self, now_ns: int, command: ipc.Command, carry_out: Callable[[], None]) -> None:
        """Writes a command; ``carry_out`` is called when it is written, perhaps later."""
        journal = self._journal
        if journal is None:
            carry_out()
            return

        def write() -> None:
            journal.order(now_ns, command)
            carry_out()

        self._try(write)

    def expect(self, now_ns: int, connections: dict[int, int] | None = None) -> None:
        """What these connections (None: all) sent, and may not know to be acked, may come again (``ipc.Cut``)."""
        if self._journal is None:
            return
        if expected := self._journal.expect_repeats(self._engine, connections):
            self._forget_ns = now_ns + REPEATS_NS
            _log.info("samples may come again", messages=expected)

    def comes_again(self, connection: int, seq: int, now_ns: int) -> bool:
        """Something has come again over a connection, in batch ``seq``: what it has brought before may do so; whether that was asked for.

        Where this has been found in vain it is left alone for a while, each time for longer.
        """
        journal, now = self._journal, monotonic_ns()
        asked = self._asked.pop(connection, None) or _Asked()
        self._asked[connection] = asked
        if len(self._asked) > _MOST_ASKED:
            del self._asked[next(iter(self._asked))]
        if journal is None or now < asked.not_before_ns:
            return False
        recognised = self._engine.recognised()
        in_vain = asked.from_seq > 0 and recognised == asked.recognised
        asked.pause_ns = min(max(2 * asked.pause_ns, _IN_VAIN_NS), _LONGEST_PAUSE_NS) if in_vain else 0
        if in_vain:
            asked.not_before_ns = now + asked.pause_ns
        journal.expect_repeats(self._engine, {connection: asked.from_seq})
        asked.from_seq, asked.recognised = seq, recognised
        self._forget_ns = now_ns + REPEATS_NS
        return True

    def new_connections(self) -> None:
        """They are numbered anew."""
        self._asked.clear()
        self._engine.forget_marks()

    def look_for_late(self, batch: ipc.Batch, now_ns: int) -> bool:
        """Whether a batch that is about to be applied is late; what waits for the disk too long may be in it once more."""
        journal = self._journal
        if journal is None:
            return False
        waiting = self._unsynced
        while waiting and (waiting[0].end <= journal.log.durable or self._expect_if_unsynced(waiting[0])):
            waiting.popleft()
        late = self._is_late(batch.since_ns)
        if late:
            self._forget_after(now_ns)
        return late

    def _forget_after(self, now_ns: int) -> None:
        self._forget_ns = max(self._forget_ns, now_ns + _LATE_REPEATS_NS)

    def _is_late(self, since_ns: int) -> bool:
        """Whether what has waited since then may come again."""
        now = monotonic_ns()
        if since_ns <= 0 or now - since_ns < _STALL_NS:
            return False
        if now - self._done_ns > _STALL_NS:
            self._stalled_until_ns = now
        return now - since_ns >= (_LATE_NS if since_ns <= self._stalled_until_ns else _LATE_IN_QUEUES_NS)

    def _expect_if_unsynced(self, one: _Unsynced) -> bool:
        """Whether a batch has waited so long for the disk that its messages may come again; then they are expected."""
        late = one.since_ns > 0 and monotonic_ns() - one.since_ns >= _LATE_NS
        return late and self._expect_rows(one)

    def _expect_rows(self, one: _Unsynced) -> bool:
        """The messages of a batch may come again."""
        self._engine.expect_repeats(self._engine.repeats_of(one.rows, one.messages, None, one.now_ns))
        self._forget_after(one.now_ns)
        return True

    def close(self) -> None:
        """Makes durable what can be."""
        if self._snapshots is not None:
            self._snapshots.close()
        if self._journal is not None:
            self._journal.close()

    def step(self) -> None:
        """Tries again what could not be written, and lets acks go that are safe; to be called in every turn."""
        if self._held is not None and monotonic_ns() >= self._again_ns:
            held, self._held = self._held, None
            self._try(held)
        if self._snapshots is not None and self._held is None:
            self._snapshots.step()
        if self._journal is not None:
            durable = self._journal.log.durable
            while self._waiting and self._waiting[0][0] <= durable:
                self._waiting.popleft()[1]()

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except SegmentError as error:
            self._held, self._again_ns = write, monotonic_ns() + _AGAIN_NS
            if not self.trouble:
                _log.error("the journal takes nothing: nothing is acked until it does", error=str(error))
            self.trouble = str(error)
        else:
            if self.trouble:
                _log.info("the journal takes samples again")
            self.trouble = ""
