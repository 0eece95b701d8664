"""The producer of the drill: the same samples to every replica, each held until it has acked it, and sent again after a reconnect.

Untimed counters keep clear of the edges of windows (``GUARD_S``), because replicas stamp them with their own time of arrival. A sample goes
to the instances for which its time lies between cutover and cutoff of its shard, as M3's producer does it. One thread does everything.
"""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m3metrics.codec import TimedMetricWithMetadatas, encode_metric
from m3metrics.codec.metadata import encode_staged_metadatas
from m3metrics.kernels import encode_counter_samples, encode_timed_samples, shards_of
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.metric import MetricType
from m3metrics.pipeline import RollupOp
from m3metrics.policy import StoragePolicy
from m3metrics.rows import METRIC_TEMPLATE
from m3metrics.shard import shard_of
from m3msg.frames import Message, Metadata, encode_message
from m3msg.kernels import scan_acks
from m3msg.rows import ACK_ROW, MAX_FRAME

__all__ = ["COUNTERS", "GUARD_S", "KINDS", "LASTS", "PER_SECOND", "RULE_IDS", "SUMS", "Load", "Replica", "kind_of"]

COUNTERS, SUMS, LASTS = 200, 50, 50
KINDS = ("untimed counter", "timed sum", "timed last")
PER_SECOND = 10
GUARD_S = 0.5
SECOND_NS = 1_000_000_000
_TICK_NS = SECOND_NS // PER_SECOND
_SUM, _LAST = 7, 1
"""M3's numbers of aggregation types."""
_ALWAYS = (1 << 63) - 1
_REDIAL_S = 0.1
_SPAN = COUNTERS + SUMS + LASTS
RULE_IDS = frozenset({b"drill.rule.0", b"drill.rule.1", b"drill.rule.rollup"})
"""Series of another policy: two timed lasts, and a rollup of two sums."""
RULE_EVERY_S = 5


def kind_of(series: int) -> str:
    """Which kind the series of that number is."""
    return KINDS[(series >= COUNTERS) + (series >= COUNTERS + SUMS)]


@dataclass
class Replica:
    """One instance as the producer sees it."""

    name: str
    address: tuple[str, int]
    cutover_ns: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_SPAN, np.int64))
    """Per series."""
    cutoff_ns: NDArray[np.int64] = field(default_factory=lambda: np.full(_SPAN, _ALWAYS, np.int64))
    unacked: dict[int, bytes] = field(default_factory=dict)
    """Message id → frame, in the order of sending."""
    breaks: list[tuple[int, int]] = field(default_factory=list)
    """When a connection ended (Unix ns), and how many messages were unacked then."""
    connects: list[int] = field(default_factory=list)
    """When a connection stood (Unix ns)."""
    late_acks: list[int] = field(default_factory=list)
    """When an ack of a counter came that does not prove that it was stamped in its window, because that had ended (Unix ns)."""
    socket: "socket.socket | None" = None
    connected: bool = False
    out: bytearray = field(default_factory=bytearray)
    rest: bytes = b""
    redial: float = 0.0


class Load:
    """Sends from ``start`` until ``stop``; ``expected`` is what must come out."""

    def __init__(self, resolution_s: int, num_shards: int) -> None:
        self.resolution_ns = resolution_s * SECOND_NS
        self.ids = [b"drill.%s.%03d" % (kind_of(i).replace(" ", ".").encode(), i) for i in range(_SPAN)]
        self.number = {ident: i for i, ident in enumerate(self.ids)}
        self.shards = _shards(self.ids, num_shards)
        self._num_shards = num_shards
        self.replicas: dict[str, Replica] = {}
        self.expected: dict[int, NDArray[np.float64]] = {}
        """Window start (Unix ns) → value per series; NaN: nothing was sent."""
        self.latest_ns = 0
        """The largest delay of a tick that was sent with its untimed samples."""
        self.left_out = 0
        """Ticks whose untimed samples were not sent to anybody, because the machine was too late for the guard."""
        self.rule = False
        """Whether samples are sent that come out under ``RULE_IDS``."""
        self._policy = StoragePolicy.parse(f"{resolution_s}s:31d")
        self._encoder = _Encoder(self.ids, resolution_s)
        self._next_id = 0
        self._ends: dict[int, int] = {}
        """Message id of a tick's first sample → end of the window that its counters belong to."""
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; what is unacked is not sent any more."""
        self._end.set()
        self._thread.join(10)
        for replica in self.replicas.values():
            if replica.socket is not None:
                replica.socket.close()

    def add(self, replica: Replica) -> None:
        """From now on it gets the samples of its shards."""
        with self._lock:
            self.replicas[replica.name] = replica

    def remove(self, name: str) -> Replica:
        """It gets nothing any more."""
        with self._lock:
            replica = self.replicas.pop(name)
            self._hang_up(replica)
            return replica

    # --- thread

    def _run(self) -> None:
        tick = time.time_ns() // _TICK_NS + 1
        while not self._end.is_set():
            with self._lock:
                now = time.time_ns()
                while tick * _TICK_NS <= now:
                    self._tick(tick, now)
                    tick += 1
                for replica in self.replicas.values():
                    if replica.socket is None and time.monotonic() >= replica.redial:
                        self._dial(replica)
            for key, events in self._selector.select(max((tick * _TICK_NS - time.time_ns()) / 1e9, 0.0)):
                with self._lock:
                    self._serve(key.data, events)

    def _tick(self, tick: int, now_ns: int) -> None:
        at_ns = tick * _TICK_NS
        start = at_ns - at_ns % self.resolution_ns
        offset, guard = at_ns - start, int(GUARD_S * SECOND_NS)
        untimed = guard <= offset <= self.resolution_ns - guard
        if untimed and now_ns - at_ns > guard // 2:
            untimed = False
            self.left_out += 1
        elif untimed:
            self.latest_ns = max(self.latest_ns, now_ns - at_ns)
        first = 0 if untimed else COUNTERS
        values = _values(tick)
        frames = [
            encode_message(Message(Metadata(1 + int(self.shards[i]), self._next_id + i, now_ns), value))
            for i, value in zip(range(first, _SPAN), self._encoder.encode(at_ns, values, untimed), strict=True)
        ]
        self._expect(start, first, values)
        self._ends[self._next_id] = start + self.resolution_ns
        everything = b"".join(frames)
        for replica in self.replicas.values():
            takes = ((replica.cutover_ns <= at_ns) & (at_ns < replica.cutoff_ns))[first:]
            if takes.all():
                replica.unacked.update(zip(range(self._next_id + first, self._next_id + _SPAN), frames, strict=True))
                data = everything
            else:
                chosen = np.flatnonzero(takes).tolist()
                replica.unacked.update((self._next_id + first + k, frames[k]) for k in chosen)
                data = b"".join(frames[k] for k in chosen)
            if replica.connected and data:
                replica.out += data
                self._write(replica)
        self._next_id += _SPAN
        if self.rule and tick % (RULE_EVERY_S * PER_SECOND) == 0:
            self._send_rule(at_ns, now_ns)

    def _send_rule(self, at_ns: int, now_ns: int) -> None:
        """To every replica. The ids of these messages are those of timed samples, so that nobody takes their acks for a counter's."""
        for k in range(4):
            rollup = (RollupOp(b"drill.rule.rollup", 1 << _SUM),) if k >= 2 else ()
            pipeline = PipelineMetadata(
                aggregation_id=1 << (_SUM if k >= 2 else _LAST), storage_policies=(self._policy,), pipeline=rollup
            )
            metric = TimedMetricWithMetadatas(
                metric_type=MetricType.GAUGE,
                id=b"drill.rule.%d" % k,
                time_ns=at_ns,
                value=1.0,
                metadatas=(StagedMetadata(pipelines=(pipeline,)),),
            )
            ident = self._next_id + COUNTERS + k
            shard = shard_of(metric.id, self._num_shards)
            frame = encode_message(Message(Metadata(1 + shard, ident, now_ns), encode_metric(metric)))
            for replica in self.replicas.values():
                replica.unacked[ident] = frame
                if replica.connected:
                    replica.out += frame
        self._next_id += _SPAN

    def _expect(self, start: int, first: int, values: NDArray[np.int64]) -> None:
        expected = self.expected.setdefault(start, np.full(_SPAN, np.nan))
        summed = slice(first, COUNTERS + SUMS)
        expected[summed] = np.nan_to_num(expected[summed]) + values[summed]
        expected[COUNTERS + SUMS :] = values[COUNTERS + SUMS :]

    # --- sockets

    def _dial(self, replica: Replica) -> None:
        made = socket.socket()
        made.setblocking(False)
        made.connect_ex(replica.address)
        replica.socket = made
        self._selector.register(made, selectors.EVENT_READ | selectors.EVENT_WRITE, replica)

    def _serve(self, replica: Replica, events: int) -> None:
        sock = replica.socket
        if sock is None:
            return
        if not replica.connected:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._hang_up(replica)
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            replica.connected = True
            replica.connects.append(time.time_ns())
            replica.rest = b""
            replica.out = bytearray(b"".join(replica.unacked.values()))
        if events & selectors.EVENT_READ and not self._read(replica, sock):
            self._hang_up(replica)
            return
        self._write(replica)

    def _read(self, replica: Replica, sock: socket.socket) -> bool:
        try:
            data = sock.recv(1 << 18)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        data = replica.rest + data
        acks = np.empty(len(data) // 2 + 1, ACK_ROW)
        n, at, _ = scan_acks(np.frombuffer(data, np.uint8), 0, len(data), MAX_FRAME, acks)
        now = time.time_ns()
        for ident in acks["id"][:n].tolist():
            counter = replica.unacked.pop(ident, None) is not None and ident % _SPAN < COUNTERS
            if counter and now > self._ends[ident - ident % _SPAN] and now not in replica.late_acks[-1:]:
                replica.late_acks.append(now)
        replica.rest = data[at:]
        return True

    def _write(self, replica: Replica) -> None:
        sock = replica.socket
        if sock is None:
            return
        try:
            while replica.out:
                del replica.out[: sock.send(memoryview(replica.out)[: 1 << 18].tobytes())]
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up(replica)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if replica.out else 0)
        self._selector.modify(sock, wanted, replica)

    def _hang_up(self, replica: Replica) -> None:
        if replica.socket is not None:
            self._selector.unregister(replica.socket)
            replica.socket.close()
        if replica.connected:
            replica.breaks.append((time.time_ns(), len(replica.unacked)))
        replica.socket, replica.connected = None, False
        replica.redial = time.monotonic() + _REDIAL_S


