"""The service's end of its zygote: a process that has loaded what children need and is forked instead of starting Python anew.

A child starts in milliseconds and shares the memory of what was loaded: see ``forking`` for who is whose parent. The first zygote can be
forked from the service itself, which then shares that memory too, as long as the service has one thread and no sockets. A zygote that dies
ends nobody: a spare one, forked from it before, takes its place at once, with the same memory, and has a spare one forked in turn. Only
where both have died the next one is started as a program and loads everything anew; orders wait for it.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import msgspec

from m3x import process
from m3x.log import logger, share_level
from m3x.processes import forking
from m3x.processes.restarts import Restarts
from m3x.processes.running import Running

__all__ = ["SpawnError", "Zygote"]

log = logger(__name__)

_PATIENCE_S = 60.0
"""How long a zygote may take for an order; one that was just started loads everything first."""
_SPARE_S = 0.5
"""So long after it was found to be missing a spare one is forked: what is waited for comes first."""


class SpawnError(Exception):
    """The new process died before it began, or there is no room for it."""


class _ZygoteDiedError(Exception):
    """It did not carry out an order."""


_Watch = Callable[[int, socket.socket], Running]
"""Pid and channel → what watches the process."""


class _Incarnation(NamedTuple):
    process: Running
    link: socket.socket


class Zygote:
    """``preload``: a module whose ``load()`` loads everything that children need, with one thread, and opens nothing. It is called again
    where that is loaded already, and does nothing then.

    An asynchronous context manager: children are started within it. They do not end with it.
    """

    def __init__(self, preload: str) -> None:
        self._preload = preload
        self._forked: tuple[int, socket.socket] | None = None
        self._current: _Incarnation | None = None
        self._spare: _Incarnation | None = None
        self._up = asyncio.Event()
        """There is a current one."""
        self._no_spare = asyncio.Event()
        self._restarts = Restarts()
        self._again: asyncio.TimerHandle | None = None
        self._sparing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        """The zygote that takes orders; 0: none at this moment."""
        return 0 if self._current is None else self._current.process.pid

    @property
    def spare_pid(self) -> int:
        """The one that comes after it; 0: none at this moment."""
        return 0 if self._spare is None else self._spare.process.pid

    def fork(self) -> None:
        """Loads everything into this process, and forks the first zygote from it, unless this process has several threads already."""
        share_level()
        forking.load(self._preload)
        if (threads := process.threads()) > 1:
            log.warning("this process has threads already: it shares no memory with its children", threads=threads)
            return
        ours, theirs = _pair()
        parent = os.getpid()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            os.setsid()
            forking.serve(theirs, parent, self._preload)
        theirs.close()
        self._forked = pid, ours

    async def __aenter__(self) -> Self:
        process.adopt_orphans(True)
        if self._forked is not None:
            self._begin(*self._forked)
        else:
            self._start()
        self._no_spare.set()
        self._sparing = asyncio.create_task(self._keep_spare(), name="spare zygote")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._sparing is not None
        self._closed = True
        self._sparing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sparing
        if self._again is not None:
            self._again.cancel()
        for incarnation in filter(None, (self._current, self._spare)):
            incarnation.process.signal(signal.SIGKILL)
            incarnation.process.reap()
            incarnation.link.close()
        process.adopt_orphans(False)

    def kill(self) -> None:
        """SIGKILL to the current one; the next one takes its place."""
        if self._current is not None:
            self._current.process.signal(signal.SIGKILL)

    # --- orders

    async def spawn(self, module: str, arguments: Sequence[str], files: Sequence[int] = ()) -> Running:
        """A child that runs a module as ``python -m`` does; ``files``: descriptors that it gets as its 3, 4, …

        Waits for a zygote. Raises ``SpawnError``.
        """
        return await self._spawn(forking.Order(module, list(arguments)), files, _heard)

    async def _spawn(self, order: forking.Order, files: Sequence[int], watched: _Watch) -> Running:
        while True:
            await self._up.wait()
            assert self._current is not None
            current = self._current
            try:
                return await self._carried_out(current, order, files, watched)
            except _ZygoteDiedError:
                # Before anything else is done with it: ``_up`` tells of its successor then.
                await current.process.wait()

    async def _carried_out(
        self, zygote: _Incarnation, order: forking.Order, files: Sequence[int], watched: _Watch
    ) -> Running:
        ours, theirs = _pair()
        with contextlib.ExitStack() as unless_running:
            unless_running.enter_context(ours)
            with theirs:
                try:
                    socket.send_fds(zygote.link, [msgspec.msgpack.encode(order)], [theirs.fileno(), *files])
                except OSError as error:
                    raise _refusal(zygote) from error
            pid = await _pid_of_child(ours, zygote)
            unless_running.pop_all()
            running = watched(pid, ours)
            with contextlib.suppress(OSError):
                ours.send(forking.GO)
        return running

    # --- incarnations

    def _start(self) -> None:
        """One that loads everything anew: this process has threads by now."""
        self._again = None
        ours, theirs = _pair()
        with theirs:
            command = forking.command_line(*self._program())
            where = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), forking.FIRST_FILE)]
            pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=where, setsid=True)
        self._begin(pid, ours)

    def _program(self) -> tuple[str, list[str]]:
        """What a zygote runs that is not forked from this process; the link is its first descriptor."""
        return "m3x.processes", [self._preload, "--link", str(forking.FIRST_FILE), "--parent", str(os.getpid())]

    def _begin(self, pid: int, link: socket.socket) -> None:
        self._current = _Incarnation(Running(pid, self._gone), link)
        self._restarts.started()
        self._up.set()

    async def _keep_spare(self) -> None:
        while True:
            await self._no_spare.wait()
            self._no_spare.clear()
            await asyncio.sleep(_SPARE_S)
            if self._spare is not None:
                # The current one died while this was forked.
                continue
            with contextlib.ExitStack() as unless_forked:
                ours, theirs = _pair()
                unless_forked.enter_context(ours)
                with theirs:
                    try:
                        made = await self._spawn(forking.Order(*self._program()), [theirs.fileno()], self._watched)
                    except SpawnError as error:
                        log.warning("cannot fork a spare zygote", error=str(error))
                        self._no_spare.set()
                        continue
                if made.ended:
                    self._no_spare.set()
                    continue
                unless_forked.pop_all()
                self._spare = _Incarnation(made, ours)

    def _watched(self, pid: int, channel: socket.socket) -> Running:
        return Running(pid, self._gone, channel)

    def _gone(self, process: Running, code: int) -> None:
        """One of the two has ended."""
        if self._closed:
            return
        if self._current is not None and process is self._current.process:
            self._current.link.close()
            self._current, next_one, self._spare = None, self._spare, None
            if next_one is not None:
                self._current = next_one
                self._restarts.started()
                log.error("the zygote died, the spare one takes its place", pid=process.pid, code=code)
            else:
                self._up.clear()
                pause_s = self._restarts.pause_s()
                log.error("the zygote died, starting it again", pid=process.pid, code=code, pause_s=pause_s)
                self._again = asyncio.get_running_loop().call_later(pause_s, self._start)
        elif self._spare is not None:
            self._spare.link.close()
            self._spare = None
            log.error("the spare zygote died", pid=process.pid, code=code)
        self._no_spare.set()


def _heard(pid: int, channel: socket.socket) -> Running:
    return Running(pid, channel=channel)


async def _pid_of_child(channel: socket.socket, zygote: _Incarnation) -> int:
    """What the child says first."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            said = await asyncio.get_running_loop().sock_recv(channel, 32)
    except TimeoutError:
        log.error("the zygote does nothing: killing it", pid=zygote.process.pid, seconds=_PATIENCE_S)
        zygote.process.signal(signal.SIGKILL)
        raise _ZygoteDiedError from None
    except OSError as error:
        raise _refusal(zygote) from error
    if not said:
        raise _refusal(zygote)
    return int(said)


def _refusal(zygote: _Incarnation) -> Exception:
    """Why it did not carry out an order."""
    try:
        ended = zygote.process.ended or zygote.link.recv(1) == b""
    except BlockingIOError:
        ended = False
    except OSError:
        ended = True
    return _ZygoteDiedError() if ended else SpawnError("the new process died at once, or there is no room for it")


def _pair() -> tuple[socket.socket, socket.socket]:
    """Whole messages, and an end when the other side is closed; ours does not block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs
