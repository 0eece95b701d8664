"""Passthrough metrics: what comes aggregated already goes the way of final output (docs/m3/aggregation.md, passthrough).

They have no windows, so nothing is kept of them: the leader of a shard set passes them on, a follower drops them, as in M3, and
what comes while nobody leads is lost. They belong to no flush, and no flush times wait for them.
"""

from collections.abc import Callable, Sequence

import zmq

from aggregator.config import ServiceConfig
from aggregator.ipc import Passed
from aggregator.supervisor.output.forwarder import Forwarder, Part, batch_of
from aggregator.supervisor.problems import Problems
from m3x.instrument import Scope

__all__ = ["Passing", "passes"]

_NO_FLUSH = 0
"""Flushes have numbers from 1 on."""


def passes(config: ServiceConfig) -> bool:
    """Whether the configuration lets passthrough metrics go anywhere."""
    section = config.aggregator.passthrough
    return section is not None and section.enabled


class Passing:
    """From the workers to ``output``, while ``leads`` says so. ``enabled``: ``passthrough.enabled``; without it M3 drops them silently."""

    def __init__(
        self, output: Forwarder, scope: Scope, leads: Callable[[], bool], *, enabled: bool, problems: Problems
    ) -> None:
        self._output = output
        self._scope = scope.sub("addPassthrough")
        self._leads = leads
        self._enabled = enabled
        self._problems = problems

    def take(self, worker: int, epoch: int, header: Passed, frames: Sequence[zmq.Frame]) -> None:
        """Passes a batch on, or drops it, counted. Raises ``ValueError`` if its arrays do not fit together."""
        batch = batch_of(header, frames)
        if self._enabled and self._leads():
            self._output.offer(Part(worker, epoch, _NO_FLUSH, 0, batch))
            return
        self._output.refuse(worker, epoch, batch.size_bytes)
        if self._enabled:
            self._scope.count("follower-noop", len(batch))
            return
        self._scope.count("disabled", len(batch))
        self._problems.set(
            "passthrough",
            "passthrough metrics are dropped, as in M3 without aggregator.passthrough: set passthrough: {enabled: true} and restart",
            serious=False,
        )
