"""A producer of aggregated values: each at its second, once per series, so that what is to be stored follows from series and time."""

import struct
import threading
import time
from dataclasses import dataclass, field

from lab.m3db.namespaces import SECOND_NS, Namespace
from lab.m3msg_client import M3MsgClient
from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy

__all__ = ["Sender", "Sent", "series_id", "value_bits"]

_TICKS = 10
"""Of a second; each sends its share of the series."""
_POISON = ((b"x", b"\xff"), (b"_m3ninx_id", b"x"))
"""Tags that the index of a node does not take."""
_POISONED = 1_000_000
"""Numbers of series with them begin here."""
_IMPATIENT_S = 8.0
"""A message that is not acknowledged for so long is sent again on a new connection, as producers do."""


def series_id(row: str, number: int) -> bytes:
    """As a node has it, with the tags in their order."""
    return f'{{__name__="drill",row="{row}",series="{number}"}}'.encode()


def value_bits(number: int, second: int) -> int:
    """Of the one value that a series has at a second: no other series or second has the same."""
    value = (second % 1_000_000) * 10_000.0 + number + 0.25
    return int.from_bytes(struct.pack(">d", value), "big")


@dataclass(slots=True)
class Sent:
    """The values of a row: (series, second)."""

    row: str
    keys: set[tuple[int, int]] = field(default_factory=set)


class Sender:
    """Sends in a thread of its own, from ``begin`` to ``settle``."""

    def __init__(self, port: int, series: int) -> None:
        self._client = M3MsgClient(port)
        self._series = series
        self._sent = Sent("")
        self._policy = ""
        self._sending, self._ended = threading.Event(), threading.Event()
        self.poisons = False
        """Whether values with tags that no node takes are sent as well; they are noted as all others."""
        self._acked_all_at = time.monotonic()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def begin(self, row: str, namespace: Namespace) -> Sent:
        """From now on values of a row go out; they are noted in what is returned."""
        seconds = namespace.resolution_ns // SECOND_NS
        self._policy = f"{seconds}s:{namespace.retention_ns // (3600 * SECOND_NS)}h"
        self._sent = Sent(row)
        self._sending.set()
        return self._sent

    def pause(self) -> None:
        """No more values."""
        self._sending.clear()

    def unacked(self) -> int:
        """Messages that are sent and not acknowledged. Raises what ended the thread."""
        if self._error is not None:
            raise self._error
        return len(self._client.unacked)

    def close(self) -> None:
        """Hangs up."""
        self._ended.set()
        self._thread.join(10)
        self._client.__exit__()

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                if self._sending.is_set():
                    self._send_due()
                self._client.pump(0.02)
                if not self._client.unacked:
                    self._acked_all_at = time.monotonic()
                elif time.monotonic() - self._acked_all_at > _IMPATIENT_S:
                    self._client.__exit__()
                    self._acked_all_at = time.monotonic()
        except Exception as error:
            self._error = error

    def _send_due(self) -> None:
        now, sent = time.time(), self._sent
        second, tick = int(now), int(now % 1 * _TICKS)
        due = [number for number in range(tick, self._series, _TICKS) if (number, second) not in sent.keys]
        if self.poisons:
            wanted = range(_POISONED, _POISONED + len(_POISON))
            due += [number for number in wanted if (number, second) not in sent.keys]
        messages = []
        for number in due:
            labels = [(b"__name__", b"drill"), (b"row", sent.row.encode()), (b"series", b"%d" % number)]
            labels += [_POISON[number - _POISONED]] if number >= _POISONED else []
            (value,) = struct.unpack(">d", struct.pack(">Q", value_bits(number, second)))
            metric = AggregatedMetric(
                id=encode_tags(sorted(labels)), time_ns=second * SECOND_NS, value=value,
                storage_policy=StoragePolicy.parse(self._policy),
            )  # fmt: skip
            messages.append(encode_aggregated(metric))
        if messages:
            self._client.send(messages)
            # Noted after they are on their way: nobody is asked for values that were never sent.
            sent.keys.update((number, second) for number in due)
