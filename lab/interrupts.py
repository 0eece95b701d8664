"""Ctrl-C and SIGTERM of a script as one exception, so that what it started is ended in order."""

import signal
from types import FrameType

__all__ = ["Interrupted", "ignore_interrupts", "raise_interrupted"]


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


def raise_interrupted() -> None:
    """From now on the first of them raises ``Interrupted`` in the main thread; another one must not leave processes behind."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)


def ignore_interrupts() -> None:
    """From now on neither does anything: what was started is being ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    ignore_interrupts()
    raise Interrupted
