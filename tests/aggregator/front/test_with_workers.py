"""Front and real workers together: what goes in over m3msg comes out of the windows, nothing lost, nothing twice."""

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from aggregator import ipc
from aggregator.lists import KIND_STANDARD, ListId
from m3metrics.codec import decode_aggregated
from m3x.clock import wall_ns

SECOND = 1_000_000_000


def flush(rig: Any, worker: Any, number: int, target_ns: int) -> Counter[bytes]:
    """Flushes a worker's standard 10 s lists up to ``target_ns``; sums by id."""
    bounds = [ipc.ShardBounds([], target_ns, 0, 2**62)]
    command = ipc.Flush(number, ListId(KIND_STANDARD, 10 * SECOND), True, bounds)
    rig.say(ipc.Relay(worker.worker, worker.epoch, command))

    def parts() -> list[Any]:
        return [entry for entry in worker.heard(ipc.Flushed) if entry[0].id == number]

    rig.wait_for(lambda: parts() and parts()[-1][0].last, "the flush")
    sums: Counter[bytes] = Counter()
    for _, frames in parts():
        if frames:
            ends = np.frombuffer(frames[1], np.int64).tolist()
            for start, end in pairwise(ends):
                metric = decode_aggregated(frames[0][start:end])
                sums[metric.id] += int(metric.value)
    return sums


@pytest.mark.parametrize("workers", [1, 4])
def test_every_acked_counter_is_in_the_windows(rig: Any, workers: int) -> None:
    rig.start(workers, batch_bytes=20_000)
    ends = [rig.up(worker, worker + 1, real=True) for worker in range(workers)]
    clients = [rig.connect() for _ in range(2)]
    rounds, each = 5, 2000
    pick = random.Random(5)
    sent: Counter[bytes] = Counter()
    numbers = 0
    for _ in range(rounds):
        for client in clients:
            names = [b"counter-%d" % pick.randrange(500) for _ in range(each)]
            sent.update(names)
            client.send(*(rig.frame(name, numbers + k) for k, name in enumerate(names)))
            numbers += each
    for client in clients:
        assert len(client.acks(rounds * each)) == rounds * each
    early, total = Counter[bytes](), Counter[bytes]()
    for worker in ends:
        rig.wait_for(lambda worker=worker: worker.heard(ipc.Lists), "new lists")
        early += flush(rig, worker, 1, wall_ns() - 60 * SECOND)
        sums = flush(rig, worker, 2, wall_ns() + 60 * SECOND)
        assert {rig.owner(name) for name in sums} == {worker.worker}
        total += sums
        assert not flush(rig, worker, 3, wall_ns() + 60 * SECOND)
    assert not early
    assert total == sent
    clients[0].send(rig.frame(b"", 1, value=b"\xff"))
    clients[0].acks(rounds * each + 1)
    rig.say(ipc.Drain(10 * SECOND))
    assert rig.front.wait(30) == 0
    assert [worker.process.wait(30) for worker in ends] == [0] * workers
