"""What commands print for whoever reads it, who may go at any time (``m3coordinator --check-config | head -1``)."""

import os
import sys
from typing import TextIO

__all__ = ["complain", "say"]


def say(text: str) -> None:
    """``text``, which ends its own lines, on standard output. A reader that has gone has seen enough: that is no error."""
    _write(sys.stdout, text)


def complain(text: str) -> None:
    """A line on standard error, by the same rule: the exit code says the rest."""
    _write(sys.stderr, f"{text}\n")


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # The interpreter must not try to flush again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