def _values(tick: int) -> NDArray[np.int64]:
    """Sample values of a tick: whole numbers, so that sums are exact; neighbours in time and series differ."""
    return 1 + (tick * 7919 + np.arange(_SPAN) * 104_729) % 997


def _shards(ids: list[bytes], num_shards: int) -> NDArray[np.uint32]:
    arena = np.frombuffer(b"".join(ids), np.uint8)
    sizes = np.array([len(i) for i in ids])
    out = np.zeros(len(ids), np.uint32)
    shards_of(arena, np.concatenate(([0], np.cumsum(sizes)[:-1])), sizes, num_shards, out)
    return out


class _Encoder:
    """Samples of all series of one moment as message values."""

    def __init__(self, ids: list[bytes], resolution_s: int) -> None:
        policy = StoragePolicy.parse(f"{resolution_s}s:2d")
        arena = bytearray()
        self._templates = np.zeros(_SPAN, METRIC_TEMPLATE)
        for i, ident in enumerate(ids):
            aggregation = {KINDS[1]: 1 << _SUM, KINDS[2]: 1 << _LAST}.get(kind_of(i), 0)
            pipeline = PipelineMetadata(aggregation_id=aggregation, storage_policies=(policy,))
            metadatas = encode_staged_metadatas((StagedMetadata(pipelines=(pipeline,)),))
            row = self._templates[i]
            row["id_at"], row["id_size"] = len(arena), len(ident)
            arena += ident
            row["meta_at"], row["meta_size"], row["metric_type"] = len(arena), len(metadatas), 3
            arena += metadatas
        self._arena = np.frombuffer(bytes(arena), np.uint8)
        self._out = np.zeros(_SPAN * 512, np.uint8)
        self._offsets = np.zeros(_SPAN + 1, np.int64)

    def encode(self, at_ns: int, values: NDArray[np.int64], untimed: bool) -> Iterator[bytes]:
        """Counters first, unless they are to be left out."""
        if untimed:
            which = np.arange(COUNTERS)
            encode_counter_samples(
                self._arena,
                self._templates,
                which,
                np.zeros(COUNTERS, np.int64),
                values[which],
                self._out,
                self._offsets,
            )
            yield from self._cut(COUNTERS)
        which = np.arange(COUNTERS, _SPAN)
        times, numbers = np.full(len(which), at_ns), values[which].astype(np.float64)
        encode_timed_samples(self._arena, self._templates, which, times, numbers, self._out, self._offsets)
        yield from self._cut(len(which))

    def _cut(self, n: int) -> list[bytes]:
        return [self._out[self._offsets[k] : self._offsets[k + 1]].tobytes() for k in range(n)]
