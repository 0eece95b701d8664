"""Ctrl-C and SIGTERM of a script as one exception, so that what it started is ended in order."""

import signal
from types import FrameType

__all__ = ["Interrupted", "raise_interrupted"]


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


def raise_interrupted() -> None:
    """From now on both raise ``Interrupted`` in the main thread."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise Interrupted
