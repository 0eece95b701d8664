"""Where a process spends its time: its stacks, looked at again and again, counted as *collapsed* stacks.

A line is ``thread;outermost;…;innermost COUNT``, which speedscope, flamegraph.pl and others draw. Waiting counts as well as computing: a
stack that ends in ``select`` or ``poll`` waits. In a child compiled code counts for the Python function that has called it.
"""

import asyncio
import re
import sys
import threading
import time
from collections import Counter

from m3x.diagnosis.stacks import ChildStacks

__all__ = ["collapsed", "of_child", "of_this_process", "read_dumps"]

_THREAD = re.compile(r"(?:Current thread|Thread) (0x[0-9a-f]+)")
_FRAME = re.compile(r'  File "(.*)", line \d+ in (.*)')


def collapsed(stacks: Counter[str]) -> str:
    """As text, the most frequent first."""
    return "".join(f"{stack} {count}\n" for stack, count in stacks.most_common())


async def of_this_process(seconds: float, hertz: float) -> Counter[str]:
    """Looked at from a thread of its own."""
    given_up = threading.Event()
    try:
        return await asyncio.to_thread(_look, seconds, hertz, given_up)
    finally:
        given_up.set()


def _look(seconds: float, hertz: float, given_up: threading.Event) -> Counter[str]:
    found: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident == threading.get_ident():
                continue
            parts: list[str] = []
            inner = frame
            while inner is not None:
                code = inner.f_code
                parts.append(_part(code.co_filename, code.co_qualname))
                inner = inner.f_back  # type: ignore[assignment]
            found[";".join([names.get(ident, str(ident)), *reversed(parts)])] += 1
        if given_up.wait(1 / hertz):
            break
    return found


async def of_child(pid: int, seconds: float, hertz: float) -> Counter[str]:
    """Asked by signals. Raises ``NoStacksError``."""
    stacks, texts = ChildStacks(pid), []
    stacks.take()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stacks.ask()
        await asyncio.sleep(1 / hertz)
        texts.append(stacks.take())
    return read_dumps("".join(texts))


def read_dumps(text: str) -> Counter[str]:
    """What ``faulthandler`` has written, any number of times."""
    found: Counter[str] = Counter()
    thread, parts = "", list[str]()

    def end() -> None:
        if parts:
            found[";".join([thread, *reversed(parts)])] += 1
            parts.clear()

    for line in text.splitlines():
        if head := _THREAD.match(line):
            end()
            thread = head[1]
        elif frame := _FRAME.match(line):
            parts.append(_part(frame[1], frame[2]))
    end()
    return found


def _part(file: str, function: str) -> str:
    """A frame: the end of its file's path, and its function."""
    short = "/".join(file.split("/")[-2:]).removesuffix(".py")
    return f"{short}:{function}".replace(";", ",").replace(" ", "_")
