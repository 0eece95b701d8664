"""The flushes of a worker that are under way, and the output credit they need (docs/architecture.md §10). No I/O.

A flush closes its windows at its place in the stream, when it is started. Its output is produced part by part, between batches of
samples, and only while the supervisor takes it: one part may exceed the credit, then all wait. Flushes are answered in order.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from aggregator import ipc
from aggregator.worker.contract import Part

MAX_RUNNING = 256
"""Further flushes are refused: each one holds its first part in memory."""


@dataclass(slots=True)
class _Running:
    id: int
    parts: Iterator[Part]
    next_part: Part | None


class Flushes:
    """Running flushes, in order."""

    def __init__(self, window_bytes: int) -> None:
        self.credit_bytes = window_bytes
        self._running: deque[_Running] = deque()

    def __len__(self) -> int:
        return len(self._running)

    @property
    def full(self) -> bool:
        """Whether no further flush may be started."""
        return len(self._running) >= MAX_RUNNING

    @property
    def ready(self) -> bool:
        """Whether ``take`` has something to give."""
        return bool(self._running) and self.credit_bytes > 0

    def start(self, number: int, parts: Iterator[Part]) -> None:
        """Starts a flush: closes its windows now."""
        self._running.append(_Running(number, parts, next(parts, None)))

    def credit(self, nbytes: int) -> None:
        """The supervisor takes more."""
        self.credit_bytes += nbytes

    def take(self) -> tuple[ipc.Flushed, Part | None]:
        """The next part and its header; call only when ``ready``. None: an end without output."""
        running = self._running[0]
        part = running.next_part or next(running.parts, None)
        running.next_part = None
        if part is None:
            self._running.popleft()
            return ipc.Flushed(running.id, True, 0, False, []), None
        if part.last:
            self._running.popleft()
        batch = part.batch
        if batch is None:
            return ipc.Flushed(running.id, part.last, 0, False, [], part.discarded), part
        self.credit_bytes -= batch.size_bytes
        names = list(batch.policy_names)
        return ipc.Flushed(running.id, part.last, len(batch), False, names, part.discarded), part
