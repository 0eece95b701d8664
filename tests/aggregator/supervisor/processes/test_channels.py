"""The supervisor's end of a pair: whoever comes first, a peer that never reads, what arrives while something is being sent."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from lab.waiting import until

from aggregator.supervisor.processes.channels import Channel


@pytest.fixture
async def context() -> AsyncIterator["zmq.Context[zmq.Socket[bytes]]"]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


async def test_messages_go_both_ways_whoever_comes_first(context, tmp_path: Path) -> None:
    address, got = f"ipc://{tmp_path}/a", []
    channel = Channel(context, address, lambda frames: got.append([f.bytes for f in frames]), lambda: None)
    for i in range(2500):
        channel.send(b"%d" % i)
    assert channel.waiting > 0
    peer = context.socket(zmq.PAIR)
    peer.connect(address)
    peer.send_multipart([b"head", b"body"])
    received = []

    def drain() -> bool:
        while peer.poll(0):
            received.append(int(peer.recv()))
        return len(received) == 2500

    await until(drain)
    assert received == list(range(2500))
    for i in range(1000):
        peer.send(b"%d" % i)
    await until(lambda: len(got) == 1001)
    assert got[0] == [b"head", b"body"]
    assert channel.waiting == 0
    channel.close()
    peer.close(linger=0)
    channel.send(b"after the end")
    channel.close()


async def test_a_peer_that_never_reads_is_reported_and_memory_stays_bounded(context, tmp_path: Path) -> None:
    stuck = []
    channel = Channel(context, f"ipc://{tmp_path}/b", lambda frames: None, lambda: stuck.append(1))
    for _ in range(10_005):
        channel.send(b"x")
    assert (channel.waiting, len(stuck)) == (10_000, 5)
    channel.close()


class AnswersAtOnce:
    """A socket whose peer has answered each message before the next one is sent."""

    def __init__(self, socket: Any, peer: "zmq.Socket[bytes]") -> None:
        self._socket, self._peer = socket, peer

    def send(self, message: bytes, flags: int) -> None:
        self._socket.send(message, flags)
        assert self._peer.poll(5000)
        self._peer.send(b"answer to " + self._peer.recv())
        time.sleep(0.02)  # Its I/O thread delivers: that is what the next call of send takes notice of.

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


async def test_answers_that_arrive_while_more_is_sent_are_read(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    address = f"ipc://{tmp_path}/pair"
    received: list[bytes] = []
    channel = Channel(context, address, lambda frames: received.append(frames[0].bytes), lambda: None)
    peer = context.socket(zmq.PAIR)
    try:
        for number in range(3):  # Nobody is connected: all of them wait.
            channel.send(b"%d" % number)
        assert channel.waiting == 3
        channel._socket = AnswersAtOnce(channel._socket, peer)  # type: ignore[assignment]
        peer.connect(address)
        async with asyncio.timeout(10):
            while len(received) < 3:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.01)
        assert received == [b"answer to %d" % number for number in range(3)]
    finally:
        channel.close()
        peer.close(linger=0)
        context.term()
