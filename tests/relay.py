"""A TCP relay that holds the bytes of a connection back or breaks it: adversity for clients of real servers."""

import asyncio


class Relay:
    """A TCP relay in front of the server at ``target`` (``host:port``), to whose ``address`` clients connect."""

    def __init__(self, target):
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._gates = set()
        self._tasks = set()
        self._cut = False
        self.held_bytes = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self):
        """No byte of the present connections passes; new ones are served."""
        for gate in self._gates:
            gate.clear()

    def release(self):
        for gate in self._gates:
            gate.set()

    def cut(self):
        """Breaks all connections, and new ones as soon as they are made, until ``mend``."""
        self._cut = True
        for task in self._tasks:
            task.cancel()

    def mend(self):
        self._cut = False

    async def _serve(self, reader, writer):
        if self._cut:
            writer.transport.abort()
            return
        self._tasks.add(asyncio.current_task())
        gate = asyncio.Event()
        gate.set()
        self._gates.add(gate)
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            writers.append(far_writer)
            await asyncio.gather(self._copy(gate, reader, far_writer), self._copy(gate, far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._gates.discard(gate)
            self._tasks.discard(asyncio.current_task())
            for end in writers:
                end.transport.abort()

    async def _copy(self, gate, reader, writer):
        while data := await reader.read(1 << 16):
            if not gate.is_set():
                self.held_bytes += len(data)
            await gate.wait()
            writer.write(data)
            await writer.drain()
        writer.close()
