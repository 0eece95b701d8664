"""``/debug``: what helps to find out what a service does, while it does it.

| path | answer |
|---|---|
| ``/debug/stacks`` | where all threads and tasks are, of the service and its children; ``?process=NAME`` of one of them |
| ``/debug/profile`` | collapsed stacks of ``?seconds=10`` of the service or of ``?process=NAME``, looked at ``?hertz=100`` times a second |
| ``/debug/state`` | the state of the service as JSON |
| ``/debug/log-level`` | the level of the log; PUT or POST with ``?level=`` sets it, for its children as well |
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from m3x import log, process
from m3x.diagnosis import sampling
from m3x.diagnosis.stacks import ChildStacks, NoStacksError, own_stacks
from m3x.version import VERSION

__all__ = ["Processes", "debug_routes"]

_log = log.logger(__name__)

Processes = Callable[[], Mapping[str, int]]
"""Names of children and their pids, 0: it does not run."""

_LONGEST_S = 300.0
_MOST_HERTZ = 1000.0


class _UsageError(Exception):
    """A request that cannot be carried out; the message says why."""


def debug_routes(service: str, processes: Processes, state: Callable[[], Mapping[str, Any]]) -> list[BaseRoute]:
    """The routes of a service, which is called ``service`` beside its children; ``state``: what it says of itself, as JSON takes it."""
    started = time.time()
    profiling = asyncio.Lock()

    def pid_of(name: str) -> int:
        """0: the service itself."""
        children = processes()
        if name == service:
            return 0
        if name not in children:
            raise _UsageError(f"there is no process {name!r}; expected one of {', '.join([service, *children])}")
        if not children[name]:
            raise _UsageError(f"{name} is not running")
        return children[name]

    async def stacks(request: Request) -> Response:
        wanted = request.query_params.get("process")
        names = [wanted] if wanted is not None else [service, *(name for name, pid in processes().items() if pid)]
        parts = []
        for name in names:
            pid = pid_of(name)
            try:
                text = await ChildStacks(pid).now() if pid else own_stacks()
            except NoStacksError as error:
                text = f"{error}\n"
            parts.append(f"=== {name}, process {pid or os.getpid()}\n{text}")
        return PlainTextResponse("\n".join(parts))

    async def profile(request: Request) -> Response:
        seconds = _number(request, "seconds", 10.0, _LONGEST_S)
        hertz = _number(request, "hertz", 100.0, _MOST_HERTZ)
        pid = pid_of(request.query_params.get("process", service))
        if profiling.locked():
            return PlainTextResponse("another profile is being taken\n", 409)
        async with profiling:
            try:
                looked = sampling.of_child(pid, seconds, hertz) if pid else sampling.of_this_process(seconds, hertz)
                return PlainTextResponse(sampling.collapsed(await looked))
            except NoStacksError as error:
                raise _UsageError(str(error)) from error

    async def show_state(_request: Request) -> Response:
        common = {
            "service": service,
            "version": VERSION,
            "pid": os.getpid(),
            "startedAt": started,
            "logLevel": log.level(),
            "residentBytes": process.resident_bytes(),
            "cpuSeconds": process.cpu_seconds(),
            "threads": process.threads(),
            "tasks": len(asyncio.all_tasks()),
            "openFiles": len(os.listdir("/proc/self/fd")),
            "mostOpenFiles": process.open_files(),
            "processes": {
                name: {"pid": pid, "residentBytes": process.resident_bytes(pid), "cpuSeconds": process.cpu_seconds(pid)}
                for name, pid in processes().items()
            },
        }
        body = msgspec.json.encode({**common, **state()}, enc_hook=str)
        return Response(msgspec.json.format(body) + b"\n", media_type="application/json")

    async def level(request: Request) -> Response:
        if request.method in ("PUT", "POST"):
            wanted, before = request.query_params.get("level", ""), log.level()
            try:
                log.set_level(wanted)
            except ValueError as error:
                raise _UsageError(str(error)) from error
            _log.warning("log level changed", level=log.level(), before=before)
        return PlainTextResponse(f"{log.level()}\n")

    def answered(handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            try:
                answer: Response = await handler(request)
            except _UsageError as error:
                return PlainTextResponse(f"{error}\n", 400)
            return answer

        return handle

    return [
        Route("/debug/stacks", answered(stacks)),
        Route("/debug/profile", answered(profile)),
        Route("/debug/state", answered(show_state)),
        Route("/debug/log-level", answered(level), methods=["GET", "PUT", "POST"]),
    ]


def _number(request: Request, name: str, default: float, most: float) -> float:
    text = request.query_params.get(name)
    try:
        found = default if text is None else float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= most:
        raise _UsageError(f"{name} must be a number above 0, and {most:g} at most; found {text!r}")
    return found
