"""Starts and ends the services of the local stack; none of them outlives it."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class StackError(Exception):
    """The stack cannot start or go on; the message says why and what to do."""


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Service:
    """One service process; its log goes to a file. ``command``: a module of ours and its arguments, after ``program``."""

    def __init__(
        self, name: str, command: Sequence[str], log_file: Path, program: Sequence[str] = (sys.executable, "-m")
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._told_to_end = False
        with log_file.open("ab") as log:
            # A session of its own: Ctrl-C reaches only us, and we end the services in order.
            self.process = subprocess.Popen(
                [*program, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=_end_with_parent,  # noqa: PLW1509 - this process has no threads
            )  # fmt: skip

    def check(self) -> None:
        """Raises ``StackError`` with the end of the log if the service has ended."""
        code = self.process.poll()
        if code is not None:
            tail = "\n".join(self.log_file.read_text(errors="replace").splitlines()[-15:])
            raise StackError(f"{self.name} ended with exit code {code}; its log {self.log_file} ends with:\n{tail}")

    def terminate(self) -> None:
        """SIGTERM, once: a second one would end the service without order."""
        if not self._told_to_end:
            self._told_to_end = True
            self.process.terminate()

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, then SIGKILL after ``timeout_s``; returns the exit code."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                print(f"{self.name} did not end within {timeout_s:g} s of SIGTERM: killed", file=sys.stderr)
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        return self.process.returncode


def require_free_ports(ports: Sequence[int], host: str = "127.0.0.1") -> None:
    """Raises ``StackError`` naming the ports of ``host`` that something else listens on."""
    taken = []
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                taken.append(port)
    if taken:
        raise StackError(
            f"ports {', '.join(map(str, taken))} of {host} are in use: is another stack running? "
            "Stop it, or free the ports (ss -ltnp shows who listens)"
        )


def wait_for_http(service: Service, url: str, timeout_s: float = 60.0) -> None:
    """Returns when ``url`` answers 200; raises ``StackError`` if the service ends or the time is up."""
    deadline = time.monotonic() + timeout_s
    last = ""
    while time.monotonic() < deadline:
        service.check()
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as error:
            last = f"status {error.code}: {error.read()[:300].decode(errors='replace')}"
        except OSError as error:
            last = str(error)
        time.sleep(0.1)
    raise StackError(f"{service.name} did not answer on {url} within {timeout_s:g} s ({last}); log: {service.log_file}")
