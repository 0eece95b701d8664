"""The service's end of its zygote: a process that has loaded what children need and is forked instead of starting Python anew.

A child starts in milliseconds and shares the memory of what was loaded: see ``forking`` for who is whose parent. A zygote that dies ends
nobody; the next one is started at once, and orders wait for it. The first one can be forked from the service itself, which then shares
that memory too, as long as the service has one thread and no sockets; later ones load everything anew.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Self

import msgspec

from m3x import process
from m3x.log import logger
from m3x.processes import forking
from m3x.processes.restarts import Restarts
from m3x.processes.running import Running

__all__ = ["SpawnError", "Zygote"]

log = logger(__name__)

_PATIENCE_S = 60.0
"""How long a zygote may take for an order; one that was just started loads everything first."""


class SpawnError(Exception):
    """The new process died before it began, or there is no room for it."""


class _ZygoteDiedError(Exception):
    """It did not carry out an order."""


class Zygote:
    """``preload``: a module whose ``load()`` loads everything that children need, with one thread, and opens nothing.

    An asynchronous context manager: children are started within it. They do not end with it.
    """

    def __init__(self, preload: str) -> None:
        self._preload = preload
        self.pid = 0
        """0: none runs now."""
        self._link: socket.socket | None = None
        self._descriptor = -1
        self._up = asyncio.Event()
        self._death = asyncio.Event()
        """Of the incarnation that ``_up`` tells of."""
        self._restarts = Restarts()
        self._again: asyncio.TimerHandle | None = None

    def fork(self) -> None:
        """Loads everything into this process, and forks the first zygote from it, unless this process has several threads already."""
        forking.load(self._preload)
        if (threads := process.threads()) > 1:
            log.warning("this process has threads already: it shares no memory with its children", threads=threads)
            return
        ours, theirs = _pair()
        parent = os.getpid()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            os.setsid()
            forking.serve(theirs, parent, self._preload)
        theirs.close()
        self._link = ours

    async def __aenter__(self) -> Self:
        process.adopt_orphans(True)
        if self._link is None:
            self._start()
        else:
            self._watch()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._again is not None:
            self._again.cancel()
        if self.pid:
            self._end()
        process.adopt_orphans(False)

    async def spawn(self, module: str, arguments: Sequence[str], files: Sequence[int] = ()) -> Running:
        """A child that runs a module as ``python -m`` does; ``files``: descriptors that it gets as its 3, 4, …

        Waits for a zygote. Raises ``SpawnError``.
        """
        while True:
            await self._up.wait()
            death = self._death
            try:
                return await self._carried_out(forking.Order(module, list(arguments)), files)
            except _ZygoteDiedError:
                await death.wait()

    async def _carried_out(self, order: forking.Order, files: Sequence[int]) -> Running:
        assert self._link is not None
        ours, theirs = _pair()
        with ours:
            with theirs:
                try:
                    socket.send_fds(self._link, [msgspec.msgpack.encode(order)], [theirs.fileno(), *files])
                except OSError as error:
                    raise self._refusal(self._link) from error
            running = Running(await self._said_pid(self._link, ours))
            with contextlib.suppress(OSError):
                ours.send(forking.GO)
        return running

    async def _said_pid(self, link: socket.socket, channel: socket.socket) -> int:
        """What the child says first."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                said = await asyncio.get_running_loop().sock_recv(channel, 32)
        except TimeoutError:
            log.error("the zygote does nothing: killing it", pid=self.pid, seconds=_PATIENCE_S)
            self.kill()
            raise _ZygoteDiedError from None
        except OSError as error:
            raise self._refusal(link) from error
        if not said:
            raise self._refusal(link)
        return int(said)

    def _refusal(self, link: socket.socket) -> Exception:
        """Why an order was not carried out."""
        try:
            ended = link is not self._link or link.recv(1) == b""
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True
        return _ZygoteDiedError() if ended else SpawnError("the new process died at once, or there is no room for it")

    def kill(self) -> None:
        """SIGKILL; the next one is started."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    # --- incarnations

    def _start(self) -> None:
        """One that loads everything anew: this process has threads by now."""
        self._again = None
        ours, theirs = _pair()
        with theirs:
            command = forking.command_line(
                "m3x.processes", [self._preload, "--link", str(forking.FIRST_FILE), "--parent", str(os.getpid())]
            )
            self.pid = os.posix_spawn(
                sys.executable,
                command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), forking.FIRST_FILE)],
                setsid=True,
            )
        self._link = ours
        self._watch()

    def _watch(self) -> None:
        self._restarts.started()
        self._death = asyncio.Event()
        self._up.set()
        self._descriptor = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._died)

    def _died(self) -> None:
        pid, code = self.pid, self._end()
        pause_s = self._restarts.pause_s()
        log.error("the zygote died, starting it again", pid=pid, code=code, pause_s=pause_s)
        self._again = asyncio.get_running_loop().call_later(pause_s, self._start)

    def _end(self) -> int:
        """Ends it and who it was just forking; returns its exit code."""
        pid, self.pid = self.pid, 0
        assert self._link is not None
        self._link.close()
        self._link = None
        self._up.clear()
        self._death.set()
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        # Children leave its process group; until it is waited for, the group's number is nobody else's.
        os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-pid, 0)
        return os.waitstatus_to_exitcode(status)


def _pair() -> tuple[socket.socket, socket.socket]:
    """Whole messages, and an end when the other side is closed; ours does not block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs
