"""Remote writes that go to other coordinators or stores as well: ``writeForwarding`` (docs/m3/coordinator.md, forwarding).

A request is forwarded once it is understood, before and whatever becomes of it here, and its answer waits for nothing of that. Nothing is
promised: a target that is away longer than its retries, or slower than what comes, loses requests, counted and logged. What is held for a
target is bounded, for each by itself, so that one that is away costs the others nothing.

``Forwarding`` has the targets of a coordinator; ``Forward`` is one request, and knows which of them lack it: these get it when its sender,
told to come again (5xx), has done so, and the others do not get it twice. ``shadow`` chooses for targets that get a part.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import Headers

from coordinator.config.forwarding import ForwardingConfig, ForwardTargetConfig
from coordinator.sinks.prom_remote.answers import Answer, Kind
from coordinator.sinks.prom_remote.credentials import Address
from coordinator.sinks.prom_remote.sender import Endpoint, Sender
from coordinator.write.decoding import Decoded, decompress
from coordinator.write.options import PROM_TYPE, REMOTE_WRITE_2, WriteOptions
from coordinator.write.repeats import Elsewhere, Repeats
from coordinator.write.shadow import Shadow
from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["FORWARDED_BY", "Forward", "Forwarding", "new_identity"]

FORWARDED_BY = "M3-Forwarded-By"
"""Header: the coordinators that a request has come through. M3 knows nothing of it, but hands it on."""
DRAIN_S = 5.0
"""How long the end of the process waits for what is on its way; M3 does not wait."""
_MAX_REQUESTS = 1024
"""Held for a target without ``maxConcurrency``, where M3 has no bound."""
_MAX_CONNECTIONS = 64
"""At a time to a target without ``maxConcurrency``; the rest of what is held waits for one, or to be tried again."""
_MAX_BYTES = 64 << 20
"""Held for a target, in any case; a request alone may be larger."""
_TROUBLED_S = 60.0
"""A target that takes some requests and loses others is in trouble until there has been no loss for so long."""
_MAX_HOPS = 8
_M3_PREFIX = "m3-"
_FINAL = {Kind.REFUSED, Kind.TOO_LARGE}
"""Answers to which sending the same again cannot help."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class _Series:
    """What of a request is needed to choose some of its series."""

    data: NDArray[np.uint8]
    """Decompressed."""
    rows: NDArray[Any]
    """``kernels.SERIES_ROW``."""
    options: WriteOptions


@dataclass(frozen=True, slots=True)
class _Copy:
    """What of a request is needed to send it."""

    body: bytes
    """As it came; what came as Remote Write 2.0 or in zstd, as 1.0 in snappy."""
    headers: Mapping[str, str]
    times_s: NDArray[np.float64]
    """The times of its samples, each once, and how many have it."""
    counts: NDArray[np.int64]
    series: _Series | None = None
    """For shadow targets only: the others must not hold what is so much larger."""

    @property
    def nbytes(self) -> int:
        """What it holds."""
        return len(self.body) + (0 if self.series is None else len(self.series.data))


@dataclass(slots=True, eq=False)
class Forward:
    """One request on its way to all targets."""

    forwarding: "Forwarding"
    body: bytes
    headers: Mapping[str, str]
    options: WriteOptions
    missing: "list[_Target]" = field(default_factory=list)
    """Who neither has it nor will get it by what is on its way."""
    begun: bool = False

    def begin(self, request: Decoded) -> None:
        """Sends it to all that lack it. The columns of ``request`` need not last; its labels are sound."""
        self.begun = True
        targets, self.missing = self.missing, []
        if not targets:
            return
        times, counts = np.unique(request.times, return_counts=True)
        times_s = times.astype(np.float64) * (request.unit_ns / 1e9)
        buf, series = request.buf, request.series
        if self.options.dialect == REMOTE_WRITE_2:
            buf, series = request.as_write_request()
        whole = shadowed = _Copy(self._plain_body(buf), self.headers, times_s, counts)
        if any(target.shadow is not None for target in targets):
            shadowed = replace(whole, series=_Series(buf, series.copy(), self.options))
        for target in targets:
            target.begin(whole if target.shadow is None else shadowed, self)

    def _plain_body(self, buf: NDArray[np.uint8]) -> bytes:
        """What every target understands: 1.0 in snappy. ``buf``: the request as 1.0 where it is none."""
        if self.options.dialect != REMOTE_WRITE_2 and not self.options.encoding:
            return self.body
        data = buf if self.options.dialect == REMOTE_WRITE_2 else decompress(self.body, self.options.encoding)
        return bytes(cramjam.snappy.compress_raw(data.data))

    def answered(self, status: int) -> None:
        """Its sender has been told so."""
        if self.begun:
            self.forwarding.answered(self, status)


