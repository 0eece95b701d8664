"""How much memory a service may have: a share of what the machine has, or the control group that it runs in, unless its file says more.

A control group bounds what is below it as well, so that every group on the way to ours counts; both versions of the interface are read,
and the least is what we have.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["UNLIMITED", "Available", "MemoryLimit", "available", "memory_limit"]

UNLIMITED = -1
"""As ``memoryLimitBytes``: no limit is wanted. 0 is the default, a share of what is available."""
_SHARE = 2
"""Half: the rest is for programs, buffers with bounds of their own, and other services."""


@dataclass(frozen=True, slots=True)
class Available:
    """The memory that there is."""

    nbytes: int
    source: str
    """For people: what says so."""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """What a service may have."""

    nbytes: int
    """0: there is no limit."""
    source: str
    """For people: where it comes from."""


def available(root: Path = Path("/")) -> Available:
    """What the machine has, or the smallest limit of the control groups that we are in. ``root``: where ``proc`` and ``sys`` are."""
    found = Available(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the machine's memory")
    for path in _limit_files(root):
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        # "max" is no limit; version 1 has a number for that which is larger than any memory.
        if text.isdigit() and 0 < int(text) < found.nbytes:
            found = Available(int(text), f"the limit of the control group ({path})")
    return found


def memory_limit(wanted: int, key: str = "memoryLimitBytes") -> MemoryLimit:
    """What ``wanted`` means: bytes, 0 (half of what is available), or ``UNLIMITED``; ``key``: where the file says it."""
    if wanted == UNLIMITED:
        return MemoryLimit(0, f"{key}: {UNLIMITED}")
    if wanted:
        return MemoryLimit(wanted, key)
    there = available()
    return MemoryLimit(there.nbytes // _SHARE, f"half of {there.source}")


def _limit_files(root: Path) -> Iterator[Path]:
    """Where the limits of our groups may be, of the innermost first; those of a container are at the top, whatever the path says."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    top = root / "sys/fs/cgroup"
    yield from (top / "memory.max", top / "memory/memory.limit_in_bytes")
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            folder, name = top, "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = top / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(path.lstrip("/"))
        for part in (group, *group.parents):
            yield folder / part / name
