"""Passthrough metrics: aggregated already, they go to the output as they are (docs/m3/aggregation.md, passthrough).

They wait here until somebody takes them, at most ``MAX_BYTES``: beyond that the newest are dropped and counted.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.engine import reasons as why
from m3metrics.codec import TimedMetricWithStoragePolicy, aggregated_policy_fields
from m3metrics.kernels import aggregated_size_bound, encode_aggregated
from m3metrics.shard import shard_of
from m3msg.batch import MessageBatch

MAX_BYTES = 16 << 20


class Passthrough:
    """The passthrough metrics that wait."""

    def __init__(self, counts: NDArray[np.int64], topic_shards: int) -> None:
        self.topic_shards = topic_shards
        self._counts = counts
        self._messages: list[bytes] = []
        self._shards: list[int] = []
        self._policies: list[int] = []
        self._names: dict[str, int] = {}
        self._bytes = 0

    def add(self, metric: TimedMetricWithStoragePolicy) -> None:
        """Encodes one; its routing policy and metric type stay behind, as in M3."""
        self._counts[why.C_PASSTHROUGH] += 1
        policy = aggregated_policy_fields(metric.storage_policy)
        size = aggregated_size_bound(len(metric.id), len(metric.annotation), len(policy))
        if self._bytes + size > MAX_BYTES:
            self._counts[why.C_PASSED_DROPPED] += 1
            return
        out = np.empty(size, np.uint8)
        ident, note, fields = (_range(data) for data in (metric.id, metric.annotation, policy))
        nothing = _range(b"")
        end = encode_aggregated(out, 0, 0, *nothing, *ident, *nothing, metric.time_ns, metric.value, *note, *fields)
        self._counts[why.C_PASSED] += 1
        self._messages.append(out[:end].tobytes())
        self._shards.append(shard_of(metric.id, self.topic_shards))
        self._policies.append(self._names.setdefault(str(metric.storage_policy), len(self._names)))
        self._bytes += int(end)

    @property
    def waiting(self) -> bool:
        """Whether there are any."""
        return bool(self._messages)

    def take(self) -> MessageBatch | None:
        """All that wait, in the order in which they came."""
        if not self._messages:
            return None
        batch = MessageBatch(
            payload=np.frombuffer(b"".join(self._messages), np.uint8),
            offsets=np.cumsum([0, *map(len, self._messages)], dtype=np.int64),
            shards=np.array(self._shards, np.uint32),
            policies=np.array(self._policies, np.uint16),
            policy_names=tuple(self._names),
        )
        self._messages, self._shards, self._policies, self._names, self._bytes = [], [], [], {}, 0
        return batch


def _range(data: bytes) -> tuple[Any, int, int]:
    """Bytes as an encoder takes them."""
    return np.frombuffer(bytearray(data or b"\0"), np.uint8), 0, len(data)
