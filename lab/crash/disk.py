"""A full disk, played: every write of an instance's processes to a file fails, as their limit of file sizes is 0.

That needs no rights, and whatever they fork has the same limit. Sockets and pipes go on.
"""

import contextlib
import resource

from lab.processes import family

__all__ = ["fill", "make_room"]


def fill(pid: int) -> None:
    """No file takes anything from this process and its descendants."""
    _limit(pid, full=True)


def make_room(pid: int) -> None:
    """Files take everything again."""
    _limit(pid, full=False)


def _limit(pid: int, *, full: bool) -> None:
    done: set[int] = set()
    # One that was forked meanwhile may have the limit of before.
    while new := [one for one in family(pid) if one not in done]:
        for one in new:
            with contextlib.suppress(ProcessLookupError):
                _, most = resource.prlimit(one, resource.RLIMIT_FSIZE)
                resource.prlimit(one, resource.RLIMIT_FSIZE, (0 if full else most, most))
        done.update(new)
