"""Times stages inside a process: its modules are changed while they are loaded, and every process, forked ones too, has a file of its own.

A file is an array of doubles, seconds of CPU of each of ``STAGES``, which others may read at any time. Time is that of the thread: a
stage that waits costs nothing, and one that is a coroutine cannot be timed.
"""

import functools
import importlib.abc
import importlib.machinery
import mmap
import os
import struct
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.profile.stages import STAGES

__all__ = ["install", "read"]

_DOUBLE = struct.Struct("d")
_FORM = struct.Struct(f"{len(STAGES)}d")


def read(folder: Path, pid: int) -> tuple[float, ...]:
    """CPU seconds of a process by stage; zeros if it has no file."""
    try:
        return _FORM.unpack((folder / str(pid)).read_bytes())
    except FileNotFoundError:
        return (0.0,) * len(STAGES)


class _Times:
    """What this process has spent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._local = threading.local()
        self._open()
        os.register_at_fork(after_in_child=self._open)

    def _open(self) -> None:
        file = self._folder / str(os.getpid())
        file.write_bytes(bytes(_FORM.size))
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), _FORM.size)
        self._spent = [0.0] * len(STAGES)

    def timed(self, stage: int, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time counted for a stage."""

        @functools.wraps(function)
        def call(*arguments: Any, **more: Any) -> Any:
            local = self._local
            outer = getattr(local, "inner", 0.0)
            local.inner = 0.0
            began = time.thread_time()
            try:
                return function(*arguments, **more)
            finally:
                whole = time.thread_time() - began
                self._spent[stage] += whole - local.inner
                local.inner = outer + whole
                _DOUBLE.pack_into(self._memory, stage * _DOUBLE.size, self._spent[stage])

        return call


class _Loader(importlib.abc.Loader):
    """Runs a module, then changes it."""

    def __init__(self, loader: importlib.abc.Loader, times: _Times) -> None:
        self._loader = loader
        self._times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        self._loader.exec_module(module)
        for number, stage in enumerate(STAGES):
            if stage.module == module.__name__:
                *owner, name = stage.function.split(".")
                where = getattr(module, owner[0]) if owner else module
                setattr(where, name, self._times.timed(number, getattr(where, name)))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that have stages."""

    def __init__(self, times: _Times) -> None:
        self._times = times
        self._modules = {stage.module for stage in STAGES}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._times)
        return spec


def install(folder: Path) -> None:
    """From now on: modules that are loaded already are not changed."""
    sys.meta_path.insert(0, _Finder(_Times(folder)))
