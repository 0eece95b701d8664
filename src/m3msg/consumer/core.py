"""One connection of a consumer without its socket: bytes in, batches out; acks in, ack frames out (docs/m3/m3msg.md, consumer).

    core.space() ──(shell: one socket read into it)──> core.received(n) ──> ReceivedBatch | None
    batch.ack() / core.ack(batch, mask) ──> core.take_acks() ──(shell: one socket write)──> wire

Nothing is decoded beyond the frame: values are opaque. There is no duplicate detection, as in M3.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m3msg.kernels import ack_size_bound, build_acks, scan_frames
from m3msg.rows import FRAME_ROW, MAX_FRAME, PREFIX, SCAN_FULL, SCAN_MORE, SCAN_REASONS
from m3x.tls import TLS_BYTE, TLS_MAJOR

__all__ = ["ConsumerCore", "ReceivedBatch"]

_READ_BYTES = 1 << 20
_LEAST_READ_BYTES = 64 << 10
_TYPICAL_FRAME = 64


@dataclass(slots=True, eq=False)
class ReceivedBatch:
    """Complete messages of one connection, in the order of arrival."""

    buffer: NDArray[np.uint8]
    """Whole frames; positions in ``rows`` refer to it."""
    rows: NDArray[np.void]
    """``FRAME_ROW`` per message: metadata and the range of its value."""
    now_ns: int
    """When they were read, wall clock."""
    peer: str
    """Who sent them, for logs."""
    acker: Callable[["ReceivedBatch", NDArray[np.bool_] | None], None] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        return int(self.buffer.nbytes + self.rows.nbytes)

    def value(self, i: int) -> bytes:
        """Value of one message; for tests and rare paths."""
        at = int(self.rows["value_at"][i])
        return self.buffer[at : at + int(self.rows["value_size"][i])].tobytes()

    def ack(self, mask: NDArray[np.bool_] | None = None) -> None:
        """Acks all messages, or those with ``mask[i]``; at any time, from the loop's thread. What is never acked is sent again by the
        producer; what is acked after the connection has gone is lost silently."""
        self.acker(self, mask)


class ConsumerCore:
    """See the module. ``error`` is set once the stream cannot be followed any further: ack what is in work, then close."""

    def __init__(self, *, max_frame: int = MAX_FRAME, max_ack_frame: int = MAX_FRAME, peer: str = "") -> None:
        self.error = ""
        self.begins_tls = False
        """With ``error``: what came is what a TLS client says first."""
        self.peer = peer
        self.acker: Callable[[ReceivedBatch, NDArray[np.bool_] | None], None] = self.ack
        """What ``ReceivedBatch.ack`` calls; a shell puts its own in front."""
        self.pending_acks = 0
        """Acks that ``take_acks`` would give."""
        self._max_frame = max_frame
        self._max_ack_frame = max_ack_frame
        self._buf = np.empty(_READ_BYTES, np.uint8)
        self._end = 0
        self._acks: list[bytes] = []

    @property
    def unfinished(self) -> bool:
        """Whether the bytes end inside a frame."""
        return self._end > 0

    def space(self) -> memoryview:
        """Where to put the next bytes; never empty."""
        if len(self._buf) - self._end < _LEAST_READ_BYTES:
            self._renew(0)
        return self._buf[self._end :].data

    def received(self, n: int, now_ns: int) -> ReceivedBatch | None:
        """``n`` bytes were put into ``space``: the messages that are complete now."""
        if self.error:
            return None
        self._end += n
        rows, at, status = self._scan()
        if status != SCAN_MORE:
            self.error = f"{SCAN_REASONS[status]} ({self._describe(at)})"
            self.begins_tls = self._buf[at : at + 2].tobytes() == bytes((TLS_BYTE, TLS_MAJOR))
        if not len(rows):
            return None
        if at * 4 < len(self._buf):  # do not keep a large buffer alive for a few messages
            buffer = self._buf[:at].copy()
            self._buf[: self._end - at] = self._buf[at : self._end].copy()
            self._end -= at
        else:
            buffer = self._buf[:at]
            self._renew(at)
        return ReceivedBatch(buffer, rows, now_ns, self.peer, self.acker)

    def feed(self, data: bytes, now_ns: int = 0) -> list[ReceivedBatch]:
        """``space`` and ``received`` for bytes that are in memory."""
        batches = []
        while data:
            space = self.space()
            n = min(len(space), len(data))
            space[:n] = data[:n]
            data = data[n:]
            batch = self.received(n, now_ns)
            if batch is not None:
                batches.append(batch)
        return batches

    def ack(self, batch: ReceivedBatch, mask: NDArray[np.bool_] | None = None) -> None:
        """Prepares acks of a batch's messages, all or those with ``mask[i]``."""
        rows = batch.rows if mask is None or mask.all() else batch.rows[mask]
        n = len(rows)
        if n:
            out = np.empty(ack_size_bound(n, self._max_ack_frame), np.uint8)
            size = build_acks(batch.buffer, rows, n, out, 0, self._max_ack_frame)
            self._acks.append(out[:size].tobytes())
            self.pending_acks += n

    def take_acks(self) -> bytes:
        """The ack frames prepared since the last call."""
        frames = b"".join(self._acks)
        self._acks.clear()
        self.pending_acks = 0
        return frames

    def _scan(self) -> tuple[NDArray[np.void], int, int]:
        tables, at = [], 0
        while True:
            table = np.empty((self._end - at) // _TYPICAL_FRAME + 16, FRAME_ROW)
            n, at, status = scan_frames(self._buf, at, self._end, self._max_frame, table)
            tables.append(table[:n])
            if status != SCAN_FULL:
                return (tables[0] if len(tables) == 1 else np.concatenate(tables)), at, status

    def _describe(self, at: int) -> str:
        size = int.from_bytes(self._buf[at : at + PREFIX].tobytes(), "big")
        return f"a frame of {size} bytes, {self._max_frame} allowed"

    def _renew(self, start: int) -> None:
        """A new buffer that begins with what follows ``start`` and has room for the whole frame that begins there."""
        rest = self._buf[start : self._end]
        frame = 0
        if len(rest) >= PREFIX:
            frame = min(int.from_bytes(rest[:PREFIX].tobytes(), "big"), self._max_frame) + PREFIX
        buf = np.empty(max(_READ_BYTES, frame, len(rest)) + _LEAST_READ_BYTES, np.uint8)
        buf[: len(rest)] = rest
        self._buf = buf
        self._end = len(rest)
