"""``python -m aggregator.warmup [--also MODULE …]``: compiles all kernels once, so that no first sample waits for it.

Each package named below has ``warm(progress)`` or ``warm()``, which calls every kernel with the dtypes of the service; numba
keeps the machine code in its cache. ``--also`` names packages of other services.
"""

import argparse
import importlib
import inspect
import sys
import time
from collections.abc import Callable, Sequence

PACKAGES = ("m3metrics.kernels", "m3msg.kernels", "m3msg.producer.kernels", "aggregator.engine", "aggregator.front")
"""In the order of compiling: what others are made of comes first."""


def warm_package(name: str, show: Callable[[str], None]) -> float:
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one line per package; on a terminal, the current step on the same line."""
    parser = argparse.ArgumentParser(prog="aggregator.warmup", description="Compile the kernels of the service.")
    parser.add_argument("--also", action="append", default=[], metavar="MODULE", help="one more module with warm()")
    names = (*PACKAGES, *parser.parse_args(arguments).also)
    for number, name in enumerate(names, 1):
        head = f"compiling kernels {number}/{len(names)} {name}"

        def show(step: str, head: str = head) -> None:
            if sys.stdout.isatty():
                print(f"\r\x1b[K{head}: {step}", end="", flush=True)

        show("…")
        try:
            seconds = warm_package(name, show)
        except (ImportError, TypeError) as error:
            print(f"{head}: failed: {error}", flush=True)
            return 1
        lead = "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{lead}{head}: done in {seconds:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
