"""One coordinator that aggregates inside: a file, one process to start."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from lab.http import get
from lab.ports import free_ports
from lab.processes import Process, family, module_command
from lab.waiting import wait_until

T = TypeVar("T", bound="Inside")


class Inside:
    """Its addresses and its process; ``text`` makes the file of its ports (HTTP, metrics, carbon)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.http, self.metrics, self.carbon = free_ports(3)
        self.base = f"http://127.0.0.1:{self.http}"
        self.file = folder / "m3coordinator.yml"
        self.file.write_text(self.text())
        self.start()

    def text(self) -> str:
        """The file."""
        raise NotImplementedError

    def start(self) -> None:
        """Returns at once; ``ready`` says when it takes samples."""
        command = module_command("coordinator", "-f", str(self.file), "--data-dir", str(self.folder / "data"))
        self.process = Process("coordinator", command, self.folder / "log")

    def ready(self) -> bool:
        """Whether it takes samples; raises if it has ended."""
        self.process.check()
        return get(f"{self.base}/ready")[0] == 200


@contextlib.contextmanager
def serving(made: T) -> Iterator[T]:
    """Takes samples; nothing of it is left afterwards."""
    try:
        wait_until("the coordinator takes samples", made.ready, 120)
        yield made
    finally:
        print(f"--- end of the log\n{made.process.tail()}")
        pids = family(made.process.pid)
        made.process.kill()
        wait_until("nothing is left", lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), 10)
