"""An event loop whose time passes only while nobody has anything to do: minutes of timers run in milliseconds, always in the same order.

A run that never ends would take a processor for ever, as nothing in it waits. So it fails with ``EndlessError`` when it lasts too long, or
when its time stands still although the loop goes round and round; the error says where every task was.
"""

import asyncio
import itertools
import random
import selectors
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

from m3x import clock

T = TypeVar("T")
EPOCH_NS = 1_767_355_200 * 10**9
"""Wall time when a run begins: 2026-01-02T12:00Z."""
_BEGIN_S = 1000.0
LONGEST_S = 1200.0
"""So long a run lasts at most, in its own time."""
_ENDING_S = 60.0
"""A run that lasted too long has this time for the ends of its tasks."""
MOST_ROUNDS = 100_000
"""So often the loop goes round at one moment at most."""


class EndlessError(AssertionError):
    """A run that does not end."""


class _Selector(selectors.SelectSelector):
    """Instead of waiting for the next timer it moves the clock there."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = _BEGIN_S
        self.end_s = _BEGIN_S + LONGEST_S
        self._rounds = 0
        """At this moment."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        before_s = self.now_s
        if not ready:
            assert timeout is not None, "nobody has a timer, and nothing else can happen in this loop"
            self.now_s += timeout
        self._rounds = self._rounds + 1 if self.now_s == before_s else 0
        if self._rounds > MOST_ROUNDS:
            self._rounds = 0
            raise EndlessError(f"time stands still at {self.now_s - _BEGIN_S:g} s: somebody runs without a pause")
        if self.now_s > self.end_s:
            self.end_s = self.now_s + _ENDING_S
            raise EndlessError(f"not at its end after {self.now_s - _BEGIN_S:g} s")
        return ready


class _Task(asyncio.Task[Any]):
    """Sets of tasks, such as those of a group that ends, are gone through in the same order each time, not in that of addresses."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)
        numbers = itertools.count()
        self.set_task_factory(lambda loop, coro, **options: _Task(next(numbers), coro, loop=loop, **options))

    def time(self) -> float:
        return self._clock.now_s


class _Clock:
    """What ``m3x.clock`` finds in place of the module ``time``."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic_ns(self) -> int:
        return round(self._loop.time() * 1e9)

    def clock_gettime_ns(self, _: int) -> int:
        return self.monotonic_ns()

    def time_ns(self) -> int:
        return EPOCH_NS + self.monotonic_ns()


@contextmanager
def _patched(loop: VirtualLoop, seed: int) -> Iterator[None]:
    chance = random.Random(seed)
    with (
        mock.patch("m3x.clock.time", _Clock(loop)),
        # The clock of the world outside was not set: it is another one.
        mock.patch("m3x.clock._steady", clock._Steady()),
        mock.patch("random.random", chance.random),
        mock.patch("secrets.randbits", chance.getrandbits),
    ):
        yield


def run(main: Coroutine[Any, Any, T], seed: int = 0) -> T:
    """``asyncio.run`` in virtual time; ``m3x.clock`` tells it, too. What is random by default comes from ``seed``.

    Raises ``EndlessError``.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        with _patched(loop, seed):
            try:
                return runner.run(main)
            except EndlessError as error:
                for task in asyncio.all_tasks(loop):
                    places = (f"{frame.f_code.co_filename}:{frame.f_lineno}" for frame in task.get_stack(limit=1))
                    error.add_note(f"{task.get_name()}: {', '.join(places)}")
                raise
