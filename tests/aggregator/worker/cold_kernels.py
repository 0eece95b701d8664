"""Warms everything up as scripts/environment.sh does; prints how many kernels there are and which are left out.

A kernel is warm if a ``warm()`` has called it, or if a warm kernel calls it: it is compiled, or loaded from the cache, as part of that one.
"""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from numba.core.dispatcher import Dispatcher

from aggregator import warmup
from m3x.warming import warm_module

SOURCES = Path(warmup.__file__).parents[1]


def modules() -> Iterator[ModuleType]:
    for path in sorted(SOURCES.rglob("*.py")):
        if "njit" in path.read_text():
            yield importlib.import_module(".".join(path.relative_to(SOURCES).with_suffix("").parts))


def called(kernel: Dispatcher) -> Iterator[Dispatcher]:
    found = inspect.getclosurevars(kernel.py_func)
    values = [*found.globals.values(), *found.nonlocals.values()]
    for module in [value for value in values if isinstance(value, ModuleType)]:
        values += [getattr(module, name, None) for name in kernel.py_func.__code__.co_names]
    yield from (value for value in values if isinstance(value, Dispatcher))


def main() -> None:
    kernels = {
        f"{module.__name__}.{name}": value
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__
    }
    for package in (*warmup.PACKAGES, "coordinator.warmup"):
        warm_module(package, lambda step: None)
    left = [kernel for kernel in kernels.values() if kernel.signatures]
    warm = set()
    while left:
        kernel = left.pop()
        if kernel not in warm:
            warm.add(kernel)
            left += called(kernel)
    print(len(kernels), *sorted(name for name, kernel in kernels.items() if kernel not in warm))


if __name__ == "__main__":
    main()
