"""An M3DB node, played: the port, its connections, its faults; ``python -m lab.m3db.node`` runs one as a process of its own."""

import argparse
import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Self

from aiohttp import web

from lab.m3db.answering import Methods, State
from lab.m3db.faults import Fault, Kind
from lab.m3db.journal import Journal
from lab.m3db.judge import Judge
from lab.m3db.namespaces import Namespace
from lab.m3db.reads import Reads
from lab.m3db.series import quoted_id, shard_of
from lab.m3db.storage import Storage
from lab.m3db.wire import Call, Channel, Send, answer, error_frame
from lab.m3db.writes import Crash, Failed, Reply, Scheme, Writer

__all__ = ["ALL", "DEFAULT_NAMESPACES", "Node"]

ALL = "*"
"""Faults of all methods that have none of their own."""
_CHUNK = 1 << 18
_WRONG_ID = 0x40000000
_PROTOCOL = 0xFF
_MOVED_S = 10.0
"""So long after the placement took a shard away writes of it are answered with an error, but are nobody's fault."""
DEFAULT_NAMESPACES = (
    Namespace("default", retention_ns=48 * 3600 * 10**9),
    Namespace("agg10s", retention_ns=12 * 3600 * 10**9, resolution_ns=10 * 10**9),
)


class Node:
    """Listens on loopback inside ``async with``; leaving it raises ``LabError`` if a client sent what it should not.

    ``namespaces``, ``num_shards`` and ``shards`` (None: all) are what the placement and the registry say; all may be changed at any time.
    ``address``: with port 0 a free one. ``storage``: kept over restarts by whoever gives it.
    """

    def __init__(
        self,
        name: str = "node1",
        *,
        namespaces: Iterable[Namespace] = DEFAULT_NAMESPACES,
        num_shards: int = 16,
        shards: Iterable[int] | None = None,
        address: str = "127.0.0.1:0",
        storage: Storage | None = None,
        scheme: Scheme = quoted_id,
        hash_seed: int = 0,
    ) -> None:
        self.name, self.judge = name, Judge(name)
        self.namespaces: dict[str, Namespace] = {one.name: one for one in namespaces}
        self.num_shards, self.hash_seed = num_shards, hash_seed
        self._shards = frozenset(shards) if shards is not None else None
        self._left: dict[int, float] = {}
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.storage = storage or Storage()
        self.clock: Callable[[], int] = time.time_ns
        self.clock_offset_ns = 0
        """Of its clock from ours; negative: it is behind."""
        self._speaks = asyncio.Event()
        self._speaks.set()
        self.crashed: str | None = None
        """Why a real node would have ended; from then on nobody listens."""
        self.state = State()
        self.connections = 0
        """So far."""
        self.faults: dict[str, Fault] = {}
        self.writer = Writer(self.storage, self.namespaces, self.judge, self.now_ns, self._shard_fault, scheme)
        self._methods = Methods(self.writer, Reads(self.storage, self.namespaces, self.judge), self.state, self.judge)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what is told to it

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def shards(self) -> frozenset[int] | None:
        """What the placement gives it; None: all."""
        return self._shards

    def own(self, shards: Iterable[int] | None) -> None:
        """The placement has changed."""
        before = self._shards if self._shards is not None else frozenset(range(self.num_shards))
        self._shards = frozenset(shards) if shards is not None else None
        gone = before - self._shards if self._shards is not None else frozenset()
        self._left = {**self._left, **dict.fromkeys(gone, time.monotonic())}

    def fault(self, method: str, fault: Fault | None) -> None:
        """From now on calls of a method (or ``ALL`` others) fail so; None: they do not."""
        if fault is None:
            self.faults.pop(method, None)
        else:
            self.faults[method] = fault

    def be_silent(self, silent: bool) -> None:
        """Whether connections are accepted, but nothing is read and nothing answered."""
        if silent:
            self._speaks.clear()
        else:
            self._speaks.set()

    async def until_it_speaks(self) -> None:
        """Returns at once unless it is silent."""
        await self._speaks.wait()

    def now_ns(self) -> int:
        """Its clock."""
        return self.clock() + self.clock_offset_ns

    def _shard_fault(self, series_id: bytes) -> str | None:
        shard = shard_of(series_id, self.num_shards, self.hash_seed)
        if self._shards is None or shard in self._shards:
            return None
        if time.monotonic() - self._left.get(shard, float("-inf")) > _MOVED_S:
            self.judge.note(f"shard {shard}, which is not its own")
        return f"not responsible for shard {shard}"

    # --- its port

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self.hang_up()
        if kind is None:
            self.judge.check()

    async def listen(self) -> None:
        """Begins to listen, on the same port as before; does nothing if it does."""
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=_CHUNK)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def hang_up(self) -> None:
        """Does not listen any more, and breaks all connections: the node is gone, what it has stored is not."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def break_connections(self) -> None:
        """All of now; new ones are accepted."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await _Connection(self, writer).run(reader)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    def fault_of(self, call: Call) -> Fault | None:
        """The fault that a call meets; one that has had its times is gone."""
        method = call.method.partition("::")[2]
        key = method if method in self.faults else ALL
        fault = self.faults.get(key)
        if fault is not None and fault.times:
            if fault.times == 1:
                del self.faults[key]
            else:
                self.faults[key] = _once_less(fault)
        return fault

    def carry_out(self, call: Call, fault: Fault | None) -> bytes | list[bytes] | None:
        """What a call is answered, as bytes of an error frame or frames of an answer; None: nothing."""
        try:
            reply = self._methods.answer(call, fault)
        except Failed as failed:
            return error_frame(call.id, failed.code, str(failed))
        except Crash as crash:
            self.crashed = str(crash)
            raise
        return None if reply is None else _frames(call, fault, reply)


