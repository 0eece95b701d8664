"""Remote write as Prometheus does it: each shard has one request under way, sends it again until it is answered, and then what is due.

An answer of 4xx is a refusal, and the samples are given up. A connection can be cut between request and answer.
"""

import http.client
import threading
import time
from urllib.parse import urlsplit

from lab.crash.samples import SECOND_NS, WINDOW_S, Group, Growth, Kind, Line, Sample
from lab.prometheus import REGEX, remote_read
from m3ctl.bench.remote_write import Labels, write_request

__all__ = ["RULES", "Writer", "stored"]

_PATH = "/api/v1/prom/remote/write"
_SHARDS = 3
_TIMEOUT_S = 20.0
_AGAIN_S = 0.2
_MOST = 2_000
"""Samples of one request."""
_SOURCES = 8

RULES = {
    "mappingRules": [{"name": "no originals", "filter": "__name__:crash_source", "drop": True}],
    "rollupRules": [
        {
            "name": "rates",
            "filter": "__name__:crash_source",
            "transforms": [
                {"transform": {"type": "PerSecond"}},
                {"rollup": {"metricName": "crash_rate", "groupBy": ["number"], "aggregations": ["Sum"]}},
            ],
            "storagePolicies": [{"resolution": f"{s}s", "retention": "48h"} for s in (WINDOW_S, 2 * WINDOW_S)],
        }
    ],
}
"""``downsample.rules`` of the coordinator: ``crash_rate`` is the sum of the rates of the sources with the same number."""


def _lines(scale: int) -> list[Line]:
    lines = []
    for number in range(10 * scale):
        group = Group(b"crash_written/%d" % number, Kind.WRITTEN)
        group.lines.append(Line(group.ident, Kind.WRITTEN, group, 0))
        lines += group.lines
    for number in range(2 * scale):
        group = Group(b"crash_rate/%d" % number, Kind.WRITTEN_RATES)
        for source in range(_SOURCES):
            ident = b"crash_source/%d" % number
            group.lines.append(Line(ident, Kind.WRITTEN_RATES, group, 0, source))
        lines += group.lines
    return lines


def _labels(line: Line) -> Labels:
    name, _, number = line.ident.decode().partition("/")
    source = (("source", str(line.source)),) if line.kind is Kind.WRITTEN_RATES else ()
    return (("__name__", name), ("number", number), *source)


class Writer:
    """Sends the samples of every second from ``begin_ns`` on to the coordinator at ``url``, until ``stop``."""

    def __init__(self, url: str, scale: int) -> None:
        lines = _lines(scale)
        self.groups = [line.group for line in lines if line.source == 0]
        self.refused = 0
        self.repeated = 0
        """Requests that were sent again."""
        self._address = urlsplit(url).netloc
        self._end_ns = 0
        self._closed = threading.Event()
        self._cut = threading.Event()
        self._shards = [lines[k::_SHARDS] for k in range(_SHARDS)]
        self._waiting = [0] * _SHARDS
        """Samples of each shard that are not answered."""
        self._threads: list[threading.Thread] = []

    def start(self, begin_ns: int) -> None:
        """Begins."""
        growth = [Growth(begin_ns // SECOND_NS // WINDOW_S) for _ in self._shards]
        for k in range(_SHARDS):
            arguments = k, begin_ns // SECOND_NS, growth[k]
            self._threads.append(threading.Thread(target=self._run, args=arguments, name=f"writer {k}", daemon=True))
            self._threads[-1].start()

    def stop(self, end_ns: int) -> None:
        """No samples are due from then on."""
        self._end_ns = end_ns

    def close(self) -> None:
        """Ends everything."""
        self._closed.set()
        for thread in self._threads:
            thread.join(_TIMEOUT_S + 5)

    def cut(self) -> None:
        """The next request's connection is gone before its answer."""
        self._cut.set()

    @property
    def unacked(self) -> int:
        """Samples that wait for an answer."""
        return sum(self._waiting)

    # --- threads

    def _run(self, shard: int, second: int, growth: Growth) -> None:
        lines, pending = self._shards[shard], list[tuple[Line, Sample]]()
        while not self._closed.is_set():
            now = time.time_ns()
            while second * SECOND_NS <= now and not (self._end_ns and second * SECOND_NS >= self._end_ns):
                for line in lines:
                    sample = Sample(len(line.samples), second * SECOND_NS)
                    line.samples.append(sample)
                    pending.append((line, sample))
                second += 1
            self._waiting[shard] = len(pending)
            if pending:
                self._deliver(pending[:_MOST], growth)
                del pending[:_MOST]
            else:
                self._closed.wait(0.05)

    def _deliver(self, pending: list[tuple[Line, Sample]], growth: Growth) -> None:
        body = write_request(
            (_labels(line), _value(line, sample, growth), sample.at_ns // 1_000_000) for line, sample in pending
        )
        first = True
        while not self._closed.is_set():
            now = time.time_ns()
            for _, sample in pending:
                sample.sent_ns = sample.sent_ns or now
            self.repeated += not first
            first = False
            status = self._post(body)
            if 200 <= status < 300:
                now = time.time_ns()
                for _, sample in pending:
                    sample.acked_ns = now
                return
            if 400 <= status < 500:
                self.refused += len(pending)
                return
            self._closed.wait(_AGAIN_S)

    def _post(self, body: bytes) -> int:
        """The status; 0: there is no answer."""
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_S)
        headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
        try:
            connection.request("POST", _PATH, body, headers)
            if self._cut.is_set():
                self._cut.clear()
                time.sleep(0.02)
                return 0
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


def _value(line: Line, sample: Sample, growth: Growth) -> float:
    if line.kind is Kind.WRITTEN:
        return float(sample.number)
    return growth.value(line.source, sample.at_ns)


def stored(url: str, begin_ns: int, end_ns: int) -> dict[bytes, dict[int, float]]:
    """What the coordinator has of all groups at the shorter resolution: values by time (Unix ns). Raises ``OSError``."""
    points = remote_read(url, [("__name__", REGEX, "crash_.*")], begin_ns // 1_000_000, end_ns // 1_000_000)
    found = {}
    for labels, values in points.items():
        named = dict(labels)
        ident = f"{named['__name__']}/{named['number']}".encode()
        found[ident] = {time_ms * 1_000_000: value for time_ms, value in values.items()}
    return found
