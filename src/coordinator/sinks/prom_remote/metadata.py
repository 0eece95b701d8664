"""Tells an endpoint the types of metric families, beside the samples: what is new or has changed soon, and all of it every minute.

Nothing waits for it and nothing is kept for it: what an endpoint does not take is counted, and comes again with all the others.
"""

import asyncio
import time
from collections.abc import Callable

import cramjam

from coordinator.sinks.metric_types import MetricTypes
from coordinator.sinks.prom_remote.answers import Kind
from coordinator.sinks.prom_remote.sender import Sender
from m3x.instrument import Scope

__all__ = ["EVERY_S", "MetadataSender"]

EVERY_S = 60.0
"""As Prometheus' ``metadata_config.send_interval``."""
_PAUSE_S = 1.0
"""At least between two requests about what is new."""
_FAMILIES = 2000
"""Of a request, as Prometheus' ``metadata_config.max_samples_per_send``."""


class MetadataSender:
    """Has one request under way at a time. Counts ``metadata_sent`` (families) and ``metadata_failed`` (requests) in ``scope``."""

    def __init__(
        self, types: MetricTypes, sender: Sender, scope: Scope, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._types = types
        self._sender = sender
        self._scope = scope
        self._clock = clock
        self._version = 0
        self._all_at = self._began_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether something is being sent."""
        return self._task is not None and not self._task.done()

    def begin_if_due(self) -> None:
        """Begins to send what the endpoint should hear now, if anything, and returns at once."""
        if not self._types.version or self.under_way:
            return
        now_s = self._clock()
        everything = now_s - self._all_at >= EVERY_S
        if not everything and (self._version == self._types.version or now_s - self._began_at < _PAUSE_S):
            return
        records = self._types.records(0 if everything else self._version)
        self._version, self._began_at = self._types.version, now_s
        if everything:
            self._all_at = now_s
        self._task = asyncio.create_task(self._send(records), name="metadata")

    async def close(self) -> None:
        """Gives up what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _send(self, records: list[bytes]) -> None:
        for first in range(0, len(records), _FAMILIES):
            part = records[first : first + _FAMILIES]
            answer = await self._sender.post(bytes(cramjam.snappy.compress_raw(b"".join(part))))
            if answer.kind is Kind.STORED:
                self._scope.count("metadata_sent", len(part))
            else:
                self._scope.count("metadata_failed", 1)
                return
