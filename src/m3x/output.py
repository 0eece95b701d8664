"""What commands print for whoever reads it, who may go at any time (``m3coordinator --check-config | head -1``)."""

import os
import sys

__all__ = ["say"]


def say(text: str) -> None:
    """``text``, which ends its own lines, on standard output. A reader that has gone has seen enough: that is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter must not try to flush again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
