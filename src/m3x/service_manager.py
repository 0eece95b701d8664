"""What a service tells the manager that started it: that it is ready, lives, and ends (sd_notify(3), systemd.service(5)).

    Type=notify          READY=1 when the service listens, STATUS= what it says of itself, STOPPING=1
    Type=notify-reload   RELOADING=1 and READY=1 around a reload (also told to a manager that does not wait for it)
    WatchdogSec=30       WATCHDOG=1 twice in that time, from the event loop: one that hangs is killed and started again

Without ``NOTIFY_SOCKET`` in the environment nothing is told and nothing ticks. The variables are taken out of the environment: children
that would speak for themselves are not meant.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator

from m3x.log import logger

__all__ = ["ServiceManager"]

log = logger(__name__)

_STATUS_S = 5.0
_STATUS_CHARACTERS = 300


class ServiceManager:
    """The manager that the environment names, if there is one."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        meant = self._address and microseconds.isdecimal() and pid in ("", str(os.getpid()))
        self._watchdog_s = int(microseconds) / 1e6 if meant else 0.0

    @contextlib.asynccontextmanager
    async def told(self, status: Callable[[], str]) -> AsyncIterator[None]:
        """The service is ready within the context, and ends behind it. ``status``: one line on how it is."""
        if not self._address:
            yield
            return
        self._tell("READY=1", f"STATUS={_line(status())}")
        beats = asyncio.create_task(self._beat(status), name="service manager")
        try:
            yield
        finally:
            beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)
            # After that the manager hears no watchdog any more: the end has its own limit there.
            self._tell("STOPPING=1", "STATUS=ending")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """The configuration is read again within the context."""
        if not self._address:
            yield
            return
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self._tell("READY=1")

    async def _beat(self, status: Callable[[], str]) -> None:
        said = ""
        while True:
            lines = ["WATCHDOG=1"] if self._watchdog_s else []
            if (now := _line(status())) != said:
                said = now
                lines.append(f"STATUS={now}")
            if lines:
                self._tell(*lines)
            await asyncio.sleep(min(self._watchdog_s / 2 or _STATUS_S, _STATUS_S))

    def _tell(self, *lines: str) -> None:
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.setblocking(False)
                manager.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning_limited("the service manager could not be told", error=str(error), socket=self._address)


def _line(text: str) -> str:
    return " ".join(text.split())[:_STATUS_CHARACTERS]
