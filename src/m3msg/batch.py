"""Messages in columns: what producers take and workers give. Never one object per message."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class MessageBatch:
    """``n`` payloads (``Message.value`` of docs/m3/m3msg.md, message and ack) in one buffer.

    Invariants: ``offsets[0] >= 0``, non-decreasing, ``offsets[n] <= len(payload)``; payload ``i`` is
    ``payload[offsets[i]:offsets[i + 1]]``.
    """

    payload: NDArray[np.uint8]
    """The payload bytes, contiguous."""
    offsets: NDArray[np.int64]
    """Shape ``(n + 1,)``."""
    shards: NDArray[np.uint32]
    """Shape ``(n,)``: topic shard of each message (murmur3-32 of its id mod the *topic's* shard count)."""
    policies: NDArray[np.uint16] | None = None
    """Shape ``(n,)``: index into ``policy_names``, for storage policy filters; None: messages have no policy."""
    policy_names: tuple[str, ...] = ()
    """Storage policies as text, ``10s:2d``."""
    origins: NDArray[np.uint32] | None = None
    """Shape ``(n,)``: what of its owner each message belongs to (an aggregator: the shard whose window it comes from). The producer tells
    of which origins messages are still awaited (``Awaited``); None: nobody asks."""
    first_id: int = 0
    """Where the message ids of each shard begin, from 1 to 2^55; 0: the producer goes on counting. Who sends the same batch once more,
    perhaps from another process, gives it the same, so that who has had it recognises it; no other batch on its way may have it."""
    token: Any = field(default=None)
    """What the owner wants back when all messages of the batch are done."""

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def size_bytes(self) -> int:
        """Payload bytes of all messages."""
        return int(self.offsets[-1] - self.offsets[0])


def joined_messages(batches: Sequence[MessageBatch]) -> MessageBatch:
    """The messages of all batches (at least one) in one, without policies and token."""
    offsets, base = [np.zeros(1, np.int64)], 0
    for batch in batches:
        offsets.append(batch.offsets[1:] - batch.offsets[0] + base)
        base += batch.size_bytes
    return MessageBatch(
        np.concatenate([batch.payload[batch.offsets[0] : batch.offsets[-1]] for batch in batches]),
        np.concatenate(offsets),
        np.concatenate([batch.shards for batch in batches]),
    )
