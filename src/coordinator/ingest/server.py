"""The ingest server: aggregated values over m3msg into the store (reference/coordinator.md §11, m3msg.md §21).

What is acked, and when: a value whose write is committed; a value for a blackholed policy; a value that storage refuses for good
(outside of retention). Everything else stays unacked, so that the aggregator sends it again until it gives up: bytes that are no
``AggregatedMetric``, ids that are no tag set, policies without a namespace, and whatever a failing store did not take after the
retries. All of it is counted by reason.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.ingest.translate import Intake, Translator, Verdict
from coordinator.store import Refusal, StoreError, WriteBatch, Written
from m3metrics.policy import StoragePolicy
from m3msg.consumer import ConsumerOptions, ConsumerServer, ReceivedBatch
from m3x.config import parse_address
from m3x.instrument import Scope
from m3x.log import logger
from m3x.retry import Backoff

__all__ = ["IngestOptions", "IngestServer", "Ingester", "Sink"]

_log = logger(__name__)

_NOT_WRITTEN = {
    Refusal.BAD_ID: "bad-id",
    Refusal.OUTSIDE_RETENTION: "outside-retention",
    Refusal.TOO_MANY_SERIES: "too-many-series",
}


class Sink(Protocol):
    """What is needed of a store."""

    def policy_index(self, window_ns: int, retention_ns: int) -> int:
        """Index of the namespace with exactly that window and retention, or -1."""

    async def write(self, batch: WriteBatch) -> Written:
        """Returns after the commit. Raises ``StoreError``."""


class IngestOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``ingest:`` of the configuration, as far as it has a meaning here."""

    retry: Backoff = Backoff()
    """Between attempts to write a batch."""
    max_retries: int = 2
    retry_forever: bool = False
    blackhole_policies: tuple[StoragePolicy, ...] = ()
    consumer: ConsumerOptions = ConsumerOptions()
    keep_alive_ns: int = 10_000_000_000


class Ingester:
    """Writes batches and acks them; ``policies`` are the namespaces that may be written."""

    def __init__(self, store: Sink, policies: Sequence[StoragePolicy], options: IngestOptions, scope: Scope) -> None:
        self._store = store
        self._options = options
        self._scope = scope
        writable = {(policy.window_ns, policy.retention_ns) for policy in policies}

        def policy_index(window_ns: int, retention_ns: int) -> int:
            return store.policy_index(window_ns, retention_ns) if (window_ns, retention_ns) in writable else -1

        self._translator = Translator(policy_index, options.blackhole_policies)

    async def handle(self, batch: ReceivedBatch) -> None:
        """The handler of the m3msg server."""
        starts = batch.rows["value_at"].astype(np.int64)
        ends = starts + batch.rows["value_size"]
        batch.ack(await self.ingest(batch.buffer, starts, ends, batch.peer))

    async def ingest(
        self, buf: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], peer: str = ""
    ) -> NDArray[np.bool_]:
        """Writes the messages ``buf[starts[i]:ends[i]]``; which of them are to be acked. Never raises for what is in them."""
        intake = self._translator.translate(buf, starts, ends)
        self._count(intake, peer)
        acked: NDArray[np.bool_] = intake.verdicts == Verdict.BLACKHOLE
        if len(intake.rows):
            written = await self._write(intake.batch)
            if written is None:
                self._scope.tagged(error_type="internal_error").count("ingest-error", len(intake.rows))
            else:
                acked[intake.rows] = self._judge(written, peer)
        return acked

    async def _write(self, batch: WriteBatch) -> Written | None:
        """None: it failed after all retries."""
        attempt = 0
        while True:
            try:
                return await self._store.write(batch)
            except StoreError as error:
                attempt += 1
                if attempt > self._options.max_retries and not self._options.retry_forever:
                    self._scope.tagged(reason="storage").count("ingest-refused", len(batch.id_at))
                    _log.error_limited(
                        "values could not be stored; they stay unacked and will be sent again",
                        values=len(batch.id_at),
                        attempts=attempt,
                        error=str(error),
                    )
                    return None
                await asyncio.sleep(self._options.retry.delay(attempt))

    def _judge(self, written: Written, peer: str) -> NDArray[np.bool_]:
        """Which rows of a committed batch are acked."""
        refusals = written.refusals
        success: NDArray[np.bool_] = refusals == Refusal.WRITTEN
        if success.all():
            self._scope.count("ingest-success", len(success))
            return success
        final: NDArray[np.bool_] = refusals == Refusal.OUTSIDE_RETENTION
        self._scope.count("ingest-success", int(success.sum()))
        self._scope.tagged(error_type="non_retryable_error").count("ingest-error", int(final.sum()))
        self._scope.tagged(error_type="internal_error").count("ingest-error", int((~(success | final)).sum()))
        for code, reason in _NOT_WRITTEN.items():
            self._scope.tagged(reason=reason).count("ingest-refused", int((refusals == code).sum()))
        if written.errors:
            _log.warning_limited(
                "values with ids that are no tag set are not stored, nor acked",
                peer=peer,
                count=len(written.errors),
                first=written.errors[0][1],
            )
        if final.any():
            _log.warning_limited(
                "values outside of their policy's retention are acked and not stored", peer=peer, count=int(final.sum())
            )
        if (refusals == Refusal.TOO_MANY_SERIES).any():
            _log.error_limited("values of new series are not stored: the store has as many series as it may", peer=peer)
        return success | final

    def _count(self, intake: Intake, peer: str) -> None:
        verdicts, metric = intake.verdicts, self._scope.sub("metric")
        undecodable = int((verdicts == Verdict.DECODE_ERROR).sum())
        metric.count("accepted", len(verdicts) - undecodable)
        if undecodable:
            metric.tagged(reason="decode-error").count("dropped", undecodable)
        blackholed = int((verdicts == Verdict.BLACKHOLE).sum())
        if blackholed:
            metric.tagged(reason="blackhole-policy").count("dropped", blackholed)
        homeless = int((verdicts == Verdict.NO_NAMESPACE).sum())
        if homeless:
            self._scope.tagged(error_type="internal_error").count("ingest-error", homeless)
            self._scope.tagged(reason="no-namespace").count("ingest-refused", homeless)
        for row, text in intake.errors:
            if verdicts[row] == Verdict.DECODE_ERROR:
                _log.warning_limited("could not decode metric from message; it stays unacked", peer=peer, error=text)
            else:
                _log.warning_limited(
                    "could not write a value; add the namespace to clusters[].namespaces or a blackhole policy",
                    peer=peer,
                    error=text,
                )


class IngestServer:
    """The m3msg server with an ``Ingester`` behind it; ``async with``. ``address`` is ``host:port``, port 0 takes a free one."""

    def __init__(
        self,
        address: str,
        store: Sink,
        policies: Sequence[StoragePolicy],
        options: IngestOptions,
        scope: Scope,
    ) -> None:
        host, port = parse_address(address)
        self._ingester = Ingester(store, policies, options, scope)
        self._server = ConsumerServer(
            host,
            port,
            self._ingester.handle,
            options.consumer,
            scope=scope.sub("consumer"),
            keep_alive_ns=options.keep_alive_ns,
        )

    @property
    def port(self) -> int:
        """The bound port."""
        return self._server.port

    async def __aenter__(self) -> Self:
        """Listens. Raises ``OSError`` where the address cannot be had."""
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits for what is being written, sends the acks, closes."""
        await self._server.close()
