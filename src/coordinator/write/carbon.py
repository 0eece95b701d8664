"""The carbon line protocol over TCP (docs/m3/coordinator.md, carbon).

``CarbonIngester`` is the core: bytes in, batches out. ``CarbonServer`` is the shell: it owns the listener. A bad line is counted by
reason and skipped; the connection and all other lines go on. While messages cannot be taken, connections are not read: TCP holds
the senders back.
"""

import asyncio
import contextlib
import functools
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coordinator.downsample import Downsampler, TemplateSpec
from coordinator.not_kept import NotKept, Reason
from coordinator.sinks.values import Destination, TimeUnit
from coordinator.write import kernels
from coordinator.write.batches import SECOND_NS, Columns, Encoded, Encoder, Preparation, pieces
from coordinator.write.carbon_dry_run import kept_lines
from coordinator.write.carbon_line import CarbonLineError, parse_line
from coordinator.write.carbon_rules import CarbonRule, clean_path, matching, tags_of
from coordinator.write.direct import SCHEME_TAG, DirectStore, DirectWriteError, one_destination
from coordinator.write.door import Door
from coordinator.write.series_cache import Prepared, SeriesCache
from coordinator.write.sink import MessageSink, RefusedError
from m3metrics.errors import IdError
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3x.endpoints import accepted_from, bound
from m3x.gate import Accepting, Gate
from m3x.instrument import Scope
from m3x.log import logger
from m3x.tls import TLS_BYTE, Refusal, ServerTLS

MAX_LINE_BYTES = 256 << 10
CONTEXT = 1
"""Of carbon paths in the series cache."""


class _DirectSample(NamedTuple):
    """A sample for storage itself."""

    line: int
    series_id: bytes
    """Encoded tags."""
    time_ns: int
    value: float


_Direct = dict[StoragePolicy, list[_DirectSample]]
"""Samples of lines (numbered over those that could be read) for storage."""

_READ_BYTES = 64 << 10
_SHOWN_BYTES = 200
"""Of a line, in the log."""
_LINES = 4096
_PIECES = 8
"""A batch of so many times less than the buffer is taken whenever the sink is ready for it."""
_MAX_SECONDS = (1 << 63) // 1_000_000_000
"""Times beyond wrap around in nanoseconds; storage would refuse them."""

log = logger(__name__)


class _Fate(IntEnum):
    """What became of a line that could be read; one that goes several ways keeps the largest."""

    UNMATCHED = 0
    """No rule is for it."""
    TAKEN = 1
    LOST = 2
    """Some of what the rules ask for could not be had."""
    REJECTED = 3
    """Counted and logged already."""


