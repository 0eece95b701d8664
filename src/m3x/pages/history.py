"""What a service's figures have been over the last hour: what rates and charts of its pages are made of."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from m3x.beats import beat
from m3x.instrument import Registry

__all__ = ["EVERY_S", "History"]

EVERY_S = 5.0
_POINTS = 720
"""An hour."""


class History:
    """Figures of a registry every five seconds, each summed over its labels; memory: 6 kB a figure.

    ``names``: which counters and gauges, as the metrics page has them behind ``prefix``. ``before``: brings the registry up to date.
    """

    def __init__(
        self,
        registry: Registry,
        prefix: str,
        names: Iterable[str],
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._registry = registry
        self._prefix = prefix
        self._before = before
        self._values = {name: np.full(_POINTS, np.nan) for name in names}

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Takes them until the context ends."""
        task = asyncio.create_task(self._run(), name="history")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            if self._before is not None:
                await self._before()
            self.take()
            await beat(every_s=EVERY_S)

    def take(self) -> None:
        """Takes the figures of now."""
        totals = self._registry.totals(self._prefix)
        for name, values in self._values.items():
            values[:-1] = values[1:]
            values[-1] = totals.get(name, np.nan)

    def now(self, name: str) -> float:
        """The newest value; NaN: there is none. Raises ``KeyError`` for a figure that is not kept, as all do."""
        return float(self._values[name][-1])

    def values(self, name: str) -> NDArray[np.float64]:
        """float64, one value every ``EVERY_S``, oldest first; NaN: there was none."""
        return self._values[name]

    def rates(self, *names: str) -> NDArray[np.float64]:
        """By how much counters rose a second, all together, over each interval; NaN where none of them was there. A counter that fell
        began anew."""
        rises = []
        for name in names:
            values = self._values[name]
            rise = np.diff(values)
            rises.append(np.where(rise < 0, values[1:], rise))
        together = np.array(rises)
        total: NDArray[np.float64] = np.where(np.isnan(together).all(axis=0), np.nan, np.nansum(together, axis=0))
        return total / EVERY_S

    def rate(self, *names: str) -> float:
        """The newest of ``rates``."""
        return float(self.rates(*names)[-1])
