"""What the zygotes of these tests load."""

import functools
import os
from pathlib import Path

loaded_by = 0
"""The process that called ``load``."""
ballast = b""
"""Memory that children share."""


@functools.cache
def load() -> None:
    """``m3x.processes.forking.load``."""
    global loaded_by, ballast
    loaded_by, ballast = os.getpid(), os.urandom(32 << 20)
    if (broken := os.environ.get("PRELOAD_FAILS")) and Path(broken).exists():
        raise RuntimeError("told not to load")
