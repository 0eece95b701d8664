"""The process of the aggregator inside: started as a program, started again when it dies, ended in order.

It leads a session of its own, so that Ctrl-C in a terminal does not reach it, and takes no notice of SIGTERM and SIGINT that are sent to
every process of a service: whoever sends them means the coordinator. It is told to end by the end of its standard input, and Linux
kills it when the coordinator is dead (``m3x.process.die_with_parent``).
"""

import os
import sys
from collections.abc import Awaitable, Callable, Sequence

from m3x.log import logger
from m3x.processes import Child, Launch, Running, SpawnError

__all__ = ["ChildProcess"]

log = logger(__name__)

_END_S = 60.0
"""The aggregator bounds its own end more tightly than this."""


class ChildProcess:
    """``arguments``: those of ``python -m module`` but for ``--child-of``. ``prepare`` is awaited before each start; what it raises of
    ``failures`` counts as a start that failed. Run ``run`` as long as it is wanted, ``end`` it before."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        prepare: Callable[[], Awaitable[None]],
        failures: type[Exception] | tuple[type[Exception], ...],
    ) -> None:
        self._prepare = prepare
        self._failures = failures
        self._orders = -1
        """What its standard input is read from."""
        self.last_code: int | None = None
        """How it ended last; None: it never did."""
        launch = Launch(module, [*arguments, "--child-of", str(os.getpid())])
        self._child = Child("aggregator", self, lambda _: launch, self._gone)

    @property
    def pid(self) -> int:
        """0: it is not running."""
        return self._child.pid

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return self._child.restarts

    async def run(self) -> None:
        """Keeps it running until ``end``; cancelling kills it."""
        await self._child.run()

    async def spawn(self, module: str, arguments: Sequence[str], files: Sequence[int] = ()) -> Running:
        """Starts it (``m3x.processes.Spawner``). Raises ``SpawnError``."""
        try:
            await self._prepare()
        except self._failures as error:
            raise SpawnError(str(error)) from error
        theirs, ours = os.pipe()
        try:
            # From the loop's own thread: Linux takes the end of the thread that has started a process for the end of its parent.
            pid = os.posix_spawn(  # noqa: ASYNC221 - it returns at once
                sys.executable,
                [sys.executable, "-m", module, *arguments],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0)],
                setsid=True,
            )
        except OSError as error:
            os.close(ours)
            raise SpawnError(str(error)) from error
        finally:
            os.close(theirs)
        self._orders = ours
        return Running(pid)

    def _gone(self, _epoch: int, code: int) -> None:
        self.last_code = code
        self._close()

    def _close(self) -> None:
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1

    async def end(self) -> None:
        """Tells it to end, and waits until it has; kills it if that takes very long."""
        self._child.stop()
        self._close()
        if not await self._child.ended(_END_S):
            log.error("the aggregator did not end in time, killing it", pid=self.pid)
            self._child.kill()
            await self._child.ended(_END_S)
