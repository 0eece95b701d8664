"""One parser over many inputs, in a forked child: its crash, its hang and its hunger are results, not the end of the run."""

import contextlib
import faulthandler
import mmap
import os
import resource
import signal
import sys
import traceback
from dataclasses import asdict, dataclass
from typing import Any

from tests.fuzz.mutations import inputs
from tests.fuzz.parser import Parser

from m3x.process import die_with_parent

__all__ = ["Report", "run"]

INPUT_CPU_S = 5.0
"""A parser that takes longer over one input hangs."""
_SEED_CPU_S = 60.0
"""The same for a seed, at which kernels may be compiled."""
MORE_BYTES = 1 << 30
"""Of address space beyond what the seeds have taken; who asks for more allocates without bound."""
_ROOM = 1 << 20
_SHOWN_BYTES = 4096
_ENDED = 3


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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(parser: Parser, seed: str, count: int) -> Report:
    """Reads ``count`` inputs; ends at the first fault. For processes with one thread only, as it forks."""
    note = mmap.mmap(-1, _ROOM)
    reading, writing = os.pipe()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        os.close(reading)
        status = _ENDED
        try:
            status = _child(parser, seed, count, note, writing, parent)
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode(errors="replace")
    _, status, used = os.wait4(pid, 0)
    number, size = (int.from_bytes(note[at : at + 8], "little") for at in (0, 8))
    data = bytes(note[16 : 16 + min(size, _SHOWN_BYTES)])
    fault = told if os.WIFEXITED(status) else _ending(os.WTERMSIG(status), told)
    if not fault and os.waitstatus_to_exitcode(status) != 0:
        fault = f"the process ended with code {os.waitstatus_to_exitcode(status)}"
    return Report(parser.name, number, fault, data.hex() if fault else "", round(used.ru_utime + used.ru_stime, 3))


def _ending(number: int, told: str) -> str:
    if number == signal.SIGVTALRM:
        return "it hangs: too much CPU over one input"
    return told or f"it crashes: {signal.Signals(number).name}"


def _child(parser: Parser, seed: str, count: int, note: mmap.mmap, pipe: int, parent: int) -> int:
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
        for number, data in enumerate(inputs(seeds, parser.words, f"{seed} {parser.name}", count)):
            _note(note, number, data)
            signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_CPU_S)
            parser.check(data)
        note[0:8] = count.to_bytes(8, "little")
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
