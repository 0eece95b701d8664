"""A configuration that is read again while the service runs: on SIGHUP, and on ``POST /-/reload``.

Files are read and checked as at the start; with a problem in them nothing changes. Of the keys that are different each is taken by the part
of the service that has said that it can (``Part``), or named as one that needs a restart: until then, and at every further reload, its
earlier value stays in effect.
"""

import asyncio
import contextlib
import inspect
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from m3x.config import ConfigError, Loaded, Section
from m3x.config.changes import changes, covers, taking
from m3x.instrument import Scope
from m3x.log import logger
from m3x.reloading import look_at_all
from m3x.service_manager import ServiceManager

__all__ = ["NeedsRestartError", "Part", "Reloaded", "Reloads", "lifecycle_routes"]

S = TypeVar("S", bound=Section)

log = logger(__name__)


class NeedsRestartError(Exception):
    """Raised by a part: it takes such changes, but not this one."""


class Reloaded(msgspec.Struct, frozen=True, rename="camel"):
    """What became of a reload."""

    ok: bool
    """Whether the files could be used, and every part took what it can."""
    applied: list[str] = []
    """Keys whose new values are in effect."""
    needs_restart: list[str] = []
    """Keys that are different from what is in effect, and stay so until the service is started again."""
    problems: list[str] = []
    """What is wrong, one line each."""


@dataclass(frozen=True, slots=True)
class Part(Generic[S]):
    """Takes changes of ``keys``, and of what is below them: ``take`` gets the whole configuration as it is to be. It raises ``ValueError``
    or ``NeedsRestartError`` where it cannot, and then nothing of it is in effect."""

    keys: tuple[str, ...]
    take: Callable[[Loaded[S]], Awaitable[None] | None]


class Reloads(Generic[S]):
    """``read`` reads and checks the files, and raises ``ConfigError``. Files that are looked at by themselves now and then, such as
    certificates (``m3x.reloading``), are looked at as well."""

    def __init__(
        self,
        config: S,
        read: Callable[[], Loaded[S]],
        parts: Sequence[Part[S]],
        scope: Scope,
        manager: ServiceManager,
    ) -> None:
        self.config = config
        """What is in effect."""
        self._read = read
        self._parts = parts
        self._scope = scope
        self._manager = manager
        self.needs_restart: list[str] = []
        """Keys that the files have had otherwise since the last reload."""
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[Reloaded]] = set()

    async def reload(self) -> Reloaded:
        """Reads the files again, and takes what can be taken."""
        async with self._one_at_a_time:
            with self._manager.reloading():
                found = await self._reload()
        if found.ok:
            self.needs_restart = found.needs_restart
        self._scope.count("success" if found.ok else "failure")
        self._scope.gauge("last-successful", int(found.ok))
        self._scope.gauge("needs-restart", len(found.needs_restart))
        for problem in found.problems:
            log.error("reload: the configuration cannot be used", problem=problem)
        if found.needs_restart:
            log.warning("reload: these keys are in effect after a restart", keys=found.needs_restart)
        if found.ok:
            log.info("reload: done", applied=found.applied)
        return found

    async def _reload(self) -> Reloaded:
        look_at_all()
        try:
            loaded = await asyncio.to_thread(self._read)
        except ConfigError as error:
            return Reloaded(False, problems=error.problems)
        left = list(changes(self.config, loaded.value))
        applied: list[str] = []
        problems: list[str] = []
        for part in self._parts:
            theirs = [path for path in left if covers(part.keys, path)]
            if not theirs:
                continue
            try:
                wanted = taking(self.config, loaded.value, theirs)
                taken = part.take(Loaded(wanted, loaded.meaningless, loaded.places))
                if inspect.isawaitable(taken):
                    await taken
            except NeedsRestartError as error:
                log.warning(f"reload: {error}", keys=theirs)
                continue
            except ValueError as error:
                problems.append(f"{', '.join(theirs)}: {error}")
            else:
                self.config = wanted
                applied += theirs
            left = [path for path in left if path not in theirs]
        return Reloaded(not problems, applied, left, problems)

    @contextlib.contextmanager
    def hearing(self) -> Iterator[None]:
        """Reloads at SIGHUP within the context."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._begin)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            # What comes as late as this is for the next process.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _begin(self) -> None:
        task = asyncio.get_running_loop().create_task(self.reload(), name="reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def lifecycle_routes(
    name: str, reload: Callable[[], Awaitable[Reloaded]] | None, reasons: Callable[[], list[str]]
) -> list[BaseRoute]:
    """Paths as Prometheus has them: ``/-/healthy`` answers 200, ``/-/ready`` 200, or 503 with ``reasons``; ``POST /-/reload`` (or PUT) 200,
    or 500 with what is wrong, as JSON (``Reloaded``). ``reload`` None: the service has no files of its own."""

    async def healthy(_request: Request) -> Response:
        return PlainTextResponse(f"{name} is healthy\n")

    async def ready(_request: Request) -> Response:
        missing = reasons()
        if missing:
            return PlainTextResponse("".join(f"{line}\n" for line in missing), 503)
        return PlainTextResponse(f"{name} is ready\n")

    async def again(_request: Request) -> Response:
        assert reload is not None
        found = await reload()
        body = msgspec.json.format(msgspec.json.encode(found))
        return Response(body + b"\n", 200 if found.ok else 500, media_type="application/json")

    routes: list[BaseRoute] = [Route("/-/healthy", healthy), Route("/-/ready", ready)]
    if reload is not None:
        routes.append(Route("/-/reload", again, methods=["POST", "PUT"]))
    return routes
