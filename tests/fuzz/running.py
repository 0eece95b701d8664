"""Parsers over many inputs, each in a forked child: its crash, its hang and its hunger are results, not the end of the run."""

import contextlib
import faulthandler
import math
import mmap
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from tests.fuzz.mutations import inputs
from tests.fuzz.parser import Parser

from m3x.process import die_with_parent

__all__ = ["Report", "run", "run_all"]

INPUT_CPU_S = 5.0
"""A parser that takes longer over one input hangs."""
_SEED_CPU_S = 60.0
"""The same for a seed, at which kernels may be compiled."""
MORE_BYTES = 1 << 30
"""Of address space beyond what the seeds have taken; who asks for more allocates without bound."""
_ROOM = 1 << 20
_SHOWN_BYTES = 4096
_ENDED = 3
_BATCH = 64
"""So many inputs are read between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one parser."""

    name: str
    ran: int
    """Inputs that were read without a fault."""
    fault: str = ""
    """Empty: none was found."""
    input: str = ""
    """The one that was read when the fault came, in hexadecimal, its beginning."""
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Run:
    """A child that reads inputs. For processes with one thread only, as it forks."""

    def __init__(self, parser: Parser, seed: str, count: int, cpu_s: float) -> None:
        self.name, self.count = parser.name, count
        self._note = mmap.mmap(-1, _ROOM)
        self._began = time.monotonic()
        self.pipe, writing = os.pipe()
        parent, self._pid = os.getpid(), os.fork()
        if self._pid == 0:
            os.close(self.pipe)
            status = _ENDED
            try:
                status = _child(parser, seed, count, cpu_s, self._note, writing, parent)
            finally:
                os._exit(status)
        os.close(writing)

    @property
    def ran(self) -> int:
        """Inputs so far."""
        return int.from_bytes(self._note[0:8], "little")

    def finish(self) -> Report:
        """Waits for its end."""
        with os.fdopen(self.pipe, "rb") as pipe:
            told = pipe.read().decode(errors="replace")
        _, status, used = os.wait4(self._pid, 0)
        size = int.from_bytes(self._note[8:16], "little")
        data = bytes(self._note[16 : 16 + min(size, _SHOWN_BYTES)])
        fault = told if os.WIFEXITED(status) else _ending(os.WTERMSIG(status), told)
        if not fault and os.waitstatus_to_exitcode(status) != 0:
            fault = f"the process ended with code {os.waitstatus_to_exitcode(status)}"
        cpu_s, wall_s = used.ru_utime + used.ru_stime, time.monotonic() - self._began
        return Report(self.name, self.ran, fault, data.hex() if fault else "", round(cpu_s, 3), round(wall_s, 3))


def run(parser: Parser, seed: str, count: int) -> Report:
    """Reads ``count`` inputs; ends at the first fault."""
    return _Run(parser, seed, count, math.inf).finish()


def run_all(
    parsers: Iterable[Parser],
    seed: str,
    count: int,
    *,
    jobs: int = 1,
    cpu_s: float = math.inf,
    tell: Callable[[str], None] = lambda _line: None,
    every_s: float = 30.0,
) -> Iterator[Report]:
    """Each of them as ``run``, ``jobs`` at a time; a report as soon as one has ended.

    ``cpu_s``: a parser that takes longer ends before it has read ``count``. ``tell`` is told every ``every_s`` how far they are.
    """
    waiting = iter(parsers)
    running: dict[int, _Run] = {}
    try:
        while True:
            for parser in islice(waiting, jobs - len(running)):
                one = _Run(parser, seed, count, cpu_s)
                running[one.pipe] = one
            if not running:
                return
            # Whatever a child says is its last word.
            ended, _, _ = select.select([*running], [], [], every_s)
            for pipe in ended:
                yield running.pop(pipe).finish()
            if not ended:
                for one in running.values():
                    tell(f"{one.name}: {one.ran} of {one.count} inputs")
    finally:
        for one in running.values():
            os.kill(one._pid, signal.SIGKILL)
            one.finish()


def _ending(number: int, told: str) -> str:
    if number == signal.SIGVTALRM:
        return "it hangs: too much CPU over one input"
    return told or f"it crashes: {signal.Signals(number).name}"


def _child(parser: Parser, seed: str, count: int, cpu_s: float, note: mmap.mmap, pipe: int, parent: int) -> int:
    die_with_parent(parent)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    faulthandler.enable(sys.__stderr__)
    try:
        seeds = parser.seeds()
        for data in seeds:
            _note(note, 0, data)
            signal.setitimer(signal.ITIMER_VIRTUAL, _SEED_CPU_S)
            parser.check(data)
        # Whatever is compiled or loaded at first use is there now.
        _limit_memory()
        done, until_s = 0, time.process_time() + cpu_s
        many = inputs(seeds, parser.words, f"{seed} {parser.name}", count)
        while (batch := [*islice(many, _BATCH)]) and time.process_time() < until_s:
            for number, data in enumerate(batch, done):
                _note(note, number, data)
                signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_CPU_S)
                parser.check(data)
            done += len(batch)
        note[0:8] = done.to_bytes(8, "little")
    except BaseException:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.write(pipe, traceback.format_exc().encode(errors="replace")[-16384:])
        return 1
    return 0


def _note(note: mmap.mmap, number: int, data: bytes) -> None:
    """What is read now, for whoever looks after a crash."""
    shown = data[: _ROOM - 16]
    note[0:8] = number.to_bytes(8, "little")
    note[8:16] = len(shown).to_bytes(8, "little")
    note[16 : 16 + len(shown)] = shown


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + MORE_BYTES, hard))
