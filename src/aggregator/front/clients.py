"""The connections of producers: accepting, writing acks, closing. Reading is ``front.intake``.

Two epoll sets inside the loop's own: ``readers`` (all connections that may be read) and ``writers`` (those whose peer does not take
its acks). The loop stops all reading by not looking at ``readers``. A third one knows whose peer has hung up.

What a producer sends again over a new connection has to be known as such (``ipc.Cut``), and comes behind what its old one still holds. So
connections that were hung up are read to their ends and told before any other one is read (``hung_up``); a new connection is not read while
others of its host still bring data, for a second at most, as the end of one of them may be on its way (``admit``); and one whose segments
come back unanswered is closed then: whoever is wrongly taken for dead connects again, and nothing is counted twice.

A connection ends in one of two ways. ``close``: at once, acks that still come are dropped. ``finish``: its peer has finished sending, or
sent something that is no frame; it is read no more, gets the acks of what it sent before, and is closed then, or after ``linger_ns``.
"""

import contextlib
import errno
import fcntl
import select
import socket
import struct
import termios
import zlib
from typing import Any

import numpy as np

from aggregator.front import figures as names
from aggregator.front.doors import Door, doors_of
from aggregator.front.figures import Figures
from aggregator.front.options import FrontOptions
from aggregator.front.secure import Handshakes
from aggregator.ipc import ONE_WAY, Peer
from m3x import log, process
from m3x.clock import monotonic_ns
from m3x.endpoints import accepted_from, configure
from m3x.tls import Refusal, log_refusal

_log = log.logger(__name__)

_FLUSH_AT = 32768
"""Waiting ack bytes that are written without waiting for the flush interval."""
_ALL_ACK_BYTES = 128 << 20
"""Acks in memory of all connections; above, whoever does not read its acks is not read from either, however few they are."""
_BUFFERS_PER_WRITE = 64
_RESERVED_FILES = 256
_EVER_NS = 1
"""A time (monotonic) before any message was sent."""
_ACCEPTS_PER_TURN = 256
_LEFT = struct.Struct("i")
_INFO = struct.Struct("<BBB")
"""The first fields of ``tcp_info`` (Linux): state, state of congestion control, timeouts since something was acknowledged last."""
_DEAD_AFTER = 2
"""Timeouts of a segment, the first of which comes after 0.2 s or more, the next after twice that time."""
_QUIET_NS = 20_000_000
"""A connection that had something to read a shorter time ago may have more on its way."""
_NEWCOMER_NS = 1_000_000_000
"""A new connection waits for those of its host no longer than this."""
_IN_BUFFERS = 16 << 20
"""More than a peer's system and this one's hold of a connection's data."""
_TLS = "tls"
"""Why a connection was closed that is named by ``refuse``."""
_TCP_CLOSE = 7
"""State of a socket whose peer has reset it (Linux, ``TCP_CLOSE``)."""


class LongFrame:
    """A frame that is too long to wait in ``Connection.partial``: it arrives in a buffer of its own size."""

    __slots__ = ("arrived", "buffer")

    def __init__(self, size: int, beginning: memoryview) -> None:
        self.buffer = np.empty(size, np.uint8)
        self.arrived = len(beginning)
        self.buffer[: self.arrived] = np.frombuffer(beginning, np.uint8)

    def rest(self, limit: int) -> memoryview:
        """Where its next bytes go, at most ``limit``."""
        return self.buffer.data[self.arrived : self.arrived + limit]

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return self.arrived == len(self.buffer)


