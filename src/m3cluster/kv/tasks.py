"""The background tasks of one store: named for people, ended together."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from m3x.log import logger

__all__ = ["Tasks"]

log = logger(__name__)


class Tasks:
    """Tasks of the store ``name``; create it inside a running loop. One that fails is logged."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        """Runs ``work`` until it ends or ``end``."""
        task = self._loop.create_task(work, name=f"kv {self._name}: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the store ended", exception=error, task=task.get_name())

    async def end(self) -> None:
        """Cancels all of them and waits for their end."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
