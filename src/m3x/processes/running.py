"""A running child process of ours, watched through a descriptor of its own (pidfd_open(2)): no thread, no SIGCHLD."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable

__all__ = ["Running"]

_REST_S = 0.05
_LAST_WORDS_BYTES = 1 << 14


class Running:
    """``pid`` is a child of this process, which nobody else waits for; needs the event loop that runs.

    It leads a process group, which ends with it: what it has forked falls to this process, and is waited for. ``gone`` is called with
    the exit code when it has ended. ``channel`` does not block: what the process says there at its end is its ``failure``.
    """

    def __init__(
        self, pid: int, gone: Callable[["Running", int], None] | None = None, channel: socket.socket | None = None
    ) -> None:
        self.pid = pid
        self.failure = ""
        """What ended it, in its own words; empty: nothing that it knew of."""
        self._channel = channel
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._descriptor = os.pidfd_open(pid)
        self._code: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._descriptor, self.reap)

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

    def reap(self) -> None:
        """Waits for its end, which is near, and lets nothing else go on meanwhile."""
        if self.ended:
            return
        self._loop.remove_reader(self._descriptor)
        os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOWAIT)
        os.close(self._descriptor)
        # Until it is waited for, the number of its group is nobody else's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self._reap_rest()
        self._hear()
        code = os.waitstatus_to_exitcode(status)
        self._code.set_result(code)
        if self._gone is not None:
            self._gone(self, code)

    def _hear(self) -> None:
        if self._channel is not None:
            with contextlib.suppress(OSError), self._channel:
                self.failure = self._channel.recv(_LAST_WORDS_BYTES).decode(errors="replace")

    def _reap_rest(self) -> None:
        """Those of its group, which were killed; one that has much memory, or waits for a disk, takes a while."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass
            self._loop.call_later(_REST_S, self._reap_rest)
