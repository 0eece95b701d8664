"""One TCP connection to a consumer instance as a pure state machine: bytes to write, bytes read, what to send again and when.

    queue of pieces ──fill──> output buffer ──(shell: one socket write)──> wire
    wire ──(shell: one socket read)──> received ──> acks

A piece is a range of rows of one parcel. New and repeated pieces share one first-in-first-out queue, so neither starves the other. What
was sent and not acked within the retry interval leaves the window and is sent again with M3's backoff (docs/m3/m3msg.md, message retry);
after a reconnect everything unacked is queued at once.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from m3msg.frames import FrameError
from m3msg.kernels import scan_acks
from m3msg.producer.block import Moment, Parcel, Queue
from m3msg.producer.kernels import encode_rows, lapse, requeue
from m3msg.rows import ACK_ROW, SCAN_FULL, SCAN_MORE, SCAN_REASONS

__all__ = ["LaneSettings", "Link", "LinkOwner", "Piece"]

_FILL_BYTES = 256 << 10
"""Output is encoded and written in portions of this size."""
_ACKS = 1 << 14


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What all lanes of a producer have in common."""

    num_links: int
    num_shards: int
    buffer_bytes: int
    """Limit for final output."""
    forwarded_buffer_bytes: int
    loopback_buffer_bytes: int
    """Limit for forwarded messages to an endpoint of this very service."""
    window_bytes: int
    """Unacked payload bytes on the wire of one connection."""
    write_buffer_bytes: int
    max_ack_frame_bytes: int
    stall_ns: int
    """An instance that has acked nothing for so long while something is on its wire counts as not reachable."""
    last_id: int
    """The message id before the first one of every shard."""
    retry_delay_ns: Callable[[int], int]
    """From the number of attempts made to the wait before the next."""


class LinkOwner(Queue, Protocol):
    """The queue that a link carries (``Lane``, which says what these are), as the link sees it."""

    endpoint: str
    instance: str
    settings: LaneSettings
    inflight: NDArray[np.int64]

    def parcels(self) -> Iterator[Parcel]: ...
    def count(self, name: str, n: int, tag: str = "") -> None: ...
    def touch(self, link: "Link") -> None: ...
    def link_changed(self) -> None: ...
    def sent(self, link: "Link", payload_bytes: int, count: int, now: Moment, *, resend: bool) -> None: ...
    def acked(self, link: "Link", acks: NDArray[np.void], n: int, now: Moment) -> None: ...


class Piece:
    """Rows ``[first, last)`` of a parcel, to be sent for the ``attempt``-th time."""

    __slots__ = ("attempt", "first", "last", "parcel")

    def __init__(self, parcel: Parcel, first: int, last: int, attempt: int) -> None:
        self.parcel = parcel
        self.first = first
        self.last = last
        self.attempt = attempt


