"""What a machine needs for the same bytes at least: a copy, a socket, ZeroMQ between processes, snappy."""

import socket
import tempfile
import time
from collections.abc import Callable

import cramjam
import numpy as np
import zmq

__all__ = ["limits"]

_SECONDS = 0.4
_BLOCK = 1 << 20
_CHUNK = 128 << 10
"""Less than the buffers of a socket hold."""


def limits(body: bytes, samples: int) -> dict[str, float]:
    """CPU microseconds a sample, both ends together, by what is done with ``body``, a compressed request of so many samples."""
    plain = bytes(cramjam.snappy.decompress_raw(body))
    block = np.frombuffer((plain * (_BLOCK // len(plain) + 1))[:_BLOCK], np.uint8)
    of_block = len(plain) / samples / _BLOCK
    target = np.empty(_BLOCK, np.uint8)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            tcp = _cost(lambda: _through(one, other, block.data, target.data))
    with zmq.Context() as context, tempfile.TemporaryDirectory() as folder:
        push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        push.bind(f"ipc://{folder}/s")
        pull.connect(f"ipc://{folder}/s")

        def carry() -> None:
            push.send(block.data, copy=False)
            pull.recv(copy=False)

        ipc = _cost(carry)
        push.close(0)
        pull.close(0)
    return {
        "copy": _cost(lambda: np.copyto(target, block)) * of_block,
        "TCP on loopback": tcp * of_block,
        "ZeroMQ over ipc": ipc * of_block,
        "snappy, compress": _cost(lambda: cramjam.snappy.compress_raw(plain)) / samples,
        "snappy, decompress": _cost(lambda: cramjam.snappy.decompress_raw(body)) / samples,
    }


def _cost(act: Callable[[], object]) -> float:
    """CPU microseconds of this process, all threads, for one time."""
    act()
    began, until, times = time.process_time(), time.monotonic() + _SECONDS, 0
    while time.monotonic() < until:
        act()
        times += 1
    return (time.process_time() - began) / times * 1e6


def _through(one: socket.socket, other: socket.socket, data: memoryview, target: memoryview) -> None:
    for at in range(0, len(data), _CHUNK):
        one.sendall(data[at : at + _CHUNK])
        received = 0
        while received < _CHUNK:
            received += other.recv_into(target[received:_CHUNK])
