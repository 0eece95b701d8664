"""Processes with a log: started, watched, stopped as a signal stops them, and ended; and what ``/proc`` says of their descendants."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.http import try_get

__all__ = ["Process", "children", "family", "module_command", "running_threads", "send_signal", "stop"]

STOP_S = 30.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this Python."""
    return [sys.executable, "-m", module, *arguments]


class Process:
    """A process in a session of its own; what it says is appended to ``log_file``.

    ``ends_with_us``: it gets SIGTERM when this process ends in whatever way. Only for callers that have no threads yet.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_file: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ends_with_us: bool = False,
    ) -> None:
        self.name, self.log_file = name, log_file
        self._told_to_end = False
        with log_file.open("ab") as log:
            # A session of its own: Ctrl-C reaches only us, and we end the processes in order.
            self.popen = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env={**os.environ, **(env or {})},
                start_new_session=True, preexec_fn=_end_with_parent if ends_with_us else None,  # noqa: PLW1509
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.popen.poll()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    def check(self) -> None:
        """Raises ``LabError`` with the end of the log if it has ended."""
        if (code := self.exit_code) is not None:
            raise LabError(
                f"{self.name} ended with exit code {code}; its log {self.log_file} ends with:\n{self.tail(15)}"
            )

    def wait_for_http(self, url: str, timeout_s: float = 60.0) -> None:
        """Returns when ``url`` answers 200. Raises ``LabError`` if the process ends, or the time is up."""
        deadline, last = time.monotonic() + timeout_s, ""
        while time.monotonic() < deadline:
            self.check()
            status, body = try_get(url, 2.0)
            if status == 200:
                return
            last = f"status {status}: {body[:300]}" if status else body
            time.sleep(0.1)
        raise LabError(f"{self.name} did not answer on {url} within {timeout_s:g} s ({last}); log: {self.log_file}")

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def terminate(self) -> None:
        """SIGTERM, once: a second one would end a service without order."""
        if not self._told_to_end:
            self._told_to_end = True
            self.popen.terminate()

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit code. Raises ``subprocess.TimeoutExpired``."""
        return self.popen.wait(timeout_s)

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, then SIGKILL after ``timeout_s``; returns the exit code."""
        if self.running:
            self.terminate()
            try:
                self.popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                print(f"{self.name} did not end within {timeout_s:g} s of SIGTERM: killed", file=sys.stderr)
                self.kill()
        return self.popen.wait()

    def kill(self) -> None:
        """SIGKILL to its process group, unless it has ended; returns when it has."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
            self.popen.wait()


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def children(pid: int) -> dict[int, list[str]]:
    """Pid → command line of the processes whose parent it is, oldest first; without those that end meanwhile."""
    found = {}
    for child, parent in sorted(_parents().items()):
        if parent == pid:
            with contextlib.suppress(OSError):
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    return found


def family(pid: int) -> list[int]:
    """The process and its descendants, parents first; without those that end meanwhile."""
    below: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        below.setdefault(parent, []).append(child)
    found = [pid]
    for one in found:
        found += below.get(one, [])
    return found


def _parents() -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            found[int(stat.parent.name)] = int(_after_name(stat)[1])
    return found


def _after_name(stat: Path) -> list[str]:
    """State, parent … of proc(5): the name before them, in parentheses, may contain anything."""
    return stat.read_text().rpartition(")")[2].split()


def send_signal(pids: Iterable[int], number: int) -> None:
    """Sends a signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stop(pid: int) -> None:
    """SIGSTOP, and returns once every thread has stopped: on a loaded machine the others run on until one of them has taken the signal.

    Raises ``AssertionError`` if that takes longer than ``STOP_S``.
    """
    os.kill(pid, signal.SIGSTOP)
    give_up = time.monotonic() + STOP_S
    while running := running_threads(pid):
        assert time.monotonic() < give_up, f"process {pid} is not stopped after {STOP_S:g} s: {running}"
        time.sleep(0.001)


def running_threads(pid: int) -> dict[int, str]:
    """State letters (proc(5)) of the threads that are neither stopped nor dead."""
    states: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            states[int(task.name)] = _after_name(task / "stat")[0]
    return {thread: state for thread, state in states.items() if state not in "TZX"}
