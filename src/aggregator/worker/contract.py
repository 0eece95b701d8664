"""What a worker asks of its engine. ``aggregator.engine.Engine`` is one."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from m3msg.batch import MessageBatch


class Result(Protocol):
    """Answer to ``Engine.ingest``."""

    @property
    def acks(self) -> NDArray[np.uint8]:
        """Ack frames of the connections, one after another; may be overwritten by the next ``ingest``."""

    @property
    def ack_sizes(self) -> NDArray[np.int64]:
        """Bytes of ``acks`` per connection."""

    @property
    def messages(self) -> int:
        """Messages in the batch."""


class Part(Protocol):
    """A piece of the output of a flush."""

    @property
    def batch(self) -> MessageBatch | None:
        """Encoded messages, whose arrays are not touched again; None: no output."""

    @property
    def forwarded(self) -> bool:
        """Whether ``batch`` is for other aggregators (rollups) instead of the output topic."""

    @property
    def last(self) -> bool:
        """Whether the flush ends with this part."""

    @property
    def discarded(self) -> int:
        """With ``last``: values thrown away."""


class Engine(Protocol):
    """Samples in, windows out; time is an argument."""

    recent_errors: list[tuple[str, str]]
    """Some of the errors since the last look: reason, and a text with the id."""

    def ingest(self, payload: NDArray[np.uint8], sizes: NDArray[np.int64], now_ns: int) -> Result:
        """Applies m3msg frames of several connections, ``sizes[i]`` bytes of each."""

    def set_shards(self, command: ipc.Shards, now_ns: int) -> None:
        """Which shards to serve."""

    def set_runtime(self, command: ipc.RuntimeOptions) -> None:
        """New limits."""

    def expire(self, now_ns: int) -> None:
        """Collects idle entries."""

    def new_lists(self) -> list[ipc.NewList]:
        """Lists that came to be since the last call."""

    def flush(self, command: ipc.Flush, now_ns: int) -> Iterator[Part]:
        """Closes the due windows when first advanced; the parts follow, forwarded ones first, with ``ingest`` calls in between."""

    def commit(self, command: ipc.Commit) -> None:
        """What was flushed up to there need not be kept."""

    def reopen(self, command: ipc.Reopen) -> None:
        """The next flush of the list emits again what is still kept of windows that end after ``since_ns``."""

    def stats(self) -> tuple[dict[str, int], dict[str, float], list[ipc.ShardStats]]:
        """Counters, gauges, and what is shown of each shard."""

    def memory_bytes(self) -> int:
        """Memory of tables and windows."""