class Forwarding:
    """The targets of one coordinator; used from its event loop only. ``scope``: that of remote writes.

    ``identity``: of the coordinator, by which its requests are recognised; empty: a new one. ``parts``: how many processes share its
    limits; ``elsewhere``: the others.
    """

    def __init__(
        self,
        config: ForwardingConfig,
        scope: Scope,
        identity: str = "",
        parts: int = 1,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        figures = _Figures(scope.sub("forward"), scope.sub("forwarding-retry"))
        self._targets = [_Target(target, config, figures, parts) for target in config.targets]
        self._figures = figures
        self._id = identity or new_identity()
        self._remembered = Repeats[Forward](elsewhere)

    def of(self, body: bytes, headers: Headers, options: WriteOptions) -> Forward:
        """A request, to be begun once it is understood. ``headers``: as they came, decoded as Latin-1."""
        if (earlier := self._remembered.get(body, options)) is not None:
            earlier.body = body
            return earlier
        through = [one.strip() for one in headers.get(FORWARDED_BY, "").split(",") if one.strip()]
        targets = list(self._targets)
        if self._id in through or len(through) >= _MAX_HOPS:
            self._figures.forward.count("dropped", len(targets))
            log.error_limited(
                "a remote write went in a circle and is not forwarded again: the targets of writeForwarding lead back here",
                per_second=0.1,
                hops=len(through),
            )
            targets = []
        own = {FORWARDED_BY: ", ".join([*through, self._id])}
        return Forward(self, body, {**_handed_on(headers), **own}, options, targets)

    def answered(self, forward: Forward, status: int) -> None:
        """See ``Forward``."""
        if status >= 500:
            self._remembered.remember(forward.body, forward.options, forward)
            # The same bytes will come again; until then nobody needs them for this.
            forward.body = b""
        else:
            self._remembered.forget(forward.body, forward.options)

    def problems(self) -> list[str]:
        """Targets that do not take what they are sent, one line each."""
        return [line for target in self._targets if (line := target.problem)]

    def share(self, parts: int) -> None:
        """So many processes share its limits from now on."""
        for target in self._targets:
            target.share(parts)

    async def close(self, within_s: float = DRAIN_S) -> None:
        """Waits so long for what is on its way, trying again at once what waits for that, and gives up the rest."""
        await asyncio.gather(*(target.close(within_s) for target in self._targets))


def new_identity() -> str:
    """Of a coordinator, for ``FORWARDED_BY``."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class _Figures:
    """Scopes, of all targets together as in M3."""

    forward: Scope
    retry: Scope


class _Target:
    """One target, and what is held for it."""

    def __init__(self, target: ForwardTargetConfig, config: ForwardingConfig, figures: _Figures, parts: int) -> None:
        self.shadow = None if target.shadow is None else Shadow(target.shadow)
        self._loss, self._lost_s, self._taken_s = "", 0.0, 0.0
        """The last request that was lost, when that was, and when the last one arrived, on the monotonic clock."""
        self._sender = Sender(
            Endpoint(
                Address.parse(target.url),
                method=target.method or "POST",
                headers={_canonical(name): value for name, value in target.headers.items()},
                request_timeout_s=config.timeout_s,
                address_key="url",
                timeout_key="timeout",
            )
        )
        self._retries = 0 if target.no_retry else config.max_retries
        self._counts_retries = not target.no_retry
        self._backoff = config.backoff
        self._concurrency = config.max_concurrency
        self.share(parts)
        self._choosing = asyncio.Lock()
        self._figures = figures
        self._held_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = asyncio.Event()

    def share(self, parts: int) -> None:
        """It has one of so many parts of what all processes may hold and send at once. Requests on their way go on as they are."""
        self._most = max((self._concurrency or _MAX_REQUESTS) // parts, 1)
        self._most_bytes = _MAX_BYTES // parts
        self._connections = asyncio.Semaphore(max((self._concurrency or _MAX_CONNECTIONS) // parts, 1))

    @property
    def problem(self) -> str:
        """Why the last request was lost, until one arrives a while later; empty: none was."""
        if not self._loss or self._taken_s - self._lost_s > _TROUBLED_S:
            return ""
        return f"remote writes are not forwarded to {self._sender.shown}: {self._loss}"

    def begin(self, copy: _Copy, forward: Forward) -> None:
        """Sends a request, in a task of its own; drops it where too much is held."""
        nbytes = copy.nbytes
        full = len(self._tasks) >= self._most or (self._tasks and self._held_bytes + nbytes > self._most_bytes)
        if full or self._ending.is_set():
            self._drop(1, f"{len(self._tasks)} requests with {self._held_bytes} bytes are on their way to it")
            forward.missing.append(self)
            return
        self._held_bytes += nbytes
        task = asyncio.create_task(self._forward(copy, forward), name=f"forward to {self._sender.shown}")
        self._tasks.add(task)

        def ended(_: object) -> None:
            self._tasks.discard(task)
            self._held_bytes -= nbytes

        task.add_done_callback(ended)

    async def close(self, within_s: float) -> None:
        """See ``Forwarding``."""
        self._ending.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=within_s)
            for task in late:
                task.cancel()
            if late:
                self._drop(len(late), "the coordinator ends")
                await asyncio.gather(*late, return_exceptions=True)
        await self._sender.close()

    async def _forward(self, copy: _Copy, forward: Forward) -> None:
        began_s = time.time()
        arrived = False
        try:
            body = await self._body(copy)
            answer = await self._sent(body, copy.headers) if body else Answer(Kind.STORED)
            arrived = answer.kind is Kind.STORED
            for sample_s, times in zip(copy.times_s.tolist(), copy.counts.tolist(), strict=True):
                self._figures.forward.record("latency", began_s - sample_s, times)
            if arrived:
                self._taken_s = time.monotonic()
                self._figures.forward.count("success")
            else:
                self._fail(answer.text)
        except Exception as error:
            # A mistake of ours; what else is to be sent must not wait for it.
            self._fail(f"unexpected {type(error).__name__}: {error}")
        finally:
            if not arrived:
                forward.missing.append(self)

    async def _body(self, copy: _Copy) -> bytes:
        """What to send; empty: nothing, as none of the series is chosen."""
        if self.shadow is None or copy.series is None:
            return copy.body
        series = copy.series
        async with self._choosing:
            chosen = await asyncio.to_thread(self.shadow.choose, series.data.tobytes(), series.rows, series.options)
        figures = self._figures.forward.sub("shadow")
        figures.count("keep", chosen.kept)
        figures.count("drop", chosen.left_out)
        return chosen.body

    async def _sent(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Sends until it has arrived, or trying again cannot help, or is not wanted any more; the last answer."""
        attempt = 0
        while True:
            last = self._ending.is_set()
            async with self._connections:
                answer = await self._sender.post(body, headers)
            attempt += 1
            final = answer.kind in _FINAL
            self._count(attempt, answer, final)
            if answer.kind is Kind.STORED or final:
                return answer
            if last or attempt > self._retries:
                if self._counts_retries:
                    self._figures.retry.count("errors_final")
                return answer
            await self._pause(max(self._backoff.delay(attempt), answer.retry_after_s or 0.0))

    async def _pause(self, seconds: float) -> None:
        """Less where the process ends."""
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            pass

    def _count(self, attempt: int, answer: Answer, final: bool) -> None:
        """M3's figures of its retrier, which knows nothing of targets with ``noRetry``."""
        if not self._counts_retries:
            return
        retry = self._figures.retry
        retry.count("calls" if attempt == 1 else "retries")
        retry.count("attempts")
        if answer.kind is Kind.STORED:
            retry.count("success")
        else:
            retry.tagged(type="not-retryable" if final else "retryable").count("errors")

    def _drop(self, requests: int, why: str) -> None:
        self._figures.forward.count("dropped", requests)
        self._loss, self._lost_s = why, time.monotonic()
        log.error_limited(f"remote writes for {self._sender.shown} are dropped", requests=requests, reason=why)

    def _fail(self, text: str) -> None:
        self._figures.forward.count("errors")
        self._loss, self._lost_s = text, time.monotonic()
        log.error_limited(f"a remote write was not forwarded to {self._sender.shown}", error=text)


def _handed_on(headers: Headers) -> dict[str, str]:
    """The headers that say what a write means: M3's own, the first one of each name, and the type of its series."""
    names = sorted(
        {name for name in headers if name.startswith(_M3_PREFIX)} | ({PROM_TYPE} & {*map(_canonical, headers)})
    )
    return {_canonical(name): headers[name].encode("latin-1").decode(errors="replace") for name in names}


def _canonical(name: str) -> str:
    """The name of a header as Go writes it."""
    return "-".join(part.capitalize() for part in name.split("-"))
