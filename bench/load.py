"""The load generator: replays messages of ``bench.messages`` over m3msg connections and counts the acks.

A replay of 20,000 messages costs a few column copies and one ``sendall``. Acks echo metadata of known size, so counting them is arithmetic.
"""

import argparse
import json
import sys
import threading
import time

from bench.acks import ENTRY_SIZE, Acked
from bench.messages import KINDS, Frames, build


class Connection(Acked):
    """One connection: a writer that replays frames and a reader that counts acks."""

    def __init__(self, address: tuple[str, int], frames: Frames) -> None:
        super().__init__(address)
        self._frames = frames
        self.replays = 0
        self._reader.start()

    @property
    def sent(self) -> int:
        """Messages sent so far."""
        return self.replays * len(self._frames.matrix)

    def begin(self) -> None:
        """What was sent so far, all of it acknowledged, is not counted."""
        self.acked -= self.sent
        self.replays = 0

    def replay(self, until: float, rate: float, replays: int) -> None:
        """Sends again and again until the time, or the number of replays if that is not 0; ``rate`` messages a second, 0: no limit."""
        began = time.monotonic()
        while time.monotonic() < until and (not replays or self.replays < replays):
            self._frames.stamp(time.time_ns())
            try:
                self._socket.sendall(self._frames.matrix)
            except OSError as error:
                self.failed = str(error)
                return
            self.replays += 1
            while rate and self.sent > rate * (time.monotonic() - began) and time.monotonic() < until:
                time.sleep(0.005)

    def _take(self, acks: list[bytes], now: float) -> None:
        self.acked += sum(map(len, acks)) // ENTRY_SIZE


def main() -> int:
    """Runs the load and prints one JSON line: sent, acked, seconds, value_sum, failed. Connections end after that.

    To stderr go a line when messages are built, and one when all that is not counted is acknowledged.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument("--kind", choices=KINDS, default="gauge")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--warm", type=float, default=0.0, help="seconds of the same load before, which are not counted"
    )
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument(
        "--rate",
        type=float,
        default=0.0,
        help="messages a second over all connections; 0: as fast as acks and TCP allow",
    )
    parser.add_argument("--replays", type=int, default=0, help="end after this many replays per connection")
    parser.add_argument("--resolution", type=int, default=10, help="seconds")
    options = parser.parse_args()
    host, port = options.target.rsplit(":", 1)
    per = max(options.series, 20_000) // options.connections
    frames = [
        build(options.kind, options.series, per, options.resolution, first=c * per) for c in range(options.connections)
    ]
    print("built", file=sys.stderr, flush=True)
    connections = [Connection((host, int(port)), f) for f in frames]
    rate = options.rate / options.connections
    if options.warm:
        _load(connections, options.warm, rate, 0)
        for connection in connections:
            connection.begin()
    print("warm", file=sys.stderr, flush=True)
    took = _load(connections, options.seconds, rate, options.replays)
    result = {
        "sent": sum(c.sent for c in connections),
        "acked": sum(c.acked for c in connections),
        "seconds": took,
        "value_sum": sum(c.replays * f.value_sum for c, f in zip(connections, frames, strict=True)),
        "message_bytes": frames[0].matrix.shape[1],
        "failed": [c.failed for c in connections if c.failed],
    }
    print(json.dumps(result), flush=True)
    for connection in connections:
        connection.close()
    return 0 if result["sent"] == result["acked"] else 1


def _load(connections: list[Connection], seconds: float, rate: float, replays: int) -> float:
    """Sends for so long, and waits for all acks; returns how many seconds that took."""
    began = time.monotonic()
    writers = [threading.Thread(target=c.replay, args=(began + seconds, rate, replays)) for c in connections]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    limit = time.monotonic() + 60
    while sum(c.acked for c in connections) < sum(c.sent for c in connections) and time.monotonic() < limit:
        if all(c.failed for c in connections):
            break
        time.sleep(0.01)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
