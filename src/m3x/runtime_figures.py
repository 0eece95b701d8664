"""What is known of a process and its children, under the names that dashboards ask for: version, CPU, open files, tasks, collections."""

import asyncio
import contextlib
import gc
import os
import platform
import time
from collections.abc import Iterator

from m3x import process
from m3x.instrument import Registry
from m3x.version import VERSION

__all__ = ["show_runtime"]


def show_runtime(registry: Registry, prefix: str) -> None:
    """Adds the figures of this process and of all that it started to the page; ``prefix``: that of the service."""
    scope, plain = registry.scope(prefix), registry.scope()
    begun_s = 0.0

    def collected(phase: str, _info: dict[str, int]) -> None:
        nonlocal begun_s
        if phase == "start":
            begun_s = time.perf_counter()
        else:
            scope.observe("runtime.memory.gc-pause-ms", (time.perf_counter() - begun_s) * 1e3)

    def look() -> None:
        scope.gauge("runtime.memory.num-gc", sum(generation["collections"] for generation in gc.get_stats()))
        scope.gauge("runtime.num-goroutines", _tasks())
        pids = [os.getpid(), *_descendants(os.getpid())]
        plain.gauge("process_num_fds", sum(map(_open_files, pids)))
        plain.gauge("process_cpu_seconds_total", sum(process.cpu_seconds(pid, children=True) for pid in pids))
        plain.gauge("process_resident_memory_bytes", sum(map(process.resident_bytes, pids)))

    gc.callbacks.append(collected)
    scope.tagged(build_version=VERSION, python_version=platform.python_version()).gauge("build-information", 1)
    plain.gauge("process_start_time_seconds", time.time())
    registry.looks.append(look)


def _tasks() -> int:
    """What a goroutine is there, a task is here."""
    with contextlib.suppress(RuntimeError):
        return len(asyncio.all_tasks())
    return 0


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                for child in map(int, children.read().split()):
                    yield child
                    yield from _descendants(child)


def _open_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0