class Connection:
    """One producer's connection."""

    __slots__ = (
        "_behind_bytes", "_behind_ns", "ack_bytes", "acked_ns", "acks", "blocked", "data_ns", "door", "fd", "finish_at_ns", "given",
        "host", "host_number", "id", "long", "mark", "mark_ns", "outstanding", "partial", "peer", "progress_ns", "read_ns", "reading",
        "since_ns", "slack", "sock", "stopped_ns", "taken_ns",
    )  # fmt: skip

    def __init__(self, number: int, sock: socket.socket, peer: str, door: Door) -> None:
        self.id = number
        self.door = door
        """Through which it came; its peer is told of no acks if that is for raw TCP."""
        self.sock: Any = sock
        """The socket, or what stands for it (``front.secure``)."""
        self.slack = 0
        """Reading less than so much short of all that there was room for does not mean that there is nothing more."""
        self.fd = sock.fileno()
        self.peer = peer
        self.host = (ONE_WAY if door.raw else "") + peer.rpartition(":")[0]
        self.host_number = zlib.crc32(self.host.encode())
        """What stands for it in batches (``ipc.Batch.hosts``)."""
        self.partial = b""
        """The beginning of a frame whose rest has not arrived."""
        self.long: LongFrame | None = None
        self.outstanding = 0
        """Batches that hold messages of this connection and are not acked."""
        self.acks: list[memoryview | bytes] = []
        self.ack_bytes = 0
        self.acked_ns = 0
        """When acks came last."""
        self.given = 0
        """Bytes of acks so far."""
        self.mark = self.mark_ns = 0
        """``given`` at some time: whether these have arrived is looked at next."""
        self.taken_ns = 0
        """What was given until then, the peer's system has taken."""
        self.read_ns = 0
        """What was given before that, the peer has read, though it has ended; 0: not known."""
        self.blocked = False
        """The peer's window is full; more can be written when the socket says so."""
        self.progress_ns = 0
        self.reading = False
        self.stopped_ns = monotonic_ns()
        """When reading stopped, or when it could have begun."""
        self.data_ns = 0
        """When something was read last."""
        self.since_ns = 0
        """Since when that may have waited."""
        self.finish_at_ns = 0
        self._behind_ns = 0
        self._behind_bytes = 0

    def fell_behind(self, since_ns: int) -> None:
        """It was not read since then (monotonic): what its buffers hold now may have waited for so long."""
        self._behind_ns = self._behind_ns or since_ns
        self._behind_bytes = _IN_BUFFERS

    def took(self, nbytes: int, room: int, mono_ns: int) -> bool:
        """So much was read, where there was so much room; returns whether there may be more."""
        filled = nbytes >= room - self.slack
        self.since_ns = mono_ns
        if nbytes:
            self.data_ns = mono_ns
        if self._behind_ns:
            self.since_ns = self._behind_ns
            self._behind_bytes -= nbytes
            if not filled or self._behind_bytes <= 0:
                self._behind_ns = 0
        return filled


def _taken(connection: Connection) -> int:
    """How many bytes of acks the peer's system has taken so far; -1: it takes nothing any more."""
    try:
        left: int = _LEFT.unpack(fcntl.ioctl(connection.fd, termios.TIOCOUTQ, bytes(_LEFT.size)))[0]
        if _is_closed(connection.sock):
            return -1
    except OSError:
        return -1
    # Of a socket in the file system the system tells the memory of what is not read, which is more than its bytes.
    return connection.given - connection.ack_bytes - left


def _is_closed(sock: socket.socket) -> bool:
    """Whether the peer is gone, and with it what it had not read. Raises ``OSError``."""
    if sock.family == socket.AF_UNIX:
        poll = select.poll()
        poll.register(sock, 0)
        return bool(poll.poll(0))
    return _tcp_info(sock)[0] == _TCP_CLOSE


def _tcp_info(sock: socket.socket) -> tuple[int, ...]:
    """The fields of ``_INFO``. Raises ``OSError``."""
    return _INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))


def _unread(connection: Connection) -> bool:
    """Whether there is something to read."""
    try:
        return bool(_LEFT.unpack(fcntl.ioctl(connection.fd, termios.FIONREAD, bytes(_LEFT.size)))[0])
    except OSError:
        return False


