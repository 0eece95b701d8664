"""A TCP relay in front of a server that holds the bytes of its connections back or breaks them: adversity for clients of real servers."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

__all__ = ["Relay", "RelayThread"]

T = TypeVar("T")
_CHUNK = 1 << 16


class Relay:
    """Listens on loopback and passes every connection on to ``target`` (``host:port``); clients connect to ``address``."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._gates: set[asyncio.Event] = set()
        """Of both directions of every connection."""
        self._back: set[asyncio.Event] = set()
        """Those of them for what the target says."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut = False
        self._piece = 0
        self._wait_s = 0.0
        self._through = asyncio.Event()
        self._through.set()
        self._half_open: set[asyncio.Task[None]] = set()
        """Of connections whose target is gone without their knowing."""
        self.held_bytes = 0
        """What came while it was held."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self) -> None:
        """No byte of the present connections passes, but their end does; new ones are served."""
        for gate in self._gates:
            gate.clear()

    def hold_answers(self) -> None:
        """The target gets all that is sent by the present connections, and nothing that it says comes back."""
        for gate in self._back:
            gate.clear()

    def hold_all(self) -> None:
        """Nothing passes any more, nor is anything closed, as in a partitioned network; what was on its way is kept."""
        self._through.clear()
        self.hold()

    def release(self) -> None:
        """Everything passes again, what was held first."""
        self._through.set()
        for gate in self._gates:
            gate.set()

    def cut(self) -> None:
        """Breaks all connections, and new ones as soon as they are made, until ``mend``."""
        self._cut = True
        for task in self._tasks:
            task.cancel()

    def mend(self) -> None:
        """Connections are served again."""
        self._cut = False

    def split(self, size: int, wait_s: float = 0.0) -> None:
        """From now on at most ``size`` bytes pass at a time, each piece after ``wait_s``; 0: as they come."""
        self._piece, self._wait_s = size, wait_s

    def half_open(self) -> None:
        """The target loses the present connections; who has made them is told nothing, and what it sends is lost, until ``reset``."""
        self._half_open = set(self._tasks)
        for task in self._half_open:
            task.cancel()

    def reset(self) -> None:
        """Connections that are half open end as by a peer that knows nothing of them."""
        for task in self._half_open & self._tasks:
            task.cancel()
        self._half_open = set()

    async def flood(self, connections: int, data: bytes) -> int:
        """Sends ``data`` to the target over connections of its own, all at once; how many the target has ended by itself within 10 s."""
        return sum(await asyncio.gather(*(self._flood(data) for _ in range(connections))))

    async def _flood(self, data: bytes) -> bool:
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    writer.write(data)
                    await writer.drain()
                    while await reader.read(_CHUNK):
                        pass
                finally:
                    writer.transport.abort()
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        forth, back = asyncio.Event(), asyncio.Event()
        forth.set()
        back.set()
        writers = [writer]
        try:
            await self._through.wait()
            self._gates |= {forth, back}
            self._back.add(back)
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            writers.append(far_writer)
            await asyncio.gather(self._copy(forth, reader, far_writer), self._copy(back, far_reader, writer))
        except OSError:
            pass
        except asyncio.CancelledError:
            if task in self._half_open:
                _break(far_writer)
                await _swallow(reader)
                _break(writer)
        finally:
            self._gates -= {forth, back}
            self._back.discard(back)
            self._tasks.discard(task)
            for end in writers:
                end.transport.abort()

    async def _copy(self, gate: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(self._piece or _CHUNK):
            if self._wait_s:
                await asyncio.sleep(self._wait_s)
            if not gate.is_set():
                self.held_bytes += len(data)
            await gate.wait()
            writer.write(data)
            await writer.drain()
        await self._through.wait()
        writer.close()


def _break(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with a reset, not in order."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _swallow(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        while await reader.read(_CHUNK):
            pass


class RelayThread:
    """A ``Relay`` that runs in a thread of its own, for callers without an event loop."""

    def __init__(self, target: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()
        self._relay = self._do(self._open(target))
        self.address, self.port = self._relay.address, self._relay.port

    def hold_answers(self) -> None:
        """See ``Relay``."""
        self._do(_call(self._relay.hold_answers))

    def interrupt(self) -> None:
        """Breaks all connections; new ones are served."""
        self.cut()
        self.mend()

    def cut(self) -> None:
        """See ``Relay``."""
        self._do(_call(self._relay.cut))

    def mend(self) -> None:
        """See ``Relay``."""
        self._do(_call(self._relay.mend))

    def split(self, size: int, wait_s: float = 0.0) -> None:
        """See ``Relay``."""
        self._do(_call(lambda: self._relay.split(size, wait_s)))

    def half_open(self) -> None:
        """See ``Relay``."""
        self._do(_call(self._relay.half_open))

    def reset(self) -> None:
        """See ``Relay``."""
        self._do(_call(self._relay.reset))

    def flood(self, connections: int, data: bytes) -> int:
        """See ``Relay``."""
        return self._do(self._relay.flood(connections, data), 30)

    def hold_all(self) -> None:
        """See ``Relay``."""
        self._do(_call(self._relay.hold_all))

    def release(self) -> None:
        """See ``Relay``."""
        self._do(_call(self._relay.release))

    def close(self) -> None:
        """Ends all connections."""
        self._do(self._relay.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T], timeout_s: float = 10) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    @staticmethod
    async def _open(target: str) -> Relay:
        return await Relay(target).__aenter__()


async def _call(work: Callable[[], None]) -> None:
    work()
