"""Child processes that are kept alive: started, watched, started again at once, or after a pause if they die repeatedly."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from m3x.clock import monotonic_ns
from m3x.log import logger
from m3x.retry import Backoff

__all__ = ["Child"]

log = logger(__name__)

_BACKOFF = Backoff(initial_s=0.5, factor=2.0, max_s=10.0, jitter=False)
_STEADY_NS = 10_000_000_000
"""A process that lived this long was not at fault for its start: its successor starts at once."""
_GRACE_S = 2.0


class Child:
    """One process of a service, in successive incarnations (epochs 1, 2, …).

    ``prepare(epoch)`` makes what an incarnation needs and returns its module and options file; ``gone(epoch, code)`` clears up.
    """

    def __init__(
        self,
        name: str,
        prepare: Callable[[int], tuple[str, Path]],
        gone: Callable[[int, int], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.epoch = 0
        self.restarts = 0
        self._prepare = prepare
        self._gone = gone
        self._sleep = sleep
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """Process id of the running incarnation; 0 without one."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def run(self) -> None:
        """Keeps one incarnation running until ``stop``; cancelling kills it."""
        deaths = 0
        try:
            while not self._stopping:
                self.epoch += 1
                module, options = self._prepare(self.epoch)
                began_ns = monotonic_ns()
                self._process = await self._spawn([sys.executable, "-m", module, "--options", str(options)])
                code = await self._process.wait()
                self._gone(self.epoch, code)
                if self._stopping:
                    return
                deaths = 1 if monotonic_ns() - began_ns > _STEADY_NS else deaths + 1
                pause_s = _BACKOFF.delay(deaths - 1) if deaths > 1 else 0.0
                log.error("process died, starting it again", process=self.name, code=code, pause_s=pause_s)
                self.restarts += 1
                await self._sleep(pause_s)
        finally:
            self.kill()
            if self._process is not None:
                await asyncio.shield(self._process.wait())

    async def _spawn(self, command: Sequence[str]) -> asyncio.subprocess.Process:
        # A session of its own: Ctrl-C reaches only the parent, which ends the others in order.
        return await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=None, stderr=None, start_new_session=True
        )

    def stop(self) -> None:
        """From now on its end is expected and it is not started again."""
        self._stopping = True

    def terminate(self) -> None:
        """``stop``, and SIGTERM."""
        self.stop()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL the running incarnation."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def ended(self, timeout_s: float = _GRACE_S) -> bool:
        """Waits for the end of the running incarnation; False if the time is up."""
        if self._process is None or self._process.returncode is not None:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            return False
        return True
