"""Child processes that are kept alive: started, watched, started again at once, or after a pause if they die repeatedly."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from m3x.log import logger
from m3x.processes.restarts import Restarts
from m3x.processes.running import Running
from m3x.processes.zygote import SpawnError

__all__ = ["Child", "Launch", "Spawner"]

log = logger(__name__)

_GRACE_S = 2.0
_MANY_DEATHS = 3
"""One that has died so often in a row is a trouble, not an accident."""
_NOT_STARTED = 1
"""The exit code of an incarnation that did not come to be."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What an incarnation runs: ``python -m module arguments…``; ``files`` are descriptors that it gets as its 3, 4, …"""

    module: str
    arguments: Sequence[str]
    files: Sequence[int] = ()


class Spawner(Protocol):
    """What starts processes: a ``Zygote``, or whatever else."""

    async def spawn(self, module: str, arguments: Sequence[str], files: Sequence[int] = ()) -> Running:
        """Raises ``SpawnError``."""


class Child:
    """One process of a service, in successive incarnations (epochs ``first``, the next one, …), started by ``zygote``.

    ``prepare(epoch)`` makes what an incarnation needs and says how to start it; ``gone(epoch, code)`` clears up. An ``OSError`` of
    ``prepare``, as on a full disk, ends that incarnation, and the next one is tried after a pause.
    """

    def __init__(
        self,
        name: str,
        zygote: Spawner,
        prepare: Callable[[int], Launch],
        gone: Callable[[int, int], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        first: int = 1,
    ) -> None:
        self.name = name
        self.epoch = first - 1
        self.restarts = 0
        self._zygote = zygote
        self._prepare = prepare
        self._gone = gone
        self._sleep = sleep
        self._process: Running | None = None
        self._stopping = False
        self._restarts = Restarts()
        self._last_end = ""

    @property
    def trouble(self) -> str | None:
        """What to say of one that dies again and again; None: it does not."""
        deaths = self._restarts.in_a_row()
        if deaths < _MANY_DEATHS:
            return None
        return f"{self.name} has died {deaths} times in a row, the last time of {self._last_end}"

    @property
    def pid(self) -> int:
        """Process id of the running incarnation; 0 without one."""
        return self._process.pid if self._process is not None and not self._process.ended else 0

    async def run(self) -> None:
        """Keeps one incarnation running until ``stop``; cancelling kills it."""
        try:
            while not self._stopping:
                self.epoch += 1
                self._restarts.started()
                code = await self._live()
                self._gone(self.epoch, code)
                if self._stopping:
                    return
                pause_s = self._restarts.pause_s()
                log.error(
                    "process died, starting it again",
                    process=self.name,
                    code=code,
                    died_of=self._last_end,
                    pause_s=pause_s,
                )
                self.restarts += 1
                await self._sleep(pause_s)
        finally:
            self.kill()
            if self._process is not None:
                await self._process.wait()

    async def _live(self) -> int:
        """One incarnation from its start to its exit code."""
        try:
            launch = self._prepare(self.epoch)
            self._process = await self._zygote.spawn(launch.module, launch.arguments, launch.files)
        except (OSError, SpawnError) as error:
            log.error("cannot start a process", process=self.name, error=str(error))
            self._last_end = f"a start that failed ({error})"
            return _NOT_STARTED
        if self._stopping:
            # It was told to end while it did not exist.
            self.kill()
        code = await self._process.wait()
        self._last_end = _how(code, self._process.failure)
        return code

    def stop(self) -> None:
        """From now on its end is expected and it is not started again."""
        self._stopping = True

    def terminate(self) -> None:
        """``stop``, and SIGTERM."""
        self.stop()
        if self._process is not None:
            self._process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL the running incarnation."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def ended(self, timeout_s: float = _GRACE_S) -> bool:
        """Waits for the end of the running incarnation; False if the time is up."""
        if self._process is None or self._process.ended:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            return False
        return True


def _how(code: int, failure: str) -> str:
    """How a process ended, for people."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"{name} (memory may have been short: see the log of the kernel)" if -code == signal.SIGKILL else name
    return f"exit code {code} ({failure})" if failure else f"exit code {code}"
