"""The series that all processes remember, one process after the other: ``GET /api/v1/rules/series`` (``coordinator.write.remembered``).

A page is one of one process; the place behind it is the number of the process, times 2^40, and the place in its cache. What several
processes remember comes several times.
"""

from collections.abc import Awaitable, Callable, Sequence

from coordinator.write.remembered import Page

__all__ = ["Pages", "paged"]

_PLACES = 1 << 40

Pages = Callable[[int], Awaitable[Page]]


def paged(processes: Sequence[Pages]) -> Pages:
    """Pages of all processes."""

    async def page(after: int) -> Page:
        number, place = divmod(after, _PLACES)
        if number >= len(processes):
            return Page()
        found = await processes[number](place)
        if found.next is not None:
            found.next += number * _PLACES
        elif number + 1 < len(processes):
            found.next = (number + 1) * _PLACES
        return found

    return page
