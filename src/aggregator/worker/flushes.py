"""The flushes of a worker that are under way, and the output credit they need (docs/architecture.md §4). No I/O.

A flush closes its windows at its place in the stream, when it is started. Its output is produced part by part, between batches of
samples, and only while the supervisor takes it. Final output and forwarded metrics have a credit of their own each: one part may exceed
it, then that class waits. Flushes of one list give their parts in order, but *early* ones (``FlushPart``) pass those that are not, so that
what was known before is not late where series are new in great numbers; a last part that waits already when a flush begins is passed by
nothing of that. Flushes of other lists pass one that waits, so that forwarded metrics, which come too late soon, do not wait for a consumer
of final output that is away.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from aggregator import ipc
from aggregator.engine import FlushPart
from aggregator.lists import ListId

MAX_RUNNING = 256
"""Further flushes are refused: each one holds a part in memory."""


class Parts(Protocol):
    """What a flush puts out, part by part."""

    @property
    def early(self) -> bool:
        """Whether the next part most likely is."""

    def __iter__(self) -> Iterator[FlushPart]: ...

    def __next__(self) -> FlushPart: ...


@dataclass(slots=True)
class _Running:
    id: int
    list_id: ListId
    parts: Parts
    next_part: FlushPart | None = None
    ended: bool = False
    """Whether there is no part any more."""
    behind: frozenset[int] = frozenset()
    """Flushes of its list that nothing of it passes."""

    @property
    def is_made(self) -> bool:
        """Whether all its parts have been made, though not all are taken."""
        return self.ended or (self.next_part is not None and self.next_part.last)

    def look(self) -> FlushPart | None:
        """The next part; None: it has ended."""
        if self.next_part is None and not self.ended:
            self.next_part = next(self.parts, None)
            self.ended = self.next_part is None
        return self.next_part

    def is_early(self) -> bool:
        """Whether its next part may go before those of earlier flushes."""
        if self.ended or not (self.parts.early if self.next_part is None else self.next_part.early):
            return False
        part = self.look()
        return part is not None and part.early


class Flushes:
    """Running flushes, oldest first. ``window_bytes``: how much of each class the supervisor takes before it gives more credit."""

    def __init__(self, window_bytes: int) -> None:
        self.final_credit_bytes = window_bytes
        self.forwarded_credit_bytes = window_bytes
        self._running: list[_Running] = []

    def __len__(self) -> int:
        return len(self._running)

    @property
    def full(self) -> bool:
        """Whether no further flush may be started."""
        return len(self._running) >= MAX_RUNNING

    @property
    def ready(self) -> bool:
        """Whether ``take`` has something to give."""
        return self._next() is not None

    def start(self, command: ipc.Flush, parts: Parts) -> None:
        """Takes a flush, whose windows are closed."""
        # For the engine these have ended: what they put out may count as known in this one.
        made = frozenset(one.id for one in self._running if one.list_id == command.list_id and one.is_made)
        self._running.append(_Running(command.id, command.list_id, parts, behind=made))

    def give_up(self, list_id: ListId) -> None:
        """Nobody waits any more for what the flushes of a list still have to put out: they only answer that they have ended.

        Their output is made and thrown away, so that none of it counts as still to come from a later flush.
        """
        for running in self._running:
            if running.list_id == list_id:
                deque(running.parts, maxlen=0)
                running.next_part, running.ended = None, True

    def credit(self, nbytes: int, *, forwarded: bool) -> None:
        """The supervisor takes more."""
        if forwarded:
            self.forwarded_credit_bytes += nbytes
        else:
            self.final_credit_bytes += nbytes

    def take(self) -> tuple[ipc.Flushed, FlushPart | None]:
        """The next part and its header; None: an end without output. Raises ``LookupError`` when not ``ready``."""
        running = self._next()
        if running is None:
            raise LookupError("no part may go: look at ready first")
        part, running.next_part = running.next_part, None
        if part is None or part.last:
            self._running.remove(running)
        if part is None:
            return ipc.Flushed(running.id, True, 0, False, []), None
        batch = part.batch
        if batch is None:
            return ipc.Flushed(running.id, part.last, 0, False, [], part.discarded), part
        self.credit(-batch.size_bytes, forwarded=part.forwarded)
        names = list(batch.policy_names)
        return ipc.Flushed(running.id, part.last, len(batch), part.forwarded, names, part.discarded), part

    def _next(self) -> _Running | None:
        """A flush whose part is early, the first one of its list, and has credit; else the oldest of a list, whose part is not."""
        if not self._running:
            return None
        by_list: dict[ListId, list[_Running]] = {}
        for running in self._running:
            by_list.setdefault(running.list_id, []).append(running)
        left = {running.id for running in self._running}
        others = []
        for flushes in by_list.values():
            early = next((one for one in flushes if one.behind.isdisjoint(left) and one.is_early()), None)
            if early is not None and self._may_go(early.look()):
                return early
            if early is not flushes[0]:
                others.append(flushes[0])
        return next((running for running in others if self._may_go(running.look())), None)

    def _may_go(self, part: FlushPart | None) -> bool:
        if part is None or part.batch is None:
            return True
        return (self.forwarded_credit_bytes if part.forwarded else self.final_credit_bytes) > 0
