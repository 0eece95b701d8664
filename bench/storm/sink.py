"""The consumer of the storm: takes and acks everything, and judges the values of known series by window.

Run as a process of its own: it prints its address, then a JSON summary for every line of standard input, and ends with it.
"""

import argparse
import json
import sys
import time

import numpy as np
from numpy.typing import NDArray

from bench.sink import Sink
from bench.storm.series import FIRST_DIGIT, KNOWN_LETTER, LETTER_AT, RESOLUTION_S, values_of
from m3metrics.kernels import decode_aggregated
from m3metrics.rows import AGGREGATED_ROW

__all__ = ["main"]

_TENS = 10 ** np.arange(7, -1, -1)


class StormSink(Sink):
    """Of ``known`` series; ``judged`` has, by window, how many came, how many of them were wrong, and when the last one came."""

    def __init__(self, known: int) -> None:
        self._known = known
        self._seen: dict[int, NDArray[np.bool_]] = {}
        self.judged: dict[int, dict[str, float]] = {}
        self.others = 0
        super().__init__()

    def _keep(self, data: bytes, buf: NDArray[np.uint8], rows: NDArray[np.void]) -> None:
        now = time.time()
        starts = rows["value_at"].astype(np.int64)
        metrics = np.zeros(len(rows), AGGREGATED_ROW)
        decode_aggregated(buf, starts, starts + rows["value_size"], len(rows), metrics)
        at = metrics["id_at"].astype(np.int64)
        known = buf[at + LETTER_AT] == KNOWN_LETTER
        with self._lock:
            self.messages += len(rows)
            self.others += int(len(rows) - known.sum())
            if known.any():
                self._judge(buf, at[known], metrics[known], now)

    def _judge(self, buf: NDArray[np.uint8], at: NDArray[np.int64], metrics: NDArray[np.void], now: float) -> None:
        numbers = (buf[at[:, None] + FIRST_DIGIT + np.arange(8)] - ord("0")) @ _TENS
        ends = metrics["time_ns"] // (RESOLUTION_S * 10**9)
        for end in np.unique(ends).tolist():
            mine = ends == end
            window, series = int(end) - 1, numbers[mine]
            seen = self._seen.setdefault(window, np.zeros(self._known, bool))
            wrong = int((values_of(series, window) != metrics["value"][mine]).sum())
            found = self.judged.setdefault(window, {"came": 0, "wrong": 0, "again": 0, "last": 0.0})
            found["came"] += int((~seen[np.unique(series)]).sum())
            found["again"] += int(seen[series].sum())
            found["wrong"] += wrong
            found["last"] = now
            seen[series] = True


def main() -> int:
    """Runs a sink until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m bench.storm.sink", description=__doc__.splitlines()[0])
    parser.add_argument("--known", type=int, required=True)
    sink = StormSink(parser.parse_args().known)
    print(sink.address, flush=True)
    for _ in sys.stdin:
        with sink._lock:
            print(json.dumps({"windows": sink.judged, "others": sink.others}), flush=True)
    sink.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
