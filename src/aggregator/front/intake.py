"""From sockets to batches: reads connections, cuts frames, fills the staging buffer of each worker.

Staging buffers are memory that workers map: a batch of some size is not sent to them but read where it is.

With one worker a socket is read straight into the staging buffer: nothing is copied but the few bytes of a frame whose rest has not
arrived, which the connection keeps. With several, sockets are read into one scratch buffer, and a kernel copies each frame into the
staging buffer of the worker that owns its shard. A frame longer than ``_LONG_FRAME`` arrives in a buffer of its own.

Records of raw TCP are read into a buffer of their own and written from there as m3msg frames to where frames would be read to; the rest is
the same for both. The ids of these frames are our own, and nobody hears of their acks.
"""

import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.front import figures as names
from aggregator.front import ids, kernels, records
from aggregator.front.clients import Clients, Connection, LongFrame
from aggregator.front.figures import Figures
from aggregator.front.flow import Batch, Flow, WorkerStream
from aggregator.front.options import SECOND_NS, FrontOptions, RawOptions
from m3x import log
from m3x.shared_memory import SharedMemory
from m3x.tls import TLS_BYTE, TLS_MAJOR, Refusal

_log = log.logger(__name__)

_LONG_FRAME = 65536
_COPY_BELOW = 4096
"""A smaller batch is copied out of its staging buffer, which then stays in use; …"""
_COPY_BELOW_IF_SHORT = 65536
"""… so is one of less than this, where half of the memory that workers map is in use."""
_BUSY_BATCHES = 4
"""A worker with this many batches in hand gains nothing from a small one more."""
_ENOUGH_FOR_IDLE = 262144
"""A worker that has none gets this much at once, whatever is about to come."""
_MOST_SHARES = 4
"""Each of several workers gets a part of what is read; under load, batches are given longer to grow by as much as it is smaller, up to so
many times as long."""
_PATIENCE = 20
"""Batches that would only join a queue are given this many times the usual delay to grow."""
_MOSTLY_EMPTY = 3
"""A batch of less than a third of its buffer is copied out of it to wait."""
_PAGE = 4096
_LONGEST_FRAME = (1 << 32) - 1
_ID_BITS = 40
"""Of the first id of a front's own frames: those of the front before it are others."""
_FREE_BUFFERS = 64
_FREE_BUFFER_BYTES = 16 << 20


class BufferPool:
    """Staging buffers that come back when their batch is acked; parts of ``memory``, if there is some, as long as these suffice."""

    def __init__(self, size: int, memory: SharedMemory | None = None) -> None:
        self._size = size
        self._keep = max(min(_FREE_BUFFERS, _FREE_BUFFER_BYTES // size), 1)
        self._free: list[NDArray[np.uint8]] = []
        whole = 0 if memory is None else len(memory.array) // size
        self._parts = (
            [] if memory is None else [memory.array[k * size : (k + 1) * size] for k in reversed(range(whole))]
        )
        """All of them, so that no other array has the identity of one."""
        self._places = {} if memory is None else {id(part): memory.place_of(part) for part in self._parts}
        self._shared = self._parts.copy()

    @property
    def short(self) -> bool:
        """Whether less than half of ``memory`` is free, or there is none."""
        return 2 * len(self._shared) < max(len(self._parts), 1)

    def take(self) -> NDArray[np.uint8]:
        """A buffer; its content is undefined."""
        if self._shared:
            return self._shared.pop()
        return self._free.pop() if self._free else np.empty(self._size, np.uint8)

    def give(self, buffer: NDArray[np.uint8] | None) -> None:
        """Takes a buffer back that nobody reads any more."""
        if buffer is None:
            return
        if self.place_of(buffer) >= 0:
            self._shared.append(buffer)
        elif len(self._free) < self._keep:
            self._free.append(buffer)

    def place_of(self, buffer: NDArray[np.uint8]) -> int:
        """Where in the memory that workers map a buffer that was taken is; -1: it is not there."""
        return self._places.get(id(buffer), -1)


def _shared_memory(options: FrontOptions) -> SharedMemory | None:
    if not options.shared_bytes:
        return None
    try:
        return SharedMemory(Path(ipc.memory_path(options.run_dir, options.epoch)), options.shared_of_workers)
    except OSError as error:
        _log.warning("no memory to share with workers: all samples go through their sockets", error=str(error))
        return None


class Staging:
    """The batch of one worker that is being filled."""

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self.buffer = pool.take()
        self.view = self.buffer.data
        self.used = 0
        self.count = 0
        self.opened_ns = 0
        """When the first frame came (monotonic)."""
        self.now_ns = 0
        """The stamp: when the first frame was read."""
        self._since_ns = 0
        self._connections: list[int] = []
        self._sizes: list[int] = []
        self._counts: list[int] = []
        self._hosts: list[int] = []

    def add(self, connection: Connection, nbytes: int, count: int, now_ns: int, mono_ns: int) -> None:
        """``nbytes`` with ``count`` frames of a connection were put at the end."""
        if not self._connections:
            self.now_ns, self.opened_ns, self._since_ns = now_ns, mono_ns, mono_ns
        self._since_ns = min(self._since_ns, connection.since_ns)
        self.used += nbytes
        self.count += count
        if self._connections and self._connections[-1] == connection.id:
            self._sizes[-1] += nbytes
            self._counts[-1] += count
        else:
            self._connections.append(connection.id)
            self._sizes.append(nbytes)
            self._counts.append(count)
            self._hosts.append(connection.host_number)
            connection.outstanding += 1

    def cut(self) -> Batch:
        """What is there, as a batch; the staging buffer is empty afterwards."""
        small = self.used < (_COPY_BELOW_IF_SHORT if self._pool.short else _COPY_BELOW)
        payload = bytes(self.view[: self.used]) if small else self.buffer[: self.used]
        of = (self._connections, self._sizes, self._counts, self._hosts)
        batch = Batch(self.now_ns, payload, *of, self._since_ns)
        if not small:
            batch.buffer, batch.at = self.buffer, self._pool.place_of(self.buffer)
            self.buffer = self._pool.take()
            self.view = self.buffer.data
        self.used = self.count = 0
        self._connections, self._sizes, self._counts, self._hosts = [], [], [], []
        return batch


class Intake:
    """Reads connections and gives batches to the workers' streams. ``stamp()`` is the front's non-decreasing wall clock."""

    def __init__(
        self, options: FrontOptions, flow: Flow, clients: Clients, figures: Figures, stamp: Callable[[], int]
    ) -> None:
        self._options = options
        self._flow = flow
        self._clients = clients
        self._figures = figures
        self._stamp = stamp
        scratch = _LONG_FRAME + options.read_bytes
        # With several workers a staging buffer needs no room for a whole read behind a batch.
        size = max(options.batch_bytes, scratch) if options.workers > 1 else options.batch_bytes + scratch
        self._size = -(-size // _PAGE) * _PAGE
        """Of a staging buffer, in bytes."""
        self.pool = BufferPool(self._size, _shared_memory(options))
        self._scratch = np.empty(scratch, np.uint8)
        self._scratch_view = self._scratch.data
        self._stagings: list[Staging] = []
        self._owners = np.zeros(0, np.int32)
        self._table = np.zeros((0, kernels.COLUMNS), np.int64)
        self._shapes = np.zeros(ids.SHAPES, ids.SHAPE)
        self._single = True
        self._full_bytes = self._size - scratch
        """A batch that has so much is cut; only a single worker's has to leave room for a whole read."""
        self._share = 1
        """By how much the part of a worker is smaller than what is read."""
        self._raw = options.raw or RawOptions(listener=-1)
        room = scratch - records.HEAD_BOUND if options.raw is not None else 0
        self._records = np.empty(room, np.uint8)
        """Small enough that its longest record finds room as a frame in any empty buffer."""
        self._records_view = self._records.data
        self._next_id = secrets.randbits(_ID_BITS)
        self._discarding: frozenset[int] = frozenset()
        self.filled_reads = 0
        """Reads so far that may have left something behind."""

    def route(self, owners: list[int], mono_ns: int) -> None:
        """Shard ownership as in ``ipc.Route``; what was staged before goes by the old one."""
        for worker in range(len(self._stagings)):
            self.cut(worker, mono_ns)
        self._flow.route(owners)
        while len(self._stagings) < len(self._flow.streams):
            self._stagings.append(Staging(self.pool))
        self._owners = np.array(owners, np.int32)
        # Then no message is discarded: if the only worker with shards lags, reading pauses (``Flow.paused``).
        self._single = max(owners, default=0) <= 0
        # What a socket is read into has room for a whole read.
        self._full_bytes = self._size - len(self._scratch) if self._single else self._options.batch_bytes
        self._share = 1 if self._single else min(self._options.workers, _MOST_SHARES)
        table = np.zeros((len(self._stagings), kernels.COLUMNS), np.int64)
        table[: len(self._table)] = self._table
        self._table = table
        self._table[:, kernels.DISCARD] = 0
        self._discarding = frozenset()
        for worker in range(len(self._stagings)):
            self._point(worker)

    def _point(self, worker: int, *, moved: bool = True) -> None:
        row = self._table[worker]
        if moved:
            row[kernels.ADDRESS] = self._stagings[worker].buffer.ctypes.data
            row[kernels.CAPACITY] = len(self._stagings[worker].buffer)
        row[kernels.USED] = row[kernels.COUNT] = 0

    # --- reading

    def read(self, connection: Connection, now_ns: int, mono_ns: int) -> int:
        """Reads what a connection has, up to ``read_bytes``, and stages the frames; returns the number of bytes."""
        self._cut_older(now_ns, mono_ns)
        if connection.long is not None:
            return self._read_long(connection, connection.long, now_ns, mono_ns)
        if connection.door.raw:
            return self._read_records(connection, now_ns, mono_ns)
        if self._single:
            start = self._stagings[0].used
            buffer, view = self._stagings[0].buffer, self._stagings[0].view
        else:
            start = 0
            buffer, view = self._scratch, self._scratch_view
        at = start + len(connection.partial)
        if at > start:
            view[start:at] = connection.partial
        received = self._receive(connection, view[at : at + self._options.read_bytes], mono_ns)
        if received > 0:
            # A connection that ends with half a frame was finished by _receive, its partial frame is gone.
            self._frames(connection, buffer, view, start, at + received, now_ns, mono_ns)
        return received

    def _cut_older(self, now_ns: int, mono_ns: int) -> None:
        """What was read in an earlier second goes with its stamp: windows end at whole seconds, and what is read now is of a later one."""
        for worker, staging in enumerate(self._stagings):
            if staging.used and staging.now_ns // SECOND_NS != now_ns // SECOND_NS:
                self.cut(worker, mono_ns)

    def _receive(self, connection: Connection, target: memoryview, mono_ns: int) -> int:
        try:
            received: int = connection.sock.recv_into(target)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._clients.failed(connection, error)
            return 0
        if received == 0:
            self._ended(connection, mono_ns)
        if connection.took(received, len(target), mono_ns):
            self.filled_reads += 1
        self._figures.counters[names.BYTES_READ] += received
        return received

    def _ended(self, connection: Connection, mono_ns: int) -> None:
        if connection.partial or connection.long is not None:
            self._refuse(connection, "truncated", mono_ns, "the peer closed in the middle of a frame")
        else:
            self._clients.finish(connection, "end-of-stream", mono_ns, clean=True)

    def _frames(
        self,
        connection: Connection,
        buffer: NDArray[np.uint8],
        view: memoryview,
        start: int,
        end: int,
        now_ns: int,
        mono_ns: int,
    ) -> None:
        maximum = self._options.max_frame_bytes
        position, count, status, need = self._stage(connection, buffer, start, end, maximum, now_ns, mono_ns)
        self._figures.counters[names.MESSAGE_RECEIVED] += count
        if status == kernels.MORE:
            self._keep(connection, view[position:end], need, mono_ns)
        elif status == kernels.OVERSIZE and self._is_handshake(connection, view[position:end]):
            self._clients.refuse(connection, Refusal.TLS_ON_PLAIN_PORT)
        elif status == kernels.OVERSIZE:
            text = f"length prefix says {need - 4} bytes, the limit is {maximum}"
            self._refuse(connection, "frame-too-large", mono_ns, text)
        else:
            text = f"a frame of {need - 4} bytes is no m3msg message: {bytes(view[position : position + 40]).hex()}…"
            self._refuse(connection, "malformed-frame", mono_ns, text)
        # The rest of the frame is saved: only now may the buffer go.
        self._cut_full(mono_ns)

    def _cut_full(self, mono_ns: int) -> None:
        for worker, staging in enumerate(self._stagings):
            if staging.used >= self._full_bytes:
                self.cut(worker, mono_ns)

    def _is_handshake(self, connection: Connection, data: memoryview) -> bool:
        """Whether this is what a TLS client says first, where there is no TLS."""
        plain = connection.door.handshakes is None
        return plain and len(data) > 1 and data[0] == TLS_BYTE and data[1] == TLS_MAJOR

    def _stage(
        self,
        connection: Connection,
        buffer: NDArray[np.uint8],
        start: int,
        end: int,
        maximum: int,
        now_ns: int,
        mono_ns: int,
    ) -> tuple[int, int, int, int]:
        """Stages the complete frames of ``buffer[start:end]``; returns as ``kernels.scan``."""
        if self._single:
            position, count, status, need = kernels.scan(buffer, start, end, maximum)
            if position > start:
                self._stagings[0].add(connection, position - start, count, now_ns, mono_ns)
            return position, count, status, need
        self._mark_discards()
        total = 0
        while True:
            position, count, status, need = kernels.route(
                buffer, start, end, maximum, self._owners, self._table, self._shapes
            )
            total += count
            rows = self._table.tolist()
            for staging, row in zip(self._stagings, rows, strict=True):
                nbytes = row[kernels.USED] - staging.used
                if nbytes:
                    staging.add(connection, nbytes, row[kernels.COUNT] - staging.count, now_ns, mono_ns)
            if status != kernels.FULL:
                return position, total, status, need
            self.cut(need, mono_ns)
            self._mark_discards()
            start = position

    # --- raw TCP

    def _read_records(self, connection: Connection, now_ns: int, mono_ns: int) -> int:
        view, at = self._records_view, len(connection.partial)
        view[:at] = connection.partial
        received = self._receive(connection, view[at : at + self._options.read_bytes], mono_ns)
        if received > 0:
            self._reframe(connection, at + received, now_ns, mono_ns)
        return received

    def _reframe(self, connection: Connection, end: int, now_ns: int, mono_ns: int) -> None:
        """Stages what was read, as frames."""
        limit, position = self._raw.max_record_bytes, 0
        while True:
            buffer, at = (self._stagings[0].buffer, self._stagings[0].used) if self._single else (self._scratch, 0)
            position, count, status, after = records.reframe(
                self._records, position, end, limit, self._next_id, buffer, at
            )
            self._next_id += count
            self._figures.counters[names.RECORD_RECEIVED] += count
            if count:
                self._stage(connection, buffer, at, after, _LONGEST_FRAME, now_ns, mono_ns)
            if status != kernels.FULL:
                break
            if self._single:
                self.cut(0, mono_ns)
        self._rest_of_records(connection, position, end, status, mono_ns)
        self._cut_full(mono_ns)

    def _rest_of_records(self, connection: Connection, position: int, end: int, status: int, mono_ns: int) -> None:
        rest, limit = self._records_view[position:end], self._raw.max_record_bytes
        size, start, _ = records.size_at(self._records, position, end, limit)
        if status == kernels.MORE:
            if start - position + size <= _LONG_FRAME - records.HEAD_BOUND:
                connection.partial = bytes(rest)
            else:
                head = records.head_of(size, self._next_id)
                self._next_id += 1
                beginning = memoryview(head + bytes(self._records_view[start:end]))
                self._keep_long(connection, beginning, len(head) + size, mono_ns)
        elif self._is_handshake(connection, rest):
            self._clients.refuse(connection, Refusal.TLS_ON_PLAIN_PORT)
        elif status == kernels.OVERSIZE:
            text = f"a record says that it has {size} bytes, the limit is {limit}"
            self._refuse(connection, "record-too-large", mono_ns, text)
        elif status == records.NO_METRIC:
            self._refuse_record(connection, rest, mono_ns)
        else:
            text = f"a size has to be a positive signed varint, found {bytes(rest[:40]).hex()}…"
            self._refuse(connection, "malformed-size", mono_ns, text)

    def _is_record(self, connection: Connection, frame: NDArray[np.uint8], mono_ns: int) -> bool:
        """Whether a long record, which is complete, may go on; else its connection ends."""
        if records.is_metric(frame):
            self._figures.counters[names.RECORD_RECEIVED] += 1
            return True
        self._refuse_record(connection, frame.data, mono_ns)
        return False

    def _refuse_record(self, connection: Connection, data: memoryview, mono_ns: int) -> None:
        self._refuse(connection, "malformed-record", mono_ns, f"a record has no metric: {bytes(data[:40]).hex()}…")

    def _mark_discards(self) -> None:
        discarding = self._flow.discarding()
        if discarding != self._discarding:
            if discarding:
                text = (
                    "messages of these workers are discarded, unacked: they lag, and have their share of what may wait"
                )
                _log.warning_limited(text, workers=sorted(discarding), before=sorted(self._discarding))
            else:
                _log.info_limited("no more messages are discarded", before=sorted(self._discarding))
            self._discarding = discarding
            self._table[:, kernels.DISCARD] = [worker in discarding for worker in range(len(self._table))]

    def _keep(self, connection: Connection, rest: memoryview, need: int, mono_ns: int) -> None:
        if need <= _LONG_FRAME:
            connection.partial = bytes(rest)
        else:
            self._keep_long(connection, rest, need, mono_ns)

    def _keep_long(self, connection: Connection, beginning: memoryview, size: int, mono_ns: int) -> None:
        if self._clients.long_bytes + size > self._options.partial_bytes:
            self._refuse(connection, "partial-frames-full", mono_ns, "too many long frames arrive at the same time")
        else:
            self._clients.start_long(connection, size, beginning)

    def _read_long(self, connection: Connection, frame: LongFrame, now_ns: int, mono_ns: int) -> int:
        received = self._receive(connection, frame.rest(self._options.read_bytes), mono_ns)
        frame.arrived += received
        if frame.complete:
            self._clients.drop_partial(connection)
            self._long_frame(connection, frame.buffer, now_ns, mono_ns)
            if connection.slack and connection.sock.pending and connection.reading:
                # The rest of the record in which the frame ended: no descriptor tells of it.
                received += self.read(connection, now_ns, mono_ns)
        return received

    def _long_frame(self, connection: Connection, frame: NDArray[np.uint8], now_ns: int, mono_ns: int) -> None:
        if connection.door.raw:
            if not self._is_record(connection, frame, mono_ns):
                return
        else:
            _, count, status, _ = kernels.scan(frame, 0, len(frame), self._options.max_frame_bytes)
            self._figures.counters[names.MESSAGE_RECEIVED] += count
            if status != kernels.MORE:
                text = f"a frame of {len(frame) - 4} bytes is no m3msg message: {bytes(frame[:40]).hex()}…"
                self._refuse(connection, "malformed-frame", mono_ns, text)
                return
        worker = 0 if self._single else int(kernels.owner_of(frame, 0, len(frame), self._owners))
        if worker in self._flow.discarding():
            self._table[worker, kernels.DISCARDED] += 1
            self._table[worker, kernels.DISCARDED_BYTES] += len(frame)
            return
        self.cut(worker, mono_ns)
        connection.outstanding += 1
        batch = Batch(
            self._stamp(), frame, [connection.id], [len(frame)], [1], [connection.host_number], connection.since_ns
        )
        self._flow.stream(worker).put(batch, mono_ns)

    def _refuse(self, connection: Connection, reason: str, mono_ns: int, text: str) -> None:
        protocol = connection.door.protocol
        self._figures.undecodable(protocol, reason)
        _log.warning_limited(
            "connection closed: bad input", reason=reason, peer=connection.peer, protocol=protocol, detail=text
        )
        self._clients.finish(connection, reason, mono_ns)

    # --- batches

    def cut(self, worker: int, mono_ns: int) -> None:
        """Gives what is staged for a worker to its stream."""
        if worker >= len(self._stagings) or self._stagings[worker].used == 0:
            return
        before = self._stagings[worker].buffer
        batch = self._stagings[worker].cut()
        if not self._single:
            # Else nobody reads the table.
            self._point(worker, moved=self._stagings[worker].buffer is not before)
        if not self._flow.streams[worker].put(batch, mono_ns) and batch.nbytes < self._size // _MOSTLY_EMPTY:
            # It waits: not in a buffer that is mostly empty.
            self.pool.give(batch.buffer)
            batch.payload, batch.buffer, batch.at = bytes(batch.payload), None, -1

    def cut_due(self, mono_ns: int, more_comes: bool) -> None:
        """Cuts where nothing more is about to come and the worker has little to do, where it has nothing to do and the batch is large
        enough to begin with, or where a batch has waited for long enough."""
        for worker, staging in enumerate(self._stagings):
            if staging.used == 0:
                continue
            stream = self._flow.streams[worker]
            busy = more_comes or stream.inflight >= _BUSY_BATCHES or stream.waiting_bytes > 0
            share = self._share if more_comes else 1
            delay = self._options.batch_delay_ns * (_PATIENCE if stream.waiting_bytes > 0 else share)
            if not busy or self._feeds_idle(staging, stream, share) or mono_ns - staging.opened_ns >= delay:
                self.cut(worker, mono_ns)

    def _feeds_idle(self, staging: Staging, stream: WorkerStream, share: int) -> bool:
        """Whether a worker that is there has nothing to do, and this is enough to begin with."""
        idle = stream.attached and stream.inflight == 0 and stream.waiting_bytes == 0
        return idle and staging.used >= _ENOUGH_FOR_IDLE * share

    def staged(self) -> bool:
        """Whether anything is staged."""
        return any(staging.used for staging in self._stagings)

    def oldest_ns(self) -> int | None:
        """The first stamp of what is staged; None: nothing is."""
        return min((staging.now_ns for staging in self._stagings if staging.used), default=None)

    def discarded(self) -> list[int]:
        """Messages discarded unacked, per worker, since the start."""
        return [int(count) for count in self._table[:, kernels.DISCARDED]]
