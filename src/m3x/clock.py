"""The clocks that shells hand to cores. Cores never read a clock themselves (docs/architecture.md §6)."""

import time


def wall_ns() -> int:
    """Nanoseconds since the Unix epoch: timestamps of samples and windows."""
    return time.time_ns()


def boot_ns() -> int:
    """Nanoseconds since boot, suspend included (``CLOCK_BOOTTIME``): lease deadlines, which must not stand still in a suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def monotonic_ns() -> int:
    """Nanoseconds of ``CLOCK_MONOTONIC``: intervals inside one process."""
    return time.monotonic_ns()
