"""The load on aggregators: one sample a second of each series, to every instance, from several producers. One thread does everything."""

import selectors
import threading
import time

from lab.crash.samples import SECOND_NS, WINDOW_S, Group, Growth, Line, Sample, direct_lines, metric
from lab.crash.sender import Sender
from m3metrics.codec import encode_metric
from m3metrics.shard import shard_of

__all__ = ["Load"]

_TICK_NS = SECOND_NS // 10
_LONGEST_WAIT_S = 0.02
_SENDERS = 3
"""Producers to each instance, one of them impatient, one with a standby: their message ids are the same."""
_GUARD_NS = SECOND_NS // 2


class Load:
    """Sends from ``begin_ns`` (a whole window) until ``stop``.

    ``guarded``: untimed samples keep half a second clear of both ends of windows, as several instances stamp them, each for itself.
    ``patience_s``: of the impatient producers; 0: there are none.
    """

    def __init__(
        self, addresses: list[tuple[str, int]], num_shards: int, scale: int, *, guarded: bool, patience_s: float
    ) -> None:
        self.groups: list[Group] = []
        """All that comes out of what was sent so far."""
        self.begin_ns = self.end_ns = 0
        self.late_s = 0.0
        """The longest time by which samples were made late, as this process stood still."""
        self._deafened = 0
        """How often a producer was made deaf."""
        self._num_shards = num_shards
        self._guarded = guarded
        self._replicas = len(addresses)
        self._selector = selectors.DefaultSelector()
        self._senders = [
            [
                Sender(one, self._selector, self._acked, patience_s=patience_s if k == 1 else 0.0, standby=k == 2)
                for k in range(_SENDERS)
            ]
            for one in addresses
        ]
        self._due: list[list[Line]] = [[] for _ in range(10)]
        for line in direct_lines(scale):
            self._due[line.phase].append(line)
            if line.source == 0:
                self.groups.append(line.group)
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begins with the next window of the longer resolution."""
        whole = 2 * WINDOW_S * SECOND_NS
        self.begin_ns = (time.time_ns() // whole + 1) * whole
        self._growth = Growth(self.begin_ns // SECOND_NS // WINDOW_S)
        self._thread.start()

    def stop(self) -> int:
        """No samples are due from the end of this window of the longer resolution on; returns that time (Unix ns)."""
        whole = 2 * WINDOW_S * SECOND_NS
        with self._lock:
            self.end_ns = (time.time_ns() // whole + 1) * whole
        return self.end_ns

    def close(self) -> None:
        """Ends everything."""
        self._end.set()
        self._thread.join(10)
        for sender in self._all():
            sender.close()

    def deafen(self, seconds: float) -> None:
        """One producer to each instance hears nothing for a while, and then loses its connections; the next one the next time."""
        # A series stays with its producer: ids and values of another one may be the same.
        with self._lock:
            for senders in self._senders:
                senders[self._deafened % _SENDERS].deafen(seconds)
            self._deafened += 1

    @property
    def unacked(self) -> int:
        """Messages that wait for an ack."""
        return sum(len(sender.unacked) for sender in self._all())

    @property
    def oldest_s(self) -> float:
        """How long ago the oldest sample that is not acked was due."""
        return self._oldest_s(self._all())

    @property
    def acked_ns(self) -> int:
        """When the last ack came (Unix ns)."""
        return max(sender.acked_ns for sender in self._all())

    def caught_up(self, since_ns: int, instance: int | None = None) -> bool:
        """Whether an instance (None: all) acks what is a second old at most, and has done so since then (Unix ns)."""
        senders = self._all() if instance is None else self._senders[instance]
        return all(sender.acked_ns > since_ns for sender in senders) and self._oldest_s(senders) < 1.0

    def _oldest_s(self, senders: list[Sender]) -> float:
        with self._lock:
            firsts = [next(iter(sender.unacked.values()))[0].at_ns for sender in senders if sender.unacked]
        return max(time.time_ns() - min(firsts), 0) / 1e9 if firsts else 0.0

    @property
    def resent(self) -> int:
        """Attempts that were not a sample's first to an instance."""
        return sum(sender.resent for sender in self._all())

    def _all(self) -> list[Sender]:
        return [sender for senders in self._senders for sender in senders]

    # --- thread

    def _run(self) -> None:
        tick = self.begin_ns // _TICK_NS
        while not self._end.is_set():
            with self._lock:
                now = time.time_ns()
                if not self.end_ns:
                    self.late_s = max(self.late_s, (now - tick * _TICK_NS) / 1e9)
                while tick * _TICK_NS <= now and not (self.end_ns and tick * _TICK_NS >= self.end_ns):
                    self._tick(tick)
                    tick += 1
                for sender in self._all():
                    sender.tend()
            over = self.end_ns and tick * _TICK_NS >= self.end_ns
            left_s = _LONGEST_WAIT_S if over else (tick * _TICK_NS - time.time_ns()) / 1e9
            for key, events in self._selector.select(min(max(left_s, 0.0), _LONGEST_WAIT_S)):
                with self._lock:
                    key.data.serve(events)

    def _tick(self, tick: int) -> None:
        at_ns = tick * _TICK_NS
        window_ns = WINDOW_S * SECOND_NS
        near = min(at_ns % window_ns, window_ns - at_ns % window_ns) < _GUARD_NS
        due = self._due[tick % 10]
        for k in range(len(due)):
            if self._guarded and near and not due[k].kind.timed:
                continue
            if due[k].full:
                due[k] = due[k].next()
                self.groups.append(due[k].group)
            line = due[k]
            sample = Sample(len(line.samples), at_ns)
            line.samples.append(sample)
            value = encode_metric(metric(line, sample, self._growth))
            shard = shard_of(line.ident, self._num_shards)
            for senders in self._senders:
                senders[shard % _SENDERS].send(sample, shard, value)

    def _acked(self, sample: Sample, now_ns: int) -> None:
        sample.acks += 1
        if sample.acks == self._replicas:
            sample.acked_ns = now_ns
