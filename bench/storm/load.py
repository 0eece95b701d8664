"""Senders of the storm, each a process of its own: known series at an even pace, or new ids.

``--known N``: each of N series once in every window, with the value that ``series.values_of`` gives it and a time inside of the window,
until standard input ends; a line tells when the first window is over. ``--new N``: N ids that nobody has sent before, evenly over
``--seconds``. Prints a line when messages are built, and begins with the first line of standard input; prints what was sent and acked at
the end.
"""

import argparse
import json
import sys
import threading
import time

import numpy as np

from bench.acks import ENTRY_SIZE, Acked
from bench.messages import Frames
from bench.storm.series import RESOLUTION_S, known_frames, storm_frames, values_of

__all__ = ["main"]

_TICKS = 100
"""In which the known series are sent, in each window."""
_WRITE = 2048
"""New ids of one write."""
_WAIT_S = 30.0
_SECOND_NS = 10**9


class Connection(Acked):
    """Sends frames, and counts acks."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        self.sent = 0
        self._reader.start()

    def send(self, frames: Frames) -> None:
        """Returns when TCP has them."""
        self._socket.sendall(frames.matrix.data)
        self.sent += len(frames.matrix)

    def wait(self) -> None:
        """Until everything is acked, or nothing will be."""
        until = time.monotonic() + _WAIT_S
        while self.acked < self.sent and not self.failed and time.monotonic() < until:
            time.sleep(0.01)

    def _take(self, acks: list[bytes], now: float) -> None:
        self.acked += sum(len(frame) // ENTRY_SIZE for frame in acks)


def send_known(connection: Connection, frames: Frames, stop: threading.Event) -> dict[str, object]:
    """Whole windows until ``stop``; the first one is the next that begins."""
    series = len(frames.matrix)
    first = time.time_ns() // (RESOLUTION_S * _SECOND_NS) + 1
    window, behind_s = first, 0.0
    while True:
        begin_ns = window * RESOLUTION_S * _SECOND_NS
        frames.matrix[:, frames.value_column : frames.value_column + 8] = (
            values_of(np.arange(series), window).view(np.uint8).reshape(-1, 8)
        )
        for tick in range(_TICKS):
            at_ns = begin_ns + tick * RESOLUTION_S * _SECOND_NS // _TICKS
            if stop.wait(max(at_ns - time.time_ns(), 0) / 1e9) and tick == 0:
                connection.wait()
                return {"first": first, "windows": window - first, "behind_s": behind_s}
            behind_s = max(behind_s, (time.time_ns() - at_ns) / 1e9)
            start, end = (series * part // _TICKS for part in (tick, tick + 1))
            if start < end:
                part = frames.part(start, end - start)
                part.stamp(at_ns + 1)
                frames.first_id = part.first_id
                connection.send(part)
        if window == first:
            print(json.dumps({"window": window}), flush=True)
        window += 1


def send_new(connection: Connection, first: int, count: int, seconds: float) -> dict[str, object]:
    """``count`` ids from number ``first`` on."""
    frames = storm_frames(_WRITE)
    began = time.monotonic()
    for start in range(0, count, _WRITE):
        time.sleep(max(began + seconds * start / count - time.monotonic(), 0))
        part = frames.part(0, min(_WRITE, count - start))
        numbers = first + np.arange(start, start + len(part.matrix))
        part.name(numbers)
        part.stamp(time.time_ns())
        frames.first_id = part.first_id
        connection.send(part)
    sent_s = time.monotonic() - began
    connection.wait()
    return {"sent_s": sent_s, "acked_s": time.monotonic() - began}


def _until_input_ends(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def main() -> int:
    """Sends, and prints one JSON line; exit code 1 if something is not acked."""
    parser = argparse.ArgumentParser(prog="python -m bench.storm.load", description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument("--known", type=int, default=0)
    parser.add_argument("--new", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first new id")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    host, port = options.target.rsplit(":", 1)
    connection = Connection((host, int(port)))
    frames = known_frames(options.known) if options.known else None
    print("built", flush=True)
    sys.stdin.readline()
    if frames is not None:
        stop = threading.Event()
        threading.Thread(target=_until_input_ends, args=(stop,), daemon=True).start()
        result = send_known(connection, frames, stop)
    else:
        result = send_new(connection, options.first, options.new, options.seconds)
    connection.close()
    print(json.dumps({"sent": connection.sent, "acked": connection.acked, **result}), flush=True)
    return 0 if connection.sent == connection.acked else 1


if __name__ == "__main__":
    sys.exit(main())
