"""Batches that workers read where the front has read them."""

import threading
from typing import Any

from tests.aggregator.front.conftest import SHARDS

from aggregator import ipc

LARGE = 200_000
"""Bytes of a batch that is not copied."""


def receive(worker: Any, least: int) -> tuple[list[ipc.Batch], bytes]:
    """Batches until there are so many bytes; none of them is acked."""
    headers, payload = [], b""
    while len(payload) < least:
        header, data = worker.receive()
        if isinstance(header, ipc.Batch):
            headers.append(header)
            payload += data
    return headers, payload


def frames(rig: Any, first: int, nbytes: int) -> bytes:
    each = len(rig.frame(b"metric", 1 << 22))
    return b"".join(rig.frame(b"metric", (1 << 22) + first + k) for k in range(nbytes // each + 1))


def test_large_batches_lie_in_memory_and_small_ones_are_sent(rig: Any) -> None:
    rig.start(1)
    worker = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    small, large = frames(rig, 0, 100), frames(rig, 100, 8 * LARGE)
    client.send(small)
    headers, payload = receive(worker, len(small))
    assert payload == small
    assert all(header.at < 0 for header in headers)
    client.send(large)
    headers, payload = receive(worker, len(large))
    assert payload == large
    assert any(header.at >= 0 for header in headers)
    lying = [(header.at, header.at + sum(header.sizes)) for header in headers if header.at >= 0]
    assert all(one[1] <= two[0] for one, two in zip(sorted(lying), sorted(lying)[1:], strict=False))


def test_a_successor_reads_what_its_predecessor_had_not_acked(rig: Any) -> None:
    rig.start(1)
    old = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    large = frames(rig, 0, 8 * LARGE)
    client.send(large)
    had, payload = receive(old, len(large))
    assert any(header.at >= 0 for header in had)
    rig.say(ipc.WorkerDown(0, 1))
    fresh = rig.up(0, 2, by_hand=True)
    again, payload = receive(fresh, len(large))
    assert again == had
    assert payload == large


def test_what_does_not_fit_into_memory_is_sent_in_its_place(rig: Any) -> None:
    rig.start(1, shared_bytes=2_500_000, batch_bytes=1 << 20, credit_bytes=64 << 20)
    worker = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    large = frames(rig, 0, 40 * LARGE)
    client.send(large)
    headers, payload = receive(worker, len(large))
    assert payload == large
    assert sum(header.at >= 0 for header in headers) == 1
    for header in headers:
        worker.ack(header)
    rig.wait_for(lambda: not rig.stats().gauges["front.unacked-bytes{worker=0}"], "all to be acked")
    # What was acked is used again.
    more = frames(rig, 1 << 18, LARGE)
    client.send(more)
    headers, payload = receive(worker, len(more))
    assert payload == more


def test_with_all_shards_at_one_of_several_workers_reads_fit_into_the_smaller_buffers(rig: Any) -> None:
    rig.start(2, credit_bytes=64 << 20)
    rig.say(ipc.Route(SHARDS, [0] * SHARDS))
    worker = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    large = frames(rig, 0, 80 * LARGE)
    sender = threading.Thread(target=client.send, args=(large,))
    sender.start()
    headers, payload = receive(worker, len(large))
    sender.join()
    assert payload == large
    assert any(header.at >= 0 for header in headers)
    assert max(sum(header.sizes) for header in headers) <= 2 << 20


def test_without_memory_everything_is_sent(rig: Any) -> None:
    rig.start(1, shared_bytes=0)
    worker = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    large = frames(rig, 0, 8 * LARGE)
    client.send(large)
    headers, payload = receive(worker, len(large))
    assert payload == large
    assert all(header.at < 0 for header in headers)
