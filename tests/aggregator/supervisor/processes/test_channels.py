"""The supervisor's end of a pair: what arrives while something is being sent."""

import asyncio
import time
from pathlib import Path
from typing import Any

import zmq

from aggregator.supervisor.processes.channels import Channel


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
