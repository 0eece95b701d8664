"""The main process's end of the write processes: starts them, asks them, ends them."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from coordinator.config import CoordinatorConfig
from coordinator.config.workers import Shares, shares_of
from coordinator.namespaces import NamespacesNow
from coordinator.sinks.metric_types import MetricTypes
from coordinator.write import Grown, HubDirectStore
from coordinator.write.forwarding import new_identity
from coordinator.write.remembered import Page
from coordinator.writers import told
from coordinator.writers.board import Board
from coordinator.writers.direct import Taker
from coordinator.writers.link import Link, LinkError
from coordinator.writers.options import Sockets, write_configuration, write_options
from coordinator.writers.series import Pages
from m3x.beats import beat
from m3x.config import Places
from m3x.endpoints import bound
from m3x.instrument import Registry
from m3x.log import logger
from m3x.processes import Child, Launch, Zygote

__all__ = ["Fleet", "Owner"]

log = logger(__name__)

_BACKLOG = 2048
_LOOK_S = 1.0
_PATIENCE_S = 2.0
_END_S = 40.0
"""A write process bounds its own end more tightly than this."""
_decode_state = msgspec.msgpack.Decoder(told.State).decode


@dataclass(slots=True)
class Owner:
    """What write processes need of the main process. ``inside_kv``: the KV of the aggregator inside; None: there is none."""

    registry: Registry
    direct: HubDirectStore
    namespaces: NamespacesNow
    inside_kv: Path | None
    types: MetricTypes | None = None
    """Told what senders declare; None: nobody wants to know."""


@dataclass(slots=True)
class _Member:
    """One write process, in its incarnations."""

    name: str
    child: Child
    link: Link | None = None
    """None: it has not said that it is there."""
    state: told.State = field(default_factory=told.State)
    silent: bool = False
    """It did not answer in time."""
    last_code: int | None = None


class Fleet:
    """``workers`` write processes, forked from ``zygote``. Within ``serving``, ``run`` it; ``end`` it before that ends."""

    def __init__(
        self,
        zygote: Zygote,
        run_dir: Path,
        config: CoordinatorConfig,
        data_dir: Path,
        places: Places,
        workers: int,
    ) -> None:
        self.main_shares: Shares = shares_of(config, workers)[0]
        self.sockets = Sockets(run_dir)
        self._config = config
        self._places = places
        self._run_dir = run_dir
        self._data_dir = data_dir.resolve()
        self._identity = new_identity()
        self._board = Board.made(workers, in_use=1 if config.next_worker_at else workers)
        self._listener: socket.socket | None = None
        self._owner: Owner | None = None
        self._ending = False
        self.members = [
            _Member(
                f"writer {index}",
                Child(f"writer {index}", zygote, partial(self._prepare, index), partial(self._gone, index)),
            )
            for index in range(workers)
        ]

    @contextlib.asynccontextmanager
    async def serving(self, address: str, owner: Owner) -> AsyncIterator[int]:
        """Listens at ``address`` for them; yields the port. Raises ``OSError``."""
        self._owner = owner
        write_configuration(self._run_dir, self._config, self._places)
        try:
            with bound(address) as listener:
                listener.listen(_BACKLOG)
                self._listener = listener
                server = await asyncio.start_unix_server(self._linked, self.sockets.link)
                owner.namespaces.follow(self._tell_namespaces)
                async with server:
                    yield listener.getsockname()[1]
                    for member in self.members:
                        if member.link is not None:
                            member.link.close()
        finally:
            self._board.close()

    async def run(self) -> None:
        """Keeps all of them running, until ``end``; cancelling kills them."""
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._look(), name="write processes")
            children = [group.create_task(member.child.run(), name=member.name) for member in self.members]
            await asyncio.wait(children)
            looking.cancel()

    async def end(self) -> None:
        """No more connections are taken, requests in hand are answered, and what the producers hold is handed over."""
        self._ending = True
        assert self._listener is not None
        self._listener.close()
        await asyncio.gather(*(self._end(member) for member in self.members))

    async def _end(self, member: _Member) -> None:
        member.child.stop()
        try:
            if member.link is None:
                raise LinkError("it is not there yet")
            await member.link.ask(told.END, timeout_s=_PATIENCE_S)
        except (LinkError, TimeoutError):
            member.child.kill()
        if not await member.child.ended(_END_S):
            log.error("a write process did not end in time, killing it", process=member.name)
            member.child.kill()
            await member.child.ended(_END_S)

    async def take(self, config: CoordinatorConfig, places: Places) -> None:
        """The configuration has changed: those that run take it now, others when they start. Raises ``ValueError`` if one does not."""
        self._config, self._places = config, places
        write_configuration(self._run_dir, config, places)
        running = [(member, member.link) for member in self.members if member.link is not None]
        answers = await asyncio.gather(
            *(link.ask(told.CONFIGURATION, timeout_s=_PATIENCE_S) for _, link in running), return_exceptions=True
        )
        # One that has ended meanwhile takes it when it is started again.
        silent = [
            member.name
            for (member, link), answer in zip(running, answers, strict=True)
            if isinstance(answer, BaseException) and member.link is link
        ]
        if silent:
            raise ValueError(f"{', '.join(silent)} did not take it: reload again")

    # --- incarnations

    def _prepare(self, index: int, epoch: int) -> Launch:
        assert self._listener is not None
        assert self._owner is not None
        inside_kv = self._owner.inside_kv
        path = write_options(
            told.WorkerOptions(
                index=index,
                workers=len(self.members),
                epoch=epoch,
                run_dir=str(self._run_dir),
                data_dir=str(self._data_dir),
                inside_kv="" if inside_kv is None else str(inside_kv),
                identity=self._identity,
            )
        )
        arguments = ["--options", str(path)]
        return Launch("coordinator.writers", arguments, [self._listener.fileno(), self._board.descriptor])

    def _gone(self, index: int, epoch: int, code: int) -> None:
        """What it had counted stays; what it remembered is gone."""
        member = self.members[index]
        member.last_code = code
        member.silent = False
        member.state = told.State()
        if member.link is not None:
            member.link.close()
            member.link = None
        self._board.clear(index)
        assert self._owner is not None
        self._owner.registry.forget(_source(index, epoch))

    async def _linked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The link of a process that has been started, until it ends."""
        assert self._owner is not None
        source: list[told.Hello] = []

        async def hello(body: bytes) -> bytes:
            said = msgspec.msgpack.decode(body, type=told.Hello)
            member = self.members[said.index]
            if said.epoch == member.child.epoch:
                source.append(said)
                member.link = link
            return self._namespaces()

        async def state(body: bytes) -> bytes:
            if source and self.members[source[0].index].link is link:
                self._take_state(source[0].index, source[0].epoch, body)
            return b""

        taker = Taker(self._owner.direct)
        link = Link(reader, writer, {told.HELLO: hello, told.STATE: state, told.DIRECT: taker.take})
        await link.run()

    # --- namespaces

    def _namespaces(self) -> bytes:
        assert self._owner is not None
        now = self._owner.namespaces
        return msgspec.msgpack.encode(told.ToldNamespaces(now.known, list(now.current)))

    def _tell_namespaces(self) -> None:
        for member in self.members:
            if member.link is not None:
                member.link.tell(told.NAMESPACES, self._namespaces())

    # --- what they say

    async def _look(self) -> None:
        """Asks all of them again and again, so that little is lost of what one has counted that is killed."""
        assert self._owner is not None
        scope = self._owner.registry.scope(self._config.metrics.scope.prefix)
        while True:
            scope.gauge("write_processes_in_use", float(len(self._board.used())))
            await self.refresh()
            await beat(every_s=_LOOK_S)

    async def refresh(self) -> None:
        """Asks all of them how they are."""
        await asyncio.gather(*(self._ask(index) for index in range(len(self.members))))

    async def _ask(self, index: int) -> None:
        member = self.members[index]
        link, epoch = member.link, member.child.epoch
        if link is None or self._ending:
            return
        try:
            body = await link.ask(told.STATE, timeout_s=_PATIENCE_S)
        except TimeoutError:
            member.silent = True
        except LinkError:
            return
        else:
            if member.link is link:
                member.silent = False
                self._take_state(index, epoch, body)

    def _take_state(self, index: int, epoch: int, body: bytes) -> None:
        assert self._owner is not None
        member = self.members[index]
        member.state = _decode_state(body)
        self._owner.registry.take(_source(index, epoch), member.state.figures)
        if self._owner.types is not None:
            for family, help_text, unit in member.state.declared:
                self._owner.types.declare(family, help_text, unit)

    def reasons(self) -> list[str]:
        """Why some of them take no writes, one line each."""
        found = [reason for member in self.members for reason in member.state.reasons]
        if not any(member.link is not None for member in self.members):
            found.append(f"none of the {len(self.members)} write processes is up")
        return list(dict.fromkeys(found))

    def problems(self) -> list[str]:
        """What else they have to say, and which of them are not there."""
        found = [problem for member in self.members for problem in member.state.problems]
        for member in self.members:
            if member.silent:
                found.append(f"{member.name}: process {member.child.pid} does not answer")
            elif member.link is None:
                ended = "" if member.last_code is None else f", after it ended with code {member.last_code}"
                found.append(f"{member.name}: its process is being started{ended}")
        return list(dict.fromkeys(found))

    def notes(self) -> list[str]:
        """What is worth knowing, one line each."""
        return list(dict.fromkeys(note for member in self.members for note in member.state.notes))

    def grown(self) -> list[Grown]:
        """What each of them says of new series."""
        return [member.state.grown for member in self.members]

    def pids(self) -> dict[str, int]:
        """Of each by its name; 0: it does not run."""
        return {member.name: member.child.pid for member in self.members}

    def pages(self) -> list[Pages]:
        """What each of them remembers."""
        return [partial(self._page, member) for member in self.members]

    @staticmethod
    async def _page(member: _Member, after: int) -> Page:
        if member.link is None:
            return Page()
        try:
            return msgspec.msgpack.decode(await member.link.ask(told.SERIES, b"%d" % after, _PATIENCE_S), type=Page)
        except (LinkError, TimeoutError):
            return Page()


def _source(index: int, epoch: int) -> str:
    return f"writer {index}.{epoch}"
