"""The front and the workers of an instance: started, told what to serve, started again, brought to their end.

The fleet knows incarnations and sockets; what the messages mean is its owner's business (``FleetOwner``).
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import zmq

from aggregator import ipc
from aggregator.front.options import FrontOptions
from aggregator.supervisor.flushing.commands import Send
from aggregator.supervisor.processes.channels import Channel
from aggregator.worker.options import WorkerOptions
from m3x.log import logger
from m3x.processes import Child, Launch, Zygote

__all__ = ["Fleet", "FleetOwner", "Routing"]

log = logger(__name__)

_SECOND_NS = 1_000_000_000
_BACKLOG = 1024
"""Connections that may wait to be accepted."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Which worker serves which shard, and the shard counts."""

    num_shards: int
    topic_shards: int
    owned: Mapping[int, ipc.OwnedShard]
    owners: Mapping[int, int]
    """Shard → worker."""

    def of(self, worker: int) -> list[ipc.OwnedShard]:
        """The shards of one worker."""
        return [shard for number, shard in self.owned.items() if self.owners[number] == worker]

    def shards(self, worker: int) -> ipc.Shards:
        """The command that tells a worker its shards."""
        return ipc.Shards(self.num_shards, self.topic_shards, self.of(worker))

    def route(self) -> ipc.Route:
        """The command that tells the front where shards go."""
        return ipc.Route(self.num_shards, [self.owners.get(shard, -1) for shard in range(self.num_shards)])


class FleetOwner(Protocol):
    """Who is told what happens."""

    def worker_started(self, worker: int, epoch: int) -> None:
        """A new incarnation was started; commands may be relayed to it."""

    def worker_gone(self, worker: int, epoch: int) -> None:
        """An incarnation has ended."""

    def front_gone(self) -> None:
        """The front has ended: nothing is taken any more, and commands that were relayed through it may be lost."""

    def front_replaced(self) -> None:
        """A new front runs: commands that were relayed through the old one may be lost."""

    def from_worker(self, worker: int, epoch: int, message: ipc.FromWorker, frames: Sequence[zmq.Frame]) -> None:
        """A message of a worker, ``frames`` without the header."""

    def from_front(self, message: ipc.FromFront) -> None:
        """A message of the front."""


