"""Workers that die or hang under load, consumers that never ack, producers that never stop: nothing acked is lost, memory stays bounded."""

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from bench.instance import NUM_SHARDS, Aggregator
from bench.load import Connection
from bench.messages import Frames, build, tagged_id
from bench.sink import Sink
from lab.http import get
from lab.processes import stop

from m3metrics.kernels import shards_of

RESOLUTION_S = 2
SERIES = 2000
LIMIT = 1 << 20
"""Bytes that the producer of the output may hold, where a test sets it."""


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A recording consumer that acks everything."""
    result = Sink(record=True)
    yield result
    result.close()


def shard_of(ident: bytes) -> int:
    """Shard of an id in the placement of the test."""
    out = np.zeros(1, np.uint32)
    shards_of(np.frombuffer(ident, np.uint8), np.zeros(1, np.int64), np.array([len(ident)]), NUM_SHARDS, out)
    return int(out[0])


def sent_by_id(connection: Connection, frames: Frames) -> dict[bytes, float]:
    """Sum of the values sent so far, by id."""
    sums: dict[bytes, float] = defaultdict(float)
    for number, value in zip(frames.series.tolist(), frames.values.tolist(), strict=True):
        sums[tagged_id(b"%08d" % number)] += value * connection.replays
    return dict(sums)


Load = tuple[Connection, Frames, threading.Thread]


@pytest.fixture
def start_load() -> Iterator[Callable[..., Load]]:
    """``start_load(address, seconds=…)``: a connection that replays counters in the background, hung up at the end of the test."""
    connections: list[Connection] = []

    def start(address: str, *, seconds: float, rate: float = 0.0, replays: int = 0) -> Load:
        host, port = address.rsplit(":", 1)
        frames = build("counter", SERIES, 20_000, RESOLUTION_S)
        connection = Connection((host, int(port)), frames)
        connections.append(connection)
        thread = threading.Thread(
            target=connection.replay, args=(time.monotonic() + seconds, rate, replays), daemon=True
        )
        thread.start()
        return connection, frames, thread

    yield start
    for connection in connections:
        connection.close()


def workers_by_shard(aggregator: Aggregator) -> dict[int, int]:
    """Shard → worker as ``/shards`` says."""
    return {row["shard"]: row["worker"] for row in aggregator.json("/shards")["shards"]}


def figure(aggregator: Aggregator, name: str) -> float:
    """Sum of the figures of that name on the metrics page."""
    lines = get(aggregator.metrics_url)[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if name in line and line[0] != "#")


@pytest.mark.parametrize("workers", [1, 4])
def test_counters_come_out_as_they_went_in(sink: Sink, wait, start_load, workers: int) -> None:
    with Aggregator(workers, sink.address) as aggregator:
        connection, frames, thread = start_load(aggregator.address, seconds=30, replays=60)
        thread.join(60)
        wait("everything is acked", lambda: connection.acked == connection.sent, 60)
        expected = sent_by_id(connection, frames)
        wait("every window is out", lambda: sum(sink.sums().values()) >= sum(expected.values()), 30)
        assert sink.sums() == expected


def test_one_worker_killed_under_load(sink: Sink, wait, start_load) -> None:
    with Aggregator(3, sink.address) as aggregator:
        connection, frames, thread = start_load(aggregator.address, seconds=12, rate=100_000)
        wait("acks flow", lambda: connection.acked > 100_000)
        owners = workers_by_shard(aggregator)
        victim = aggregator.roles()["worker 1"]
        os.kill(victim, signal.SIGKILL)
        acked = connection.acked
        wait("the others go on", lambda: connection.acked > acked + 100_000, 10)

        def back() -> bool:
            new = aggregator.roles().get("worker 1", victim)
            return new != victim and all(row["workerUp"] for row in aggregator.json("/shards")["shards"])

        wait("a new worker serves the same shards", back)
        served = time.time()
        assert workers_by_shard(aggregator) == owners
        # However long that took: what comes now lies in windows that all three have from their beginning.
        more, more_frames, again = start_load(aggregator.address, seconds=3 * RESOLUTION_S, rate=50_000)
        again.join(60)
        thread.join(60)
        expected = sent_by_id(connection, frames)
        for ident, value in sent_by_id(more, more_frames).items():
            expected[ident] += value
        # The dead worker's are in its journal, and what it had not acknowledged is given to the next one.
        wait("all windows are out, with all values", lambda: sink.sums() == expected, 60)
        after = {
            owners[shard_of(ident)] for ident, points in sink.points.items() if points[-1][2] > served + RESOLUTION_S
        }
        assert after == {0, 1, 2}


def test_one_worker_stopped_for_thirty_seconds_at_full_load(sink: Sink, wait, start_load) -> None:
    with Aggregator(3, sink.address) as aggregator:
        connection, frames, thread = start_load(aggregator.address, seconds=40)
        wait("acks flow", lambda: connection.acked > 100_000)
        owners = workers_by_shard(aggregator)
        stopped = aggregator.roles()["worker 1"]
        stop(stopped)
        try:
            until, last, progress = time.monotonic() + 30, connection.acked, []
            while time.monotonic() < until:
                time.sleep(3)
                progress.append(connection.acked - last)
                last = connection.acked
                memory = aggregator.memory_mib()
                assert sum(memory.values()) < 2500, memory
        finally:
            os.kill(stopped, signal.SIGCONT)
        # The messages of the two others are acked all the time.
        assert min(progress[1:]) > 10_000, progress
        thread.join(60)
        wait("the last windows are out", lambda: time.time() - sink.last_at > 2 * RESOLUTION_S + 3, 60)
        expected, got = sent_by_id(connection, frames), sink.sums()
        wrong = {owners[shard_of(ident)] for ident, value in expected.items() if got.get(ident) != value}
        # What did not fit into the waiting buffer was discarded unacked: of the stopped worker only.
        assert wrong <= {1}
        more, _, again = start_load(aggregator.address, seconds=10, replays=2)
        again.join(20)
        wait("the stopped worker serves again", lambda: more.acked == more.sent)
        assert aggregator.roles()["worker 1"] == stopped


def test_memory_is_bounded_with_a_consumer_that_never_acks(wait, start_load) -> None:
    deaf = Sink(ack=False)
    overlay = {
        "aggregator": {
            "flush": {
                "handlers": [
                    {
                        "dynamicBackend": {
                            "name": "m3msg",
                            "hashType": "murmur32",
                            "producer": {
                                "buffer": {"maxBufferSize": LIMIT, "maxMessageSize": 1 << 18},
                                "writer": {
                                    "topicName": "aggregated_metrics",
                                    "topicServiceOverride": {
                                        "zone": "embedded",
                                        "environment": "namespace/m3db-cluster-name",
                                    },
                                },
                            },
                        }
                    }
                ]
            }
        }
    }
    try:
        with Aggregator(1, deaf.address, overlay) as aggregator:
            connection, _, thread = start_load(aggregator.address, seconds=24, rate=150_000)
            # Each window puts out 2,000 values of about 130 bytes: the buffer is full after four of them, and flushing waits.
            wait("the buffer is nearly full", lambda: figure(aggregator, "byte_buffered") > LIMIT / 2, 40)
            early = sum(aggregator.memory_mib().values())
            thread.join(60)
            late = sum(aggregator.memory_mib().values())
            assert figure(aggregator, "byte_buffered") <= LIMIT
            assert figure(aggregator, "message_dropped") == 0
            wait("nearly all of it is acked", lambda: connection.acked > 0.95 * connection.sent)
            assert late < early + 60, (early, late)
            assert aggregator.json("/health") == {"state": "OK"}
    finally:
        deaf.close()
