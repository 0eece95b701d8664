"""The clocks that shells hand to cores. Cores never read a clock themselves (docs/architecture.md §6)."""

import time

from m3x.log import logger

__all__ = ["boot_ns", "monotonic_ns", "wall_ns"]

log = logger(__name__)

_STEP_NS = 1_000_000_000
"""A smaller difference to the boot clock is the work of whatever keeps the clocks right."""
_BELIEVED_NS = 10_000_000_000


class _Steady:
    """The wall clock of this process, without steps that are taken back within ten seconds."""

    def __init__(self) -> None:
        self._offset_ns: int | None = None
        """Wall clock minus boot clock, as they are believed."""
        self._stepped_ns = 0
        """When a step was seen first, on the boot clock; 0: there is none."""

    def now_ns(self) -> int:
        wall, boot = time.time_ns(), boot_ns()
        offset = wall - boot
        known = offset if self._offset_ns is None else self._offset_ns
        if abs(offset - known) < _STEP_NS:
            if self._stepped_ns:
                self._stepped_ns = 0
                log.info("the clock of this machine is where it was again")
            self._offset_ns = offset
            return wall
        seconds = (offset - known) / 1e9
        if not self._stepped_ns:
            self._stepped_ns = boot
            log.warning(
                "the clock of this machine was set; that counts once it has lasted",
                by_s=seconds,
                after_s=_BELIEVED_NS / 1e9,
            )
        if boot - self._stepped_ns < _BELIEVED_NS:
            return boot + known
        self._offset_ns, self._stepped_ns = offset, 0
        log.warning("the clock of this machine was set, which counts from now on", by_s=seconds)
        return wall


_steady = _Steady()


def wall_ns() -> int:
    """Nanoseconds since the Unix epoch: timestamps of samples and windows.

    When somebody sets the clock by a second or more, that counts only after it has lasted for ten seconds: a step that is taken back at
    once would close windows that have hardly begun. A machine that was suspended has not had its clock set (``boot_ns``).
    """
    return _steady.now_ns()


def boot_ns() -> int:
    """Nanoseconds since boot, suspend included (``CLOCK_BOOTTIME``): lease deadlines, which must not stand still in a suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def monotonic_ns() -> int:
    """Nanoseconds of ``CLOCK_MONOTONIC``: intervals inside one process."""
    return time.monotonic_ns()