class _Connection:
    def __init__(self, node: Node, writer: asyncio.StreamWriter) -> None:
        self._node, self._writer = node, writer
        self._channel = Channel(node.judge, node.address)
        self._held: list[bytes] = []
        self._later: set[asyncio.Task[None]] = set()
        self._speaking = asyncio.Lock()
        """Held by an answer that is not sent at once: bytes of another one must not come between."""

    async def run(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._node.until_it_speaks()
                for event in self._channel.feed(data):
                    if isinstance(event, Call):
                        self._take(event)
                    elif isinstance(event, Send):
                        self._writer.write(event.data)
                    else:
                        await self._writer.drain()
                        return
                await self._writer.drain()
        except Crash:
            await self._node.hang_up()
        finally:
            for task in self._later:
                task.cancel()
            await asyncio.gather(*self._later, return_exceptions=True)

    def _take(self, call: Call) -> None:
        fault = self._node.fault_of(call)
        if fault is None or fault.kind in (Kind.ELEMENTS, Kind.NOT_OK, Kind.BLIND):
            self._answer(call, self._node.carry_out(call, fault))
            return
        self._do_later(self._spoilt(call, fault))

    def _do_later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def _answer(self, call: Call, data: bytes | list[bytes] | None) -> None:
        if data is None:
            return
        self._channel.active.discard(call.id)
        if self._speaking.locked():
            self._do_later(self._send(_joined(data)))
        else:
            self._writer.write(_joined(data))

    async def _send(self, data: bytes) -> None:
        async with self._speaking:
            self._writer.write(data)

    async def _spoilt(self, call: Call, fault: Fault) -> None:
        node, writer, kind = self._node, self._writer, fault.kind
        begun = time.monotonic()
        if kind is Kind.SLOW:
            await asyncio.sleep(fault.delay_s)
        nothing_comes = kind in (Kind.HANG, Kind.FRAME, Kind.CLOSE, Kind.EMPTY_ERROR, Kind.GARBAGE)
        data = None
        if not nothing_comes or fault.applied:
            data = node.carry_out(call, fault)
        if kind is Kind.HANG or (time.monotonic() - begun) * 1000 > call.ttl_ms:
            # When its time is over a node forgets the call.
            await asyncio.sleep(max(call.ttl_ms / 1000 - (time.monotonic() - begun), 0))
            self._channel.active.discard(call.id)
            return
        if kind is Kind.FRAME:
            self._answer(call, error_frame(call.id, fault.code, fault.text))
        elif kind is Kind.EMPTY_ERROR:
            self._answer(call, answer(call, 1, b"\x00"))
        elif kind is Kind.GARBAGE:
            self._answer(call, answer(call, 0, b"\x0c\x00\x00\x7f"))
        elif kind is Kind.REVERSED:
            await self._reversed(call, data, fault.delay_s or 0.05)
        elif kind is Kind.TRICKLE:
            async with self._speaking:
                for byte in _joined(data):
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0)
            self._channel.active.discard(call.id)
        elif kind in (Kind.HALF, Kind.HALF_HANG):
            async with self._speaking:
                whole = _joined(data)
                writer.write(whole[: len(whole) // 2])
                await writer.drain()
                if kind is Kind.HALF_HANG:
                    await asyncio.Event().wait()
        elif kind is not Kind.CLOSE:
            self._answer(call, data)
        await writer.drain()
        if kind in (Kind.CLOSE, Kind.HALF) or (kind is Kind.FRAME and fault.code == _PROTOCOL):
            writer.close()

    async def _reversed(self, call: Call, data: bytes | list[bytes] | None, hold_s: float) -> None:
        self._held.append(_joined(data))
        self._channel.active.discard(call.id)
        if len(self._held) == 1:
            await asyncio.sleep(hold_s)
            held, self._held = self._held, []
            await self._send(b"".join(reversed(held)))


def _joined(data: bytes | list[bytes] | None) -> bytes:
    return data if isinstance(data, bytes) else b"".join(data or ())


def _once_less(fault: Fault) -> Fault:
    return Fault.from_json({**fault.to_json(), "times": fault.times - 1})


def _frames(call: Call, fault: Fault | None, reply: Reply) -> list[bytes]:
    body = reply.body
    kind = fault.kind if fault is not None else None
    if kind is Kind.NOT_OK and call.method.endswith("::health"):
        # The first field of the struct: ok.
        body = body.replace(b"\x02\x00\x01\x01", b"\x02\x00\x01\x00", 1)
    number = call.id ^ _WRONG_ID if kind is Kind.WRONG_ID else call.id
    frames = answer(call, reply.code, body, number=number, **({"limit": 0} if kind is Kind.FRAGMENTS else {}))
    return frames * 2 if kind is Kind.TWICE else frames


def _parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.m3db.node", description="A played M3DB node.")
    parser.add_argument("--listen", default="127.0.0.1:9000", metavar="HOST:PORT")
    parser.add_argument("--id", default="node1", help="its instance id")
    parser.add_argument("--control", default="127.0.0.1:9002", metavar="HOST:PORT", help="the side port")
    parser.add_argument("--shards", type=int, default=16, metavar="N", help="shards of the placement")
    parser.add_argument("--wait", action="store_true", help="does not listen before the side port tells it to")
    parser.add_argument("--data", type=Path, metavar="FILE", help="keeps what is stored there")
    return parser.parse_args(arguments)


async def _run(options: argparse.Namespace) -> None:
    # Only a process has a side port.
    from lab.m3db.control import control_app  # noqa: PLC0415

    node = Node(options.id, num_shards=options.shards, address=options.listen)
    if options.data is not None:
        journal = Journal(options.data)
        journal.load(node.storage)
        node.writer.stored = journal.append
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = web.AppRunner(control_app(node), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    host, _, port = options.control.rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    if not options.wait:
        await node.listen()
    print(f"{options.id}: told on {options.control}, listens on {options.listen}", flush=True)
    await ended.wait()
    await node.hang_up()
    await runner.cleanup()
    for text in node.judge.take():
        print(f"{options.id}: {text}", flush=True)


if __name__ == "__main__":
    asyncio.run(_run(_parse()))