class Link:
    """The state of one connection; see the module."""

    def __init__(self, lane: LinkOwner, index: int) -> None:
        self.lane = lane
        self.index = index
        self.connected = False
        self.last_error = ""
        self.closed = False
        self.reset_reason = ""
        """Set: the shell must close the socket and dial anew."""
        self.out_fenced = False
        """Whether unwritten output contains messages that need the right to write."""
        self.hint: Parcel | None = None
        """Where the last ack was found."""
        self._queue: deque[Piece] = deque()
        self._retries: list[tuple[int, int, Piece]] = []
        self._written: Piece | None = None
        """The last of them, in the time in which the socket takes several outputs: what follows there is sent again together with it."""
        self._serial = 0
        self._ended = 0
        """Parcels that ended since the last look for pieces of such ones."""
        self._out = np.empty(0, np.uint8)
        self._start = 0
        self._end = 0
        self._rest = b""
        self._acks = np.empty(_ACKS, ACK_ROW)
        """Room for those that are looked at together."""

    # --- connection ---

    def on_connected(self) -> None:
        """The shell has a connection: everything that is pending may go."""
        self.connected = True
        self.last_error = ""
        self.reset_reason = ""
        self._out = np.empty(self.lane.settings.write_buffer_bytes, np.uint8)
        self.lane.link_changed()
        self.lane.touch(self)

    def on_disconnected(self, reason: str) -> None:
        """The connection is gone, or could not be made: unsent output is void and all unacked rows are queued again."""
        self.last_error = reason
        self.reset_reason = ""
        if not self.connected:
            return
        self.connected = False
        self._out = np.empty(0, np.uint8)
        self._start = self._end = 0
        self.out_fenced = False
        self._rest = b""
        self._forget_retries()
        self._queue.clear()
        lane = self.lane
        again = 0
        for parcel in lane.parcels():
            first, last = parcel.links[self.index], parcel.links[self.index + 1]
            if first < last:
                pending, sent_before = requeue(parcel.rows, first, last, lane.inflight)
                again += sent_before
                if pending:
                    self._queue.append(Piece(parcel, first, last, 1))
                    parcel.unsent |= 1 << self.index
                    parcel.sent_ns = 0
        lane.inflight[self.index] = 0
        lane.count("message-retry", again)
        lane.link_changed()

    def close(self) -> None:
        """The lane is gone: the shell closes the socket and does not dial again."""
        self.closed = True
        self.connected = False
        self._queue.clear()
        self._forget_retries()

    # --- output ---

    def enqueue(self, parcel: Parcel) -> None:
        """Queues what the parcel has for this connection."""
        first, last = parcel.links[self.index], parcel.links[self.index + 1]
        if first < last:
            self._queue.append(Piece(parcel, first, last, 1))
            parcel.unsent |= 1 << self.index
            self.lane.touch(self)

    def ended(self, parcel: Parcel) -> None:
        """Nothing of the parcel is pending any more: its pieces go, and with them what holds the payload.

        They are looked for when as many parcels have ended as half the pieces there are, so that a connection which is down or writes
        nothing keeps no more than twice what is pending.
        """
        if parcel.links[self.index] == parcel.links[self.index + 1]:
            return
        self._ended += 1
        if 2 * self._ended <= len(self._queue) + len(self._retries):
            return
        self._ended = 0
        if self._queue:
            self._queue = deque(piece for piece in self._queue if self._alive(piece))
        if self._retries:
            self._retries = [entry for entry in self._retries if self._alive(entry[2])]
            heapq.heapify(self._retries)

    def _forget_retries(self) -> None:
        self._retries.clear()
        self._written = None

    def _alive(self, piece: Piece) -> bool:
        return bool(piece.parcel.pending) and piece.parcel.lane is self.lane

    @property
    def unwritten(self) -> memoryview:
        """What is to be written to the socket next; ``fill`` first if it is empty."""
        return self._out[self._start : self._end].data

    def wrote(self, n: int) -> None:
        """The socket took ``n`` bytes of ``unwritten``."""
        self._start += n
        if self._start == self._end:
            self._start = self._end = 0
            self.out_fenced = False

    def fill(self, now: Moment) -> bool:
        """Puts the next frames into the empty output buffer; whether there is something to write."""
        if self._end or not self.connected:
            return self._end > self._start
        lane = self.lane
        end = 0
        while self._queue:
            piece = self._queue[0]
            parcel = piece.parcel
            if not self._alive(piece):
                self._queue.popleft()
                continue
            room = lane.settings.window_bytes - int(lane.inflight[self.index])
            row, after, sent, count = self._encode(piece, self._out[:_FILL_BYTES], end, room, now)
            if not count and not end and room > 0 and row < piece.last:  # a message larger than the usual portion
                row, after, sent, count = self._encode(piece, self._out, end, room, now)
            if count:
                end = after
                self.out_fenced |= parcel.block.fenced
                lane.sent(self, sent, count, now, resend=piece.attempt > 1)
                self._retry_later(Piece(parcel, piece.first, row, piece.attempt), now)
            if row < piece.last:
                piece.first = row
                break
            self._queue.popleft()
            if piece.attempt == 1:
                parcel.unsent &= ~(1 << self.index)
                if not parcel.unsent:
                    parcel.sent_ns = now.steady_ns
        self._end = end
        return end > 0

    def _encode(
        self, piece: Piece, out: NDArray[np.uint8], at: int, room: int, now: Moment
    ) -> tuple[int, int, int, int]:
        block = piece.parcel.block
        done: tuple[int, int, int, int] = encode_rows(
            piece.parcel.rows, piece.first, piece.last, block.payload, block.offsets, piece.attempt > 1,
            now.wall_ns, out, at, room,
        )  # fmt: skip
        return done

    def _retry_later(self, piece: Piece, now: Moment) -> None:
        before = self._written
        if (
            before is not None
            and before.parcel is piece.parcel
            and before.last == piece.first
            and before.attempt == piece.attempt
        ):
            before.last = piece.last
            return
        self._written = piece
        due = now.steady_ns + self.lane.settings.retry_delay_ns(piece.attempt)
        self._serial += 1
        heapq.heappush(self._retries, (due, self._serial, piece))

    # --- input ---

    def on_received(self, data: bytes, now: Moment) -> None:
        """Bytes from the consumer: ack frames. Raises ``FrameError`` on anything else; the shell closes the connection then."""
        data = self._rest + data if self._rest else data
        buf: NDArray[np.uint8] = np.frombuffer(data, np.uint8)
        most = self.lane.settings.max_ack_frame_bytes
        at, status = 0, SCAN_FULL
        while status == SCAN_FULL:
            n, after, status = scan_acks(buf, at, len(buf), most, self._acks)
            if status == SCAN_FULL and after == at:
                # A single frame has more.
                self._acks = np.empty(len(buf) // 2 + 1, ACK_ROW)
            at = after
            if n:
                self.lane.acked(self, self._acks, n, now)
        self._rest = data[at:]
        if status != SCAN_MORE:
            raise FrameError(f"{SCAN_REASONS[status]} (Ack)")

    # --- time ---

    def tick(self, now: Moment) -> None:
        """Queues what was not acked within its retry interval."""
        retried, self._written = 0, None
        while self._retries and self._retries[0][0] <= now.steady_ns:
            piece = heapq.heappop(self._retries)[2]
            if not self._alive(piece):
                continue
            waiting = lapse(piece.parcel.rows, piece.first, piece.last, self.lane.inflight)
            if waiting:
                retried += waiting
                piece.attempt += 1
                self._queue.append(piece)
        if retried:
            self.lane.count("message-retry", retried)
            self.lane.touch(self)

    @property
    def needs_fill(self) -> bool:
        """Whether pieces are queued."""
        return bool(self._queue)
