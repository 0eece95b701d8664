"""``python -m m3x.warming MODULE …``: compiles kernels once, so that no first sample waits for it.

Each module has ``warm(progress)`` or ``warm()``, which calls every kernel with the dtypes of the service; numba keeps the machine code in
its cache.
"""

import argparse
import importlib
import inspect
import sys
import time
from collections.abc import Callable, Sequence

from m3x import process

__all__ = ["main", "warm_all", "warm_module"]


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
    """Prints one line per module; on a terminal, the current step on the same line. Returns the exit code: 1 where one cannot be warmed."""
    for number, name in enumerate(names, 1):
        head = f"compiling kernels {number}/{len(names)} {name}"

        def show(step: str, head: str = head) -> None:
            if sys.stdout.isatty():
                print(f"\r\x1b[K{head}: {step}", end="", flush=True)

        show("…")
        try:
            seconds = warm_module(name, show)
        except (ImportError, TypeError) as error:
            print(f"{head}: failed: {error}", flush=True)
            return 1
        lead = "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{lead}{head}: done in {seconds:.1f} s", flush=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command of the module."""
    parser = argparse.ArgumentParser(prog="m3x.warming", description="Compile kernels.")
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="a module with warm()")
    parser.add_argument("--child-of", type=int, metavar="PID", help="it ends with this process, its parent")
    options = parser.parse_args(arguments)
    if options.child_of is not None:
        process.die_with_parent(options.child_of)
    return warm_all(options.modules)


if __name__ == "__main__":
    sys.exit(main())