class Fleet:
    """One front, ``len(workers)`` workers, forked from ``zygote``.

    ``listeners`` are bound, and closed when no more connections are taken. Every front gets them: connections that come while there is none
    wait for the next one. Fronts begin with ``front_epoch``: one that an earlier fleet of this instance has had names sockets that may
    still be there.
    """

    def __init__(
        self,
        *,
        zygote: Zygote,
        listeners: Sequence[socket.socket],
        run_dir: Path,
        workers: int,
        routing: Routing,
        owner: FleetOwner,
        front_options: Callable[[int], FrontOptions],
        worker_options: Callable[[int, int, int], WorkerOptions],
        front_epoch: int = 1,
    ) -> None:
        self._listeners = listeners
        self._run_dir = run_dir
        self._owner = owner
        self._routing = routing
        self._front_options = front_options
        self._worker_options = worker_options
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._front_channel: Channel | None = None
        self._channels: dict[int, Channel] = {}
        self._first_front = front_epoch
        self.front = Child("front", zygote, self._prepare_front, self._front_gone, first=front_epoch)
        self.workers = [
            Child(f"worker {i}", zygote, partial(self._prepare_worker, i), partial(self._worker_gone, i))
            for i in range(workers)
        ]
        self.listening = ""
        """Address of the front's listener; empty while there is none."""
        self.ready: set[int] = set()
        """Workers that read their sockets."""

    async def run(self) -> None:
        """Keeps all processes running until ``drain`` and ``stop`` have ended them; cancelling kills them."""
        for listener in self._listeners:
            listener.listen(_BACKLOG)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.front.run(), name="front")
                for child in self.workers:
                    group.create_task(child.run(), name=child.name)
        finally:
            for channel in (*self._channels.values(), *filter(None, [self._front_channel])):
                channel.close()
            self._context.destroy(linger=0)

    # --- commands

    def relay(self, send: Send) -> None:
        """Puts a command into the ordered stream of a worker."""
        self._to_front(ipc.Relay(send.worker, send.epoch, send.command))

    def broadcast(self, command: ipc.Command) -> None:
        """``relay`` to all workers."""
        for worker in self._channels:
            self.relay(Send(worker, self.workers[worker].epoch, command))

    def credit(self, worker: int, epoch: int, nbytes: int, *, forwarded: bool) -> None:
        """Lets a worker send more output of one class."""
        channel = self._channels.get(worker)
        if channel is not None and self.workers[worker].epoch == epoch:
            channel.send(ipc.encode(ipc.OutputCredit(nbytes, forwarded)))

    def reroute(self, routing: Routing) -> None:
        """The placement changed."""
        self._routing = routing
        for worker in self._channels:
            self.tell_shards(worker)
        self._to_front(routing.route())

    def tell_shards(self, worker: int) -> None:
        """Tells a worker which shards it serves."""
        self.relay(Send(worker, self.workers[worker].epoch, self._routing.shards(worker)))

    async def drain(self, timeout_s: float, *, goes_on: bool = False) -> None:
        """Stops listening and reading, waits for outstanding acks; the workers end when they have answered what is left.

        ``goes_on``: another fleet comes, for which new connections wait.
        """
        if not goes_on:
            self._close_listeners()
        self.front.stop()
        for child in self.workers:
            child.stop()
        if self.front.pid:
            self._to_front(ipc.Drain(int(timeout_s * _SECOND_NS)))
        if not await self.front.ended(timeout_s + 2.0):
            log.error("the front did not end in time, killing it")
            self.front.kill()

    async def stop(self, timeout_s: float) -> None:
        """Ends the workers."""
        for channel in self._channels.values():
            channel.send(ipc.encode(ipc.Stop()))
        for child in self.workers:
            if not await child.ended(timeout_s):
                log.error("a worker did not end in time, killing it", process=child.name)
                child.kill()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()

    def _to_front(self, message: ipc.ToFront) -> None:
        if self._front_channel is not None:
            self._front_channel.send(ipc.encode(message))

    # --- incarnations

    def _prepare_front(self, epoch: int) -> Launch:
        address = ipc.front_address(str(self._run_dir), epoch)
        self._front_channel = Channel(self._context, address, self._front_message, partial(self._stuck, self.front))
        for worker, direct in self._channels.items():
            direct.send(ipc.encode(ipc.Attach(epoch)))
            self._announce(worker)
        self._to_front(self._routing.route())
        if epoch > self._first_front:
            self._owner.front_replaced()
        options = self._write(f"front-{epoch}.json", self._front_options(epoch))
        return Launch("aggregator.front", ["--options", options], [listener.fileno() for listener in self._listeners])

    def _front_gone(self, epoch: int, code: int) -> None:
        self.listening = ""
        self._owner.front_gone()
        if self._front_channel is not None:
            self._front_channel.close()
            self._front_channel = None

    def _prepare_worker(self, worker: int, epoch: int) -> Launch:
        front_epoch = max(self.front.epoch, self._first_front)
        address = ipc.worker_address(str(self._run_dir), worker, front_epoch, epoch)
        message, stuck = partial(self._worker_message, worker, epoch), partial(self._stuck, self.workers[worker])
        self._channels[worker] = Channel(self._context, address, message, stuck)
        self._announce(worker)
        self._owner.worker_started(worker, epoch)
        options = self._worker_options(worker, epoch, front_epoch)
        return Launch("aggregator.worker", ["--options", self._write(f"w{worker}-{epoch}.json", options)])

    def _announce(self, worker: int) -> None:
        epoch = self.workers[worker].epoch
        owned = [shard.id for shard in self._routing.of(worker)]
        self._to_front(ipc.WorkerUp(worker, epoch, owned))
        self.tell_shards(worker)

    def _worker_gone(self, worker: int, epoch: int, code: int) -> None:
        self.ready.discard(worker)
        self._channels.pop(worker).close()
        self._to_front(ipc.WorkerDown(worker, epoch))
        self._owner.worker_gone(worker, epoch)

    def _stuck(self, child: Child) -> None:
        log.error_limited("a process does not read its commands: killing it", process=child.name)
        child.kill()

    def _write(self, name: str, options: msgspec.Struct) -> str:
        path = self._run_dir / name
        path.write_bytes(msgspec.json.encode(options))
        os.chmod(path, 0o600)
        return str(path)

    # --- messages

    def _front_message(self, frames: Sequence[zmq.Frame]) -> None:
        try:
            message = ipc.decode_from_front(frames[0].buffer)
            if isinstance(message, ipc.Listening):
                self.listening = message.address
            self._owner.from_front(message)
        except ValueError as error:
            self._broken(self.front, error)

    def _broken(self, child: Child, error: ValueError) -> None:
        """A process that says what it must not say cannot be trusted with samples."""
        log.error(
            "a process sent a message that cannot be understood: killing it", process=child.name, error=str(error)
        )
        child.kill()

    def _worker_message(self, worker: int, epoch: int, frames: Sequence[zmq.Frame]) -> None:
        try:
            message = ipc.decode_from_worker(frames[0].buffer)
            if isinstance(message, ipc.Ready):
                self.ready.add(worker)
            self._owner.from_worker(worker, epoch, message, frames[1:])
        except ValueError as error:
            self._broken(self.workers[worker], error)
