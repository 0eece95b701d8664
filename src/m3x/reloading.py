"""What is made of files, and made again when they change: certificates, tokens.

The files are looked at when somebody asks for what they make, at most once a second, or as often as is said. What cannot be made of changed
files leaves the earlier in use, with a line in the log; at the start that is an error.
"""

import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from m3x.log import logger

__all__ = ["Reloading", "look_at_all"]

T = TypeVar("T")

_MIN_LOOK_S = 1.0

_log = logger(__name__)


class Reloading(Generic[T]):
    """What ``make`` makes of ``files``; empty names are none. ``what`` they are, for logs; ``failures``: what ``make`` raises where they
    cannot be used, which the first time is raised here."""

    def __init__(
        self,
        make: Callable[[], T],
        files: Iterable[str],
        *,
        what: str,
        failures: type[Exception],
        every_s: float = 0.0,
    ) -> None:
        self._make, self._files = make, [Path(file) for file in files if file]
        self._what, self._failures = what, failures
        self._every_s = every_s or _MIN_LOOK_S
        self._look_at = time.monotonic() + self._every_s
        self._seen = self._stamps()
        self._current = make()
        _all.add(self)

    def get(self) -> T:
        """What is in use now; the same object while the files are the same."""
        if self._files and time.monotonic() >= self._look_at:
            self.look()
        return self._current

    def look(self) -> None:
        """Looks at the files now."""
        self._look_at = time.monotonic() + self._every_s
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            self._make_again()

    def _make_again(self) -> None:
        try:
            self._current = self._make()
        except self._failures as error:
            _log.error(f"changed {self._what} cannot be used: the earlier ones stay in use", error=str(error))
        else:
            _log.info(f"{self._what} have changed and are in use", files=[str(file) for file in self._files])

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files]


_all: "weakref.WeakSet[Reloading[Any]]" = weakref.WeakSet()


def look_at_all() -> None:
    """Looks at the files of all of them in this process now."""
    for one in list(_all):
        one.look()


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
