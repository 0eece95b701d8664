"""A running child process of ours, watched through a descriptor of its own (pidfd_open(2)): no thread, no SIGCHLD."""

import asyncio
import os
import signal

__all__ = ["Running"]


class Running:
    """``pid`` is a child of this process, which nobody else waits for; needs the event loop that runs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._loop = asyncio.get_running_loop()
        self._descriptor = os.pidfd_open(pid)
        self._code: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._descriptor, self._ended)

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._code.done()

    async def wait(self) -> int:
        """Its exit code, or the number of the signal that ended it, negative."""
        return await asyncio.shield(self._code)

    def signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if not self.ended:
            signal.pidfd_send_signal(self._descriptor, number)

    def _ended(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        _, status = os.waitpid(self.pid, 0)
        self._code.set_result(os.waitstatus_to_exitcode(status))
