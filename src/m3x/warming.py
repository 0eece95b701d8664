"""``python -m m3x.warming MODULE …``: compiles kernels once, so that no first sample waits for it.

Each module has ``warm(progress)`` or ``warm()``, which calls every kernel with the dtypes of the service; numba keeps the machine code in
its cache. ``warm_all`` has several modules warmed at a time, each in one of a few processes. What two of them need is compiled by the one
that comes first (``share_kernels``), so modules may have kernels in common, and only the longest decides how long all take.
"""

import argparse
import collections
import fcntl
import hashlib
import importlib
import inspect
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from m3x import process
from m3x.memory import available

__all__ = ["main", "share_kernels", "warm_all", "warm_module"]

_MOST_PROCESSES = 3
"""There are two modules that take long, and the rest."""
_PROCESS_BYTES = 1 << 30
"""A process takes up to 800 MiB."""
_STEP, _DONE, _FAILED = "step", "done", "failed"
"""What a process says about a module, each with a text."""


def warm_module(name: str, show: Callable[[str], None]) -> float:
    """Compiles or loads the kernels of one module; ``show`` is called with every step. Returns the seconds it took.

    Raises ``ImportError`` for an unknown module, ``TypeError`` for one without ``warm``.
    """
    started = time.monotonic()
    warm = getattr(importlib.import_module(name), "warm", None)
    if warm is None:
        raise TypeError(f"{name} has no warm()")
    if inspect.signature(warm).parameters:
        warm(show)
    else:
        warm()
    return time.monotonic() - started


def warm_all(names: Sequence[str]) -> int:
    """Warms modules, each once, as many at a time as there are processors and memory for: those that take longest should come first.

    Prints one line per module when it is done; on a terminal, below them, what is being compiled. Returns the exit code: 1 where one cannot
    be warmed; the others are left then.
    """
    left = collections.deque(dict.fromkeys(names))
    total = len(left)
    told = queue.SimpleQueue[tuple[str, str, str]]()
    # It needs no directory that can be written.
    with open(os.memfd_create("m3-warming"), "r+b") as turns:
        command = [sys.executable, "-m", "m3x.warming", "--child-of", str(os.getpid()), "--turns", str(turns.fileno())]
        processes = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(turns.fileno(),)
            )
            for _ in range(_processes(total))
        ]
        threads = [threading.Thread(target=_drive, args=(one, left, told), daemon=True) for one in processes]
        try:
            for thread in threads:
                thread.start()
            return _follow(total, told)
        finally:
            for one in processes:
                one.kill()
            for thread in threads:
                thread.join()
            for one in processes:
                one.communicate()


def _processes(modules: int) -> int:
    """How many there are for so many modules."""
    return min(modules, len(os.sched_getaffinity(0)), max(available().nbytes // _PROCESS_BYTES, 1), _MOST_PROCESSES)


def share_kernels(turns: int) -> Callable[[], None]:
    """From now on each kernel is compiled by one of the processes that call this with a descriptor of the same file, open for reading and
    writing, which they may have inherited: others that need it wait, and load what that one has saved.

    Returns what a process calls when it has compiled all that it is to for now: a kernel that could not be compiled is left to others then.

    Without, both would compile it, and numba's cache forgets one of two versions of a kernel that are saved at the same time. There is one
    byte to lock for each kernel. Locks are those of a process, whoever has opened the file: one that holds a lock gets it again, and its
    locks go with it. Kernels do not call each other in circles, so nor do processes wait for each other.
    """
    # Who only follows does not need it; as Any, as numba has no types for it.
    kept: Any = importlib.import_module("numba.core.caching").FunctionCache
    load, save = kept.load_overload, kept.save_overload

    def place(cache: Any) -> int:
        name = f"{cache.cache_path}/{cache._impl.filename_base}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])

    def load_overload(cache: Any, signature: Any, context: Any) -> Any:
        found = load(cache, signature, context)
        if found is None:
            fcntl.lockf(turns, fcntl.LOCK_EX, 1, place(cache))
            found = load(cache, signature, context)
            if found is not None:
                fcntl.lockf(turns, fcntl.LOCK_UN, 1, place(cache))
        return found

    def save_overload(cache: Any, signature: Any, compiled: Any) -> None:
        try:
            save(cache, signature, compiled)
        finally:
            fcntl.lockf(turns, fcntl.LOCK_UN, 1, place(cache))

    kept.load_overload, kept.save_overload = load_overload, save_overload
    return lambda: fcntl.lockf(turns, fcntl.LOCK_UN)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command of the module."""
    parser = argparse.ArgumentParser(prog="m3x.warming", description="Compile kernels.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="a module with warm()")
    parser.add_argument("--child-of", type=int, metavar="PID", help="it ends with this process, its parent")
    parser.add_argument(
        "--turns", type=int, metavar="FD", help="one of several that share kernels: modules are read from its input"
    )
    options = parser.parse_args(arguments)
    if options.child_of is not None:
        process.die_with_parent(options.child_of)
    if options.turns is None:
        if not options.modules:
            parser.error("name at least one module")
        return warm_all(options.modules)
    # The parent hears of it, and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    give_up_turns = share_kernels(options.turns)
    # What a module prints is none of what the parent reads.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        _warm(line.strip(), lambda kind, text: print(json.dumps((kind, text)), file=answers, flush=True))
        give_up_turns()
    return 0


def _warm(name: str, say: Callable[[str, str], None]) -> None:
    """In a process of ``warm_all``."""
    try:
        say(_DONE, f"{warm_module(name, lambda step: say(_STEP, step)):.1f} s")
    except (ImportError, TypeError) as error:
        say(_FAILED, str(error))
    except Exception:
        say(_FAILED, f"\n{traceback.format_exc()}")


def _drive(
    one: "subprocess.Popen[str]", left: "collections.deque[str]", told: "queue.SimpleQueue[tuple[str, str, str]]"
) -> None:
    """Gives one process a module after the other, and hands on what it says."""
    assert one.stdin is not None
    assert one.stdout is not None
    while True:
        try:
            name = left.popleft()
        except IndexError:
            return
        told.put((name, _STEP, "…"))
        try:
            print(name, file=one.stdin, flush=True)
            kind = _STEP
            while kind == _STEP:
                kind, text = json.loads(one.stdout.readline())
                told.put((name, kind, text))
        except (OSError, ValueError):
            told.put((name, _FAILED, "its process has ended (killed? is there memory enough?)"))
            return


def _follow(total: int, told: "queue.SimpleQueue[tuple[str, str, str]]") -> int:
    """Prints what processes say and have done; the exit code."""
    steps: dict[str, str] = {}
    done = 0
    while done < total:
        name, kind, text = told.get()
        if kind == _STEP:
            steps[name] = text
        else:
            del steps[name]
            done += 1
            how = "done in" if kind == _DONE else "failed:"
            _say(f"compiling kernels {done}/{total} {name}: {how} {text}\n")
            if kind == _FAILED:
                return 1
        if steps and sys.stdout.isatty():
            _say(f"compiling kernels: {', '.join(f'{name} ({step})' for name, step in steps.items())}")
    return 0


def _say(text: str) -> None:
    """In place of the line that a terminal shows."""
    print(f"\r\x1b[K{text}" if sys.stdout.isatty() else text, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
