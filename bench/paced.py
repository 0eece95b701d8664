"""A load at an even pace: small writes to one or several instances, and how long each message waited for its ack.

Every instance gets the same messages over ``connections`` connections each. Messages are sent in writes of ``--write`` messages, every
millisecond as many writes as the rate asks for; ``--rate 0`` sends as fast as TCP takes it. Series come in turn, so that each has one
sample in ``series / rate`` seconds. A process of its own, so that its CPU time is nobody else's.
"""

import argparse
import json
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.acks import ENTRY_SIZE, Acked
from bench.messages import ID_SIZE, KINDS, Frames, build

__all__ = ["Paced", "main"]

_ID_AT = 5
"""Where the id begins in an entry of an ack."""
_TICK_S = 0.001
_SWITCH_S = 0.0002
"""Threads beside the one that sends take acks: with the interpreter's 5 ms these would wait for a turn longer than for the service."""
_RING = 1 << 23
"""Messages that may be on their way."""
_AT_ONCE = 512
"""Messages of a write that is as large as TCP takes it."""
_WAIT_S = 60.0


class Paced(Acked):
    """One connection; sends from the thread of the caller, takes acks in one of its own."""

    def __init__(self, address: tuple[str, int], frames: Frames) -> None:
        super().__init__(address)
        self._frames = frames
        self._at = 0
        self._first_id = frames.first_id
        self._sent_at = np.zeros(_RING)
        self._latencies: list[NDArray[np.float64]] = []
        self.sent = 0
        self.acked_at = 0.0
        """When the last ack came (monotonic)."""
        self._reader.start()

    def send(self, count: int) -> None:
        """Sends that many messages, or up to the last series, in one write; returns when TCP has them."""
        part = self._frames.part(self._at, count)
        part.stamp(time.time_ns())
        places = np.arange(self.sent, self.sent + len(part.matrix)) % _RING
        self._sent_at[places] = time.monotonic()
        self._frames.first_id = part.first_id
        self._at = (self._at + len(part.matrix)) % len(self._frames.matrix)
        self.sent += len(part.matrix)
        try:
            self._socket.sendall(part.matrix.data)
        except OSError as error:
            self.failed = self.failed or str(error)

    def latencies_s(self) -> NDArray[np.float64]:
        """Of every message that was acked."""
        return np.concatenate(self._latencies) if self._latencies else np.zeros(0)

    def _take(self, acks: list[bytes], now: float) -> None:
        if not acks:
            return
        ids = (
            np.frombuffer(b"".join(acks), np.uint8)
            .reshape(-1, ENTRY_SIZE)[:, _ID_AT : _ID_AT + ID_SIZE]
            .astype(np.int64)
            & 0x7F
        )
        numbers = ids @ (1 << np.arange(0, 7 * ID_SIZE, 7)) - self._first_id
        self._latencies.append(now - self._sent_at[numbers % _RING])
        self.acked += len(numbers)
        self.acked_at = now


@dataclass(frozen=True, slots=True)
class _Pace:
    rate: float
    """Messages a second of one connection; 0: as fast as TCP takes them."""
    write: int
    until: float


def _send_all(connections: list[Paced], pace: _Pace, began: float) -> None:
    """Sends over all connections until the time is up."""
    while (now := time.monotonic()) < pace.until:
        due = pace.rate * (now - began) if pace.rate else connections[0].sent + _AT_ONCE
        while connections[0].sent + pace.write <= due:
            for connection in connections:
                connection.send(pace.write)
        if pace.rate:
            time.sleep(_TICK_S)


def run(options: argparse.Namespace) -> dict[str, object]:
    """Sends for the wanted time, waits for the acks that are missing, and returns the figures."""
    targets = [target.rsplit(":", 1) for target in options.target]
    per = max(options.series // options.connections, 1)
    connections = [
        Paced((host, int(port)), build(options.kind, options.series, per, options.resolution, first=number * per))
        for host, port in targets
        for number in range(options.connections)
    ]  # fmt: skip
    print("built", file=sys.stderr, flush=True)
    if options.go:
        sys.stdin.readline()
    began = time.monotonic()
    pace = _Pace(
        options.rate / options.connections, options.write if options.rate else _AT_ONCE, began + options.seconds
    )
    groups = [[one] for one in connections] if not options.rate else [connections]
    threads = [threading.Thread(target=_send_all, args=(group, pace, began)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    limit = time.monotonic() + _WAIT_S
    while any(one.acked < one.sent and not one.failed for one in connections) and time.monotonic() < limit:
        time.sleep(0.01)
    took = max(one.acked_at for one in connections) - began
    for one in connections:
        one.close()
    waited = np.concatenate([one.latencies_s() for one in connections]) * 1e3
    p50, p99, most = np.percentile(waited, [50, 99, 100]) if len(waited) else np.zeros(3)
    return {
        "sent": sum(one.sent for one in connections), "acked": sum(one.acked for one in connections), "seconds": took,
        "p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(most),
    }  # fmt: skip


def main() -> int:
    """Runs the load and prints one JSON line; exit code 1 if something is not acked."""
    sys.setswitchinterval(_SWITCH_S)
    parser = argparse.ArgumentParser(prog="python -m bench.paced", description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, action="append", metavar="HOST:PORT")
    parser.add_argument("--kind", choices=KINDS, default="timed")
    parser.add_argument("--series", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3000.0, help="messages a second to each target")
    parser.add_argument("--write", type=int, default=3, help="messages of one write")
    parser.add_argument("--resolution", type=int, default=10, help="seconds")
    parser.add_argument("--go", action="store_true", help="begin with the first line of standard input")
    result = run(parser.parse_args())
    print(json.dumps(result), flush=True)
    return 0 if result["sent"] == result["acked"] else 1


if __name__ == "__main__":
    sys.exit(main())
