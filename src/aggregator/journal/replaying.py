"""Applies a journal to an empty engine: the same calls, in the same order, with the same stamps.

What flushes put out is thrown away: what of it has to come out once more, the supervisor asks for (``ipc.Reopen``).
"""

from collections import deque
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine.ingest.shorthand import NO_NUMBER
from aggregator.journal.records import Batch, Numbers, Order
from m3x.reserve import reserve_wide

__all__ = ["Replay", "Replayer", "before", "carry_out", "rows_of"]

_NONE = np.zeros(0, np.uint32)
_PART = 1 << 16


@dataclass(slots=True)
class Replay:
    """What a replay has done so far."""

    batches: int = 0
    samples: int = 0
    lost: int = 0
    """Samples of series that became unknown by damage."""
    unknown: int = 0
    """Records, and other parts of the journal, that could not be read or understood."""
    now_ns: int = 0
    """The newest stamp."""
    through_ns: int = 0
    """Whatever was stamped up to then is there; 0: nothing was in the journal, or in one of those that were taken over."""


class Replayer:
    """Applies records to an engine."""

    def __init__(self, engine: Engine, result: Replay | None = None, *, among_others: bool = False) -> None:
        """``result``: goes on counting there. ``among_others``: what the engine has of other shards stays."""
        self.engine = engine
        self._among_others = among_others
        self._there: list[int] = []
        self.numbers = _no_numbers()
        """Entry rows + 1 by number."""
        self.result = Replay() if result is None else result

    def loaded(self, owned: list[int]) -> None:
        """A snapshot with these shards was loaded."""
        self._there = owned

    def forget_numbers(self) -> None:
        """Records are missing: a number may stand for another series from here on."""
        self.numbers = _no_numbers()

    def apply(self, header: Batch | Order | Numbers, data: memoryview) -> None:
        """Does what a record says."""
        match header:
            case Batch():
                self._batch(header, data)
            case Order():
                self.result.now_ns = max(self.result.now_ns, header.now_ns)
                if self._among_others:
                    self._carry_out_there(header.command, header.now_ns)
                else:
                    carry_out(self.engine, header.command, header.now_ns)
            case Numbers():
                self._renumber(header, data)

    def _carry_out_there(self, command: ipc.Command, now_ns: int) -> None:
        """The command of a worker whose shards are some of those in the engine."""
        match command:
            case ipc.Shards():
                self._there = [shard.id for shard in command.owned]
                self.engine.add_shards(command, now_ns)
                return
            case ipc.Flush():
                named = {shard for bounds in command.bounds for shard in bounds.shards}
                rest = [shard for shard in self._there if shard not in named]
                bounds = [b if b.shards else msgspec.structs.replace(b, shards=rest) for b in command.bounds]
                command = msgspec.structs.replace(command, bounds=[b for b in bounds if b.shards])
            case ipc.Commit() if not command.shards:
                command = msgspec.structs.replace(command, shards=self._there)
        carry_out(self.engine, command, now_ns)

    def _batch(self, header: Batch, data: memoryview) -> None:
        result = self.result
        result.now_ns = max(result.now_ns, header.now_ns)
        replayed = self.engine.replay(rows_of(data), self.numbers, header.now_ns)
        result.batches += 1
        result.samples += sum(header.counts)
        result.lost += replayed.lost
        result.unknown += not replayed.whole

    def _renumber(self, header: Numbers, data: memoryview) -> None:
        pairs = np.frombuffer(data, np.uint32, 2 * header.count)
        old, new = pairs[: header.count], pairs[header.count :]
        rows = self.numbers[np.minimum(old, NO_NUMBER - 1)]
        self.forget_numbers()
        self.numbers[np.minimum(new, NO_NUMBER - 1)] = rows

    def renumbered(self) -> NDArray[np.uint32] | None:
        """The numbers and the rows of all entries, where any differ; None: none does."""
        # Nearly all parts of it were never touched.
        parts = ((at, self.numbers[at : at + _PART]) for at in range(0, NO_NUMBER, _PART))
        found = [(at + np.flatnonzero(part)).astype(np.uint32) for at, part in parts if part.max()]
        used = np.concatenate([_NONE, *found])
        rows = self.numbers[used] - np.uint32(1)
        return None if np.array_equal(used, rows) else np.concatenate((used, rows))


def _no_numbers() -> NDArray[np.uint32]:
    return reserve_wide(NO_NUMBER, np.uint32)


def before(header: Numbers, data: memoryview, numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """``numbers`` as they were before a ``Numbers`` record."""
    pairs = np.frombuffer(data, np.uint32, 2 * header.count)
    found = _no_numbers()
    found[np.minimum(pairs[: header.count], NO_NUMBER - 1)] = numbers[np.minimum(pairs[header.count :], NO_NUMBER - 1)]
    return found


def rows_of(data: memoryview) -> NDArray[np.uint8]:
    """Rows as the engine takes them."""
    return np.array(np.frombuffer(data, np.uint8))


def carry_out(engine: Engine, command: ipc.Command, now_ns: int) -> None:
    """What a worker does with a command, without what a flush puts out."""
    match command:
        case ipc.Flush():
            deque(engine.flush(command, now_ns), maxlen=0)
        case ipc.Reopen():
            engine.reopen(command)
        case ipc.Commit():
            engine.commit(command)
        case ipc.Shards():
            engine.set_shards(command, now_ns)
        case ipc.RuntimeOptions():
            engine.set_runtime(command)
        case ipc.Expire():
            engine.expire(now_ns)
        case ipc.Grace():
            engine.set_grace(command)