class CarbonIngester:
    """Lines → batches. One per process; used from its event loop only."""

    def __init__(
        self,
        rules: Sequence[CarbonRule] | None,
        downsampler: Downsampler,
        cache: SeriesCache,
        sink: MessageSink | None,
        scope: Scope,
        *,
        cleanup: bool = False,
        direct: DirectStore | None = None,
        door: Door | None = None,
    ) -> None:
        """``rules`` None: they are not known yet, and lines wait until they are set."""
        self._downsampler = downsampler
        self._cache = cache
        self._sink = sink
        self._scope = scope
        self._cleanup = cleanup
        self._not_kept = NotKept(scope)
        self._encoder = Encoder(cache, sink.largest_message, door=door) if sink is not None else Encoder(cache)
        self._storage = direct
        self._has_rules = asyncio.Event()
        if rules is not None:
            self.set_rules(rules)
        self._path_at, self._path_size = np.empty(_LINES, np.uint32), np.empty(_LINES, np.uint32)
        self._values, self._times = np.empty(_LINES, np.float64), np.empty(_LINES, np.int64)
        self._odd, self._odd_end = np.empty(_LINES, np.int64), np.empty(_LINES, np.int64)
        self._series = np.zeros(_LINES, kernels.SERIES_ROW)
        self._contexts = np.full(_LINES, CONTEXT << 16, np.uint64)

    def set_rules(self, rules: Sequence[CarbonRule]) -> None:
        """These are matched from now on."""
        self._rules = rules
        self._direct = self._storage if any(rule.metadatas is None for rule in rules) else None
        # What is remembered of paths is of other rules.
        self._cache.expect(self._downsampler.advance(time.time_ns()))
        self._has_rules.set()

    async def ingest(self, data: NDArray[np.uint8]) -> int:
        """Takes all complete lines of ``data`` (uint8, writable); returns how many bytes they are. Waits while nothing can be sent."""
        at = 0
        while True:
            num_shards = await self._admit(2 * len(data))
            lines, odd, end = kernels.carbon_lines(
                data, at, len(data), self._path_at, self._path_size, self._values, self._times, self._odd, self._odd_end
            )
            if lines == 0:
                return at
            at = int(end)
            fates, encoded, direct = self._take(data, lines, odd, num_shards)
            await self._send(encoded, self._series[: len(fates)], fates)
            for policy, series in direct.items():
                await self._write_direct(policy, series, fates)
            for name, fate in (("success", _Fate.TAKEN), ("error", _Fate.LOST), ("unmatched", _Fate.UNMATCHED)):
                if number := int((fates == fate).sum()):
                    self._scope.count(name, number)
            self._not_kept.count(Reason.NO_RULE, int((fates == _Fate.UNMATCHED).sum()))

    async def _admit(self, nbytes: int) -> int:
        """The shard count, as soon as messages are taken."""
        await self._has_rules.wait()
        if self._sink is None:
            return 1
        while True:
            num_shards = self._sink.ready(nbytes)
            if num_shards is not None:
                return num_shards
            try:
                return await self._sink.admit(nbytes)
            except RefusedError as refusal:
                log.warning_limited("carbon waits: nothing can be sent", per_second=0.1, reason=refusal.reason)
                await asyncio.sleep(min(1.0, refusal.retry_after_s))

    def _take(
        self, data: NDArray[np.uint8], lines: int, odd: int, num_shards: int
    ) -> tuple[NDArray[np.uint8], Encoded, _Direct]:
        """The lines in the columns: a ``_Fate`` for each that can be read, their messages, and what goes to storage directly."""
        keep = self._parsed(data, lines, odd)
        rows = np.flatnonzero(keep)
        good = len(rows)
        path_at, path_size = self._path_at[:lines][keep], self._path_size[:lines][keep]
        series = self._series[:good]
        series["sample_from"], series["samples"] = rows, 1
        bad: dict[int, str] = {}

        def path_of(row: int) -> bytes:
            begin = int(path_at[row])
            return data[begin : begin + int(path_size[row])].tobytes()

        def make(row: int) -> Prepared:
            try:
                return self.specs_of(path_of(row))
            except ValueError as error:
                bad[row] = str(error)
                return None

        columns = Columns(
            data,
            path_at,
            path_size,
            self._contexts[:good],
            series,
            self._times[:lines],
            SECOND_NS,
            self._values[:lines],
        )
        encoded = self._encoder.encode(columns, Preparation(make), num_shards)
        fates = np.where(encoded.count > 0, np.uint8(_Fate.TAKEN), np.uint8(_Fate.UNMATCHED))
        if encoded.refused.samples:
            fates[encoded.messages(series["samples"]) < encoded.count] = _Fate.LOST
            for why, number in encoded.refused.not_sent.items():
                self._not_kept.count(why, number)
            log.warning_limited("carbon lines refused", lines=encoded.refused.samples, last=encoded.refused.last)
        for reason, texts in (("bad_path", bad), ("too_large", encoded.too_large)):
            for row, text in texts.items():
                fates[row] = _Fate.REJECTED
                self.reject(reason, text, path_of(row))
        direct = self._direct_of(data, path_at, path_size, rows, fates) if self._direct is not None else {}
        unmatched = np.flatnonzero(fates == _Fate.UNMATCHED)
        if len(unmatched):
            last = path_of(int(unmatched[-1]))[:_SHOWN_BYTES].decode(errors="replace")
            log.info_limited("carbon lines match no rule", per_second=1 / 60, lines=len(unmatched), last=last)
        return fates, encoded, direct

    def _parsed(self, data: NDArray[np.uint8], lines: int, odd: int) -> NDArray[np.bool_]:
        """Which lines can be read, after the plain parser has seen those that the compiled one left."""
        keep = np.ones(lines, np.bool_)
        for k in range(odd):
            row = int(self._odd[k])
            try:
                begin = int(self._path_at[row])
                line = data[begin : int(self._odd_end[k])].tobytes()
                path, self._values[row], self._times[row] = parse_line(line)
                self._path_at[row], self._path_size[row] = begin + line.index(path), len(path)
            except CarbonLineError as error:
                self.reject(error.reason, str(error), line)
                keep[row] = False
        return keep

    async def _send(self, encoded: Encoded, series: NDArray[Any], fates: NDArray[np.uint8]) -> None:
        """Gives the messages to the aggregators, in pieces that find room however small the buffer is; waits for it."""
        rows = np.repeat(np.arange(len(fates)), encoded.messages(series["samples"]))
        for batch in encoded.batches:
            assert self._sink is not None
            for piece, part in pieces(batch, self._sink.largest_batch // _PIECES):
                await self._admit(piece.size_bytes)
                if not self._sink.produce(piece):
                    fates[rows[part]] = _Fate.LOST
                    self._not_kept.count(Reason.BUFFER_FULL, len(piece))
                    log.error_limited("carbon lines lost", reason=Reason.BUFFER_FULL.text, messages=len(piece))
            rows = rows[len(batch) :]

    def reject(self, reason: str, text: str, line: bytes) -> None:
        """Counts a line that is skipped, and logs why; one of each ``reason`` a second."""
        self._scope.tagged(reason=reason).count("malformed")
        log.warning_limited(
            f"carbon line skipped: {reason}", reason=text, line=line[:_SHOWN_BYTES].decode(errors="replace")
        )

    def _not_stored(self, reason: Reason, path: bytes, why: str) -> None:
        """Counts a line that cannot be written to storage, and logs it."""
        self._not_kept.count(reason, 1)
        log.warning_limited(
            f"carbon line not stored: {reason.value}", reason=why, path=path[:_SHOWN_BYTES].decode(errors="replace")
        )

    def specs_of(self, path: bytes) -> list[TemplateSpec] | Reason:
        """What the aggregators get for a path by the rules that match. Raises ``ValueError`` for a path that makes no tags."""
        if self._cleanup:
            path = clean_path(path)
        tags = [*tags_of(path), SCHEME_TAG]
        matching = self._matching(path)
        if not matching:
            return Reason.NO_RULE
        wanted = [rule.metadatas for rule in matching if rule.metadatas is not None]
        return list(self._downsampler.append(tags, metadatas=wanted).specs)

    def kept_lines(self, path: bytes) -> list[str]:
        """What becomes of a path by the rules in effect, for dry runs of others."""
        return kept_lines(self._rules, path, cleanup=self._cleanup)

    def _matching(self, path: bytes) -> list[CarbonRule]:
        return matching(self._rules, path)

    def _direct_of(
        self,
        data: NDArray[np.uint8],
        path_at: NDArray[Any],
        path_size: NDArray[Any],
        rows: NDArray[np.int64],
        fates: NDArray[np.uint8],
    ) -> _Direct:
        """Samples of rules without aggregation, by policy."""
        result: _Direct = {}
        for line, (at, size, row) in enumerate(zip(path_at, path_size, rows, strict=True)):
            if fates[line] == _Fate.REJECTED:
                continue
            path = data[int(at) : int(at) + int(size)].tobytes()
            if self._cleanup:
                path = clean_path(path)
            policies = [p for rule in self._matching(path) if rule.metadatas is None for p in rule.policies]
            if not policies:
                continue
            try:
                series_id = encode_tags([*tags_of(path), SCHEME_TAG])
            except (ValueError, IdError) as error:
                fates[line] = max(fates[line], _Fate.LOST)
                self._not_stored(Reason.INVALID_LABELS, path, str(error))
                continue
            seconds = int(self._times[row])
            if abs(seconds) > _MAX_SECONDS:
                fates[line] = max(fates[line], _Fate.LOST)
                self._not_stored(Reason.OUTSIDE_RETENTION, path, f"its time is {seconds} Unix seconds")
                continue
            fates[line] = max(fates[line], _Fate.TAKEN)
            one = _DirectSample(line, series_id, seconds * SECOND_NS, float(self._values[row]))
            for policy in policies:
                result.setdefault(policy, []).append(one)
        return result

    async def _write_direct(
        self, policy: StoragePolicy, samples: list[_DirectSample], fates: NDArray[np.uint8]
    ) -> None:
        assert self._direct is not None
        lines = np.array([one.line for one in samples], np.int64)
        table = self._direct.table
        series = np.array([table.number(one.series_id) for one in samples], np.uint32)
        times = np.array([one.time_ns for one in samples], np.int64)
        destination = Destination(policy, TimeUnit.SECONDS)
        batch = one_destination(table, series, times, np.array([one.value for one in samples], np.float64), destination)
        try:
            # While there is no room nothing more is read: the sender is held, as where nothing can be sent.
            refused = await self._direct.write(batch, patient=True)
        except DirectWriteError as error:
            fates[lines] = _Fate.LOST
            self._not_kept.count(Reason.STORAGE_FAILED, len(samples))
            log.error_limited("carbon lines could not be stored", lines=len(samples), error=str(error))
            return
        if refused:
            fates[lines[[sample.row for sample in refused]]] = _Fate.LOST
            for sample in refused:
                self._not_kept.count(sample.reason, 1)
            log.warning_limited("carbon lines refused by storage", lines=len(refused), last=refused[-1].text)


class CarbonServer:
    """The listener."""

    def __init__(self, ingester: CarbonIngester, scope: Scope) -> None:
        self._ingester = ingester
        self._scope = scope
        self._connections: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serve(self, host: str, port: int, tls: ServerTLS | None = None) -> AsyncIterator[int]:
        """Listens until the context ends; yields the bound port. Raises ``OSError`` naming the address."""
        gate = Gate("carbon", self._scope, tls)
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(
                asyncio.StreamReader(_READ_BYTES, loop), functools.partial(self._connected, gate), loop
            )

        try:
            listener = bound(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} (carbon)") from error
        own_port: int = listener.getsockname()[1]
        accepting = Accepting(listener, protocol, gate)
        accepting.start("carbon listener")
        try:
            yield own_port
        finally:
            await accepting.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._scope.gauge("connections", len(self._connections))
        try:
            await self._read(reader, gate, writer)
        except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
            # The sender has gone or sends no TLS any more, or we are ending: either way only this connection is over.
            log.debug("carbon connection ended early")
        finally:
            self._connections.discard(task)
            self._scope.gauge("connections", len(self._connections))
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, gate: Gate, writer: asyncio.StreamWriter) -> None:
        rest = b""
        skipping = begun = False
        while data := await reader.read(_READ_BYTES):
            if not begun and gate.tls is None and data[0] == TLS_BYTE:
                gate.refused(Refusal.TLS_ON_PLAIN_PORT, accepted_from(writer.get_extra_info("peername")))
                return
            begun = True
            if skipping:
                _, newline, data = data.partition(b"\n")
                if not newline:
                    continue
                skipping = False
            rest = await self._feed(rest + data)
            if len(rest) > MAX_LINE_BYTES:
                self._ingester.reject("too_long", f"line is longer than {MAX_LINE_BYTES} bytes", rest)
                rest, skipping = b"", True
        if rest:
            await self._feed(rest + b"\n")

    async def _feed(self, data: bytes) -> bytes:
        """Ingests the complete lines; returns the rest."""
        taken = await self._ingester.ingest(np.frombuffer(bytearray(data), np.uint8))
        return data[taken:]