def _unanswered(connection: Connection) -> bool:
    """Whether what was written has been sent again and again, and the peer's system says nothing."""
    if connection.sock.family == socket.AF_UNIX:
        return False
    try:
        return _tcp_info(connection.sock)[2] >= _DEAD_AFTER
    except OSError:
        return True


class Clients:
    """Listener, connection table and ack writing."""

    def __init__(self, options: FrontOptions, figures: Figures) -> None:
        self._options = options
        self._figures = figures
        files = process.open_files()
        self._limit = options.max_connections or max(files - _RESERVED_FILES, files // 2)
        self.doors = doors_of(options, self._hold)
        self._by_id: dict[int, Connection] = {}
        self._by_fd: dict[int, Connection] = {}
        self._next_id = 0
        self._unwritten: set[Connection] = set()
        """Connections with acks to write at the next flush."""
        self._watched: set[Connection] = set()
        """Connections with a time limit."""
        self._ack_bytes = 0
        self._cut: dict[int, tuple[int, int]] = {}
        """Connections that ended before their peers had all acks: when, and their ``read_ns``."""
        self._newly_cut: dict[int, int] = {}
        self._looked_ns = 0
        self.long_bytes = 0
        """Sizes of the long frames that are arriving."""
        self._flush_at_ns = 0
        self._newcomers: list[Connection] = []
        """Those that are not read yet."""
        self.readers = select.epoll()
        self.writers = select.epoll()
        self._ends = select.epoll()

    # --- accepting

    def stop_listening(self) -> None:
        """Closes the listening sockets."""
        for door in self.doors:
            door.close()

    def accept(self, door: Door) -> bool:
        """Takes new connections; False: the system has no room for one now, try again later."""
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, address = door.accept()
            except BlockingIOError:
                door.backlog = False
                break
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    _log.error_limited("cannot accept connections now", error=str(error))
                    door.backlog = True
                    return False
                continue
            peer = accepted_from(address)
            if len(self._by_id) >= self._limit:
                sock.close()
                self._figures.closed("too-many-connections")
                _log.warning_limited("connection refused: limit reached", peer=peer, limit=self._limit)
                continue
            self._add(sock, peer, door)
        return True

    def _add(self, sock: socket.socket, peer: str, door: Door) -> None:
        sock.setblocking(False)
        configure(sock, door.keep_alive_s)
        connection = Connection(self._next_id, sock, peer, door)
        if door.handshakes is not None:
            door.handshakes.begin(connection, connection.stopped_ns)
        if door.backlog:
            connection.fell_behind(_EVER_NS)
        self._next_id += 1
        self._by_id[connection.id] = connection
        self._by_fd[connection.fd] = connection
        self._newcomers.append(connection)

    def admit(self, mono_ns: int) -> bool:
        """Begins to read new connections that wait for no others of their hosts, and those whose handshakes may begin now; whether some are
        left."""
        shaking = False
        for door in self.doors:
            if door.handshakes is not None and self._shake(door.handshakes, mono_ns):
                shaking = True
        if not self._newcomers:
            return shaking
        hosts = {newcomer.host for newcomer in self._newcomers}
        busy = set()
        for connection in tuple(self._by_id.values()):
            if connection.host in hosts and connection.reading:
                if _unanswered(connection):
                    self.close(connection, "superseded")
                elif mono_ns - connection.data_ns < _QUIET_NS or _unread(connection):
                    busy.add(connection.host)
        waiting = []
        for newcomer in self._newcomers:
            if newcomer.host in busy and mono_ns - newcomer.stopped_ns < _NEWCOMER_NS:
                waiting.append(newcomer)
            else:
                self._ends.register(newcomer.fd, select.EPOLLRDHUP)
                self._read(newcomer, True)
                if _unread(newcomer):
                    busy.add(newcomer.host)
        self._newcomers = waiting
        return bool(waiting) or shaking

    def _shake(self, handshakes: Handshakes, mono_ns: int) -> bool:
        if handshakes.waiting:
            for connection in handshakes.turns(mono_ns):
                self._read(connection, True)
        return handshakes.waiting

    def _hold(self, connection: Connection) -> None:
        """It is not read before it is its turn."""
        self._read(connection, False)
        self._figures.delayed(connection.door.protocol)

    @property
    def count(self) -> int:
        """Open connections."""
        return len(self._by_id)

    def count_of(self, door: Door) -> int:
        """Those that came through it."""
        return sum(connection.door is door for connection in self._by_id.values())

    def peers(self) -> list[Peer]:
        """Who is connected, by host."""
        hosts: dict[str, list[Connection]] = {}
        for connection in self._by_id.values():
            hosts.setdefault(connection.host, []).append(connection)
        return [Peer(host, len(of), sum(c.acked_ns > 0 for c in of)) for host, of in hosts.items()]

    def readable(self, limit: int) -> list[Connection]:
        """Connections that have something to read, at most ``limit``."""
        return [self._by_fd[fd] for fd, _ in self.readers.poll(0, limit)]

    def hung_up(self) -> list[Connection]:
        """Connections that are not read to their ends yet, and whose peers send nothing more."""
        return [self._by_fd[fd] for fd, _ in self._ends.poll(0, max(len(self._by_fd), 1))]

    def fell_behind(self, since_ns: int) -> None:
        """No connection was read since then (monotonic)."""
        for connection in self._by_id.values():
            connection.fell_behind(since_ns)

    def get(self, number: int) -> Connection | None:
        """The connection of this id, if it is still there."""
        return self._by_id.get(number)

    def start_long(self, connection: Connection, size: int, rest: memoryview) -> None:
        """A ``LongFrame`` of ``size`` bytes is arriving; ``rest`` is its beginning."""
        connection.partial = b""
        connection.long = LongFrame(size, rest)
        self.long_bytes += size

    def drop_partial(self, connection: Connection) -> None:
        """The frame that was arriving is complete, or is given up."""
        connection.partial = b""
        if connection.long is not None:
            self.long_bytes -= len(connection.long.buffer)
            connection.long = None

    # --- acks

    def ack(self, connection: Connection, frames: memoryview, mono_ns: int) -> None:
        """Takes ack frames for a connection; they are written at the next flush, or now if they are many. Raw TCP has none."""
        if connection.door.raw:
            connection.acked_ns = mono_ns
            return
        if connection.blocked:
            connection.acks.append(bytes(frames))
        else:
            connection.acks.append(frames)
            self._unwritten.add(connection)
        connection.ack_bytes += len(frames)
        connection.given += len(frames)
        connection.acked_ns = mono_ns
        self._ack_bytes += len(frames)
        if connection.blocked:
            self._throttle(connection)
        elif connection.ack_bytes >= _FLUSH_AT:
            self._write(connection, mono_ns)

    def release(self, number: int) -> None:
        """A batch of this connection was acked or dropped."""
        connection = self._by_id.get(number)
        if connection is not None:
            connection.outstanding -= 1
            self._end_if_finished(connection)

    def flush(self, mono_ns: int, *, now: bool = False) -> None:
        """Writes gathered acks if the flush interval is over, or ``now``."""
        if self._unwritten and (now or mono_ns >= self._flush_at_ns):
            self._flush_at_ns = mono_ns + self._options.ack_flush_interval_ns
            for connection in tuple(self._unwritten):
                self._write(connection, mono_ns)

    def flush_due_ns(self) -> int | None:
        """When gathered acks are to be written (monotonic); None: there are none."""
        return self._flush_at_ns if self._unwritten else None

    def writable(self, mono_ns: int) -> None:
        """Goes on with connections whose peers take acks again."""
        for fd, _ in self.writers.poll(0, 256):
            connection = self._by_fd[fd]
            connection.blocked = False
            self._write(connection, mono_ns)

    @property
    def unwritten(self) -> bool:
        """Whether any acks are not written yet."""
        return self._ack_bytes > 0

    def _write(self, connection: Connection, mono_ns: int) -> None:
        self._unwritten.discard(connection)
        was_waiting = connection in self._watched
        written = 0
        try:
            while connection.acks:
                sent = connection.sock.sendmsg(connection.acks[:_BUFFERS_PER_WRITE])
                written += sent
                while connection.acks and sent >= len(connection.acks[0]):
                    sent -= len(connection.acks.pop(0))
                if sent:
                    connection.acks[0] = memoryview(connection.acks[0])[sent:]
        except BlockingIOError:
            connection.blocked = True
        except OSError as error:
            self._figures.counters[names.ACK_WRITE_ERROR] += 1
            self.close(connection, "ack-write-error", error=str(error))
            return
        connection.ack_bytes -= written
        self._ack_bytes -= written
        if written:
            connection.progress_ns = mono_ns
        if connection.blocked:
            # The rest may lie in a large frame shared with other connections: keep only what is ours.
            connection.acks = [b"".join(connection.acks)]
            if not was_waiting:
                connection.progress_ns = mono_ns
                self._watched.add(connection)
            with contextlib.suppress(FileExistsError):
                self.writers.register(connection.fd, select.EPOLLOUT)
            self._throttle(connection)
            return
        if was_waiting:
            with contextlib.suppress(FileNotFoundError):
                self.writers.unregister(connection.fd)
            if not connection.finish_at_ns:
                self._watched.discard(connection)
                self._read(connection, True)
        self._end_if_finished(connection)

    def _throttle(self, connection: Connection) -> None:
        bound = self._options.ack_buffer_bytes if self._ack_bytes < _ALL_ACK_BYTES else 0
        if connection.ack_bytes > bound and connection.reading:
            self._read(connection, False)
            _log.warning_limited("connection does not read its acks; reading from it pauses", peer=connection.peer)

    # --- ending

    def failed(self, connection: Connection, error: OSError) -> None:
        """Reading has failed."""
        handshakes = connection.door.handshakes
        refused = None if handshakes is None else handshakes.refusal(connection, error)
        if refused is None:
            self.close(connection, "read-error", error=str(error))
        else:
            self.refuse(connection, *refused)

    def refuse(self, connection: Connection, refusal: Refusal, detail: str = "") -> None:
        """It does not speak what it has to."""
        self._figures.refused(connection.door.protocol, refusal.value)
        log_refusal(connection.door.protocol, refusal, connection.peer, detail)
        self.close(connection, _TLS)

    def finish(self, connection: Connection, reason: str, mono_ns: int, *, clean: bool = False) -> None:
        """Reads no more from it; closes it when it has got its acks. ``clean``: its peer has said that it sends nothing more."""
        self._figures.closed(reason)
        self._read(connection, False)
        self._forget_end(connection)
        self.drop_partial(connection)
        if clean:
            taken_ns = mono_ns if _taken(connection) >= connection.given else connection.taken_ns
            connection.read_ns = min(taken_ns, mono_ns - self._options.clean_settle_ns)
        self._tell_if_cut(connection, mono_ns)
        connection.finish_at_ns = mono_ns + self._options.linger_ns
        self._watched.add(connection)
        self._end_if_finished(connection)

    def close(self, connection: Connection, reason: str, **details: Any) -> None:
        """Closes it at once."""
        if self._by_id.pop(connection.id, None) is None:
            return
        del self._by_fd[connection.fd]
        now = monotonic_ns()
        self._read(connection, False)
        if connection.finish_at_ns:
            # Told when it ended.
            if self._lacks_acks(connection, now):
                self._cut[connection.id] = now, connection.read_ns
        else:
            self._figures.closed(reason)
            if reason != _TLS:
                _log.info_limited("connection closed", reason=reason, peer=connection.peer, **details)
            self._forget_end(connection)
            self._tell_if_cut(connection, now)
        self._unwritten.discard(connection)
        self._watched.discard(connection)
        self._ack_bytes -= connection.ack_bytes
        self.drop_partial(connection)
        connection.acks = []
        if connection.door.handshakes is not None:
            connection.door.handshakes.forget(connection)
        with contextlib.suppress(FileNotFoundError):
            self.writers.unregister(connection.fd)
        connection.sock.close()

    def _forget_end(self, connection: Connection) -> None:
        if connection in self._newcomers:
            self._newcomers.remove(connection)
        else:
            self._ends.unregister(connection.fd)

    # --- what peers have got

    def _tell_if_cut(self, connection: Connection, mono_ns: int) -> None:
        if self._lacks_acks(connection, mono_ns):
            self._cut[connection.id] = mono_ns, connection.read_ns
            self._newly_cut[connection.id] = connection.read_ns

    def _lacks_acks(self, connection: Connection, mono_ns: int) -> bool:
        """Whether a peer that has ended may not have read all acks: what its system has taken a moment ago it need not have read."""
        if connection.door.raw:
            return False
        recent = connection.acked_ns and connection.acked_ns >= max(
            connection.read_ns, mono_ns - self._options.settle_ns + 1
        )
        return bool(connection.outstanding or recent or _taken(connection) < connection.given)

    def take_cut(self) -> dict[int, int]:
        """Connections that ended, since it was asked last, before their peers had all acks, with their ``read_ns``."""
        cut, self._newly_cut = self._newly_cut, {}
        return cut

    def delivered(self, number: int, acked_ns: int) -> bool:
        """Whether a connection's peer has all acks given until then, or will not send again what it lacks."""
        connection = self._by_id.get(number)
        age_ns = self._looked_ns - acked_ns
        if age_ns >= self._options.repeats_ns:
            return True
        if connection is None:
            return number not in self._cut or acked_ns < self._cut[number][1]
        if connection.door.raw:
            return True
        return age_ns >= self._options.settle_ns and connection.taken_ns >= acked_ns

    def look(self, mono_ns: int) -> None:
        """Sees whose acks have arrived; to be called a few times a second."""
        for connection in self._by_id.values():
            if connection.acked_ns >= connection.taken_ns and _taken(connection) >= connection.mark:
                connection.taken_ns = connection.mark_ns
                connection.mark, connection.mark_ns = connection.given, mono_ns
        self._looked_ns = mono_ns
        self._cut = {number: cut for number, cut in self._cut.items() if mono_ns - cut[0] < self._options.repeats_ns}

    def sweep(self, mono_ns: int) -> None:
        """Closes connections whose time is over."""
        for connection in tuple(self._watched):
            if connection.finish_at_ns:
                if mono_ns >= connection.finish_at_ns:
                    self.close(connection, "linger-timeout")
            elif mono_ns - connection.progress_ns >= self._options.ack_timeout_ns:
                self.close(connection, "acks-not-read", waiting_bytes=connection.ack_bytes)
        for handshakes in filter(None, [door.handshakes for door in self.doors]):
            for connection in handshakes.overdue(mono_ns):
                self.refuse(connection, Refusal.TIMEOUT)

    def close_all(self) -> None:
        """Ends everything."""
        self.stop_listening()
        for connection in tuple(self._by_id.values()):
            self.close(connection, "shutdown")
        for one in (self.readers, self.writers, self._ends):
            one.close()

    def _end_if_finished(self, connection: Connection) -> None:
        if connection.finish_at_ns and connection.outstanding == 0 and not connection.acks:
            self.close(connection, "finished")

    def _read(self, connection: Connection, wanted: bool) -> None:
        if wanted and not connection.reading:
            self.readers.register(connection.fd, select.EPOLLIN)
            connection.fell_behind(connection.stopped_ns)
        elif connection.reading and not wanted:
            self.readers.unregister(connection.fd)
            connection.stopped_ns = monotonic_ns()
        connection.reading = wanted
