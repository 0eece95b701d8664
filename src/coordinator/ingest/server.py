"""The ingest server: aggregated values over m3msg into the store (docs/m3/coordinator.md, ingest).

What is acknowledged: everything that sending again cannot help. An aggregator waits with the flush times of a list until all of its
messages are acknowledged or have outlived their time; one that can never be stored would hold those of all others back.

=========================================  =======================  ==========================================================
what arrives                               acked?                   counters
=========================================  =======================  ==========================================================
a value, committed                         yes                      ``ingest-success``
a value of a blackholed policy             yes                      ``metric.dropped{reason=blackhole-policy}``
bytes that are no ``AggregatedMetric``,    yes (M3: no)             ``metric.dropped{reason=decode-error}``
or with a policy that cannot be
an id that is no tag set                   yes (M3: no)             ``ingest-refused{reason=bad-id}``, non-retryable
outside of the policy's retention          yes                      ``ingest-refused{reason=outside-retention}``, non-retryable
a new series, the store being full         yes                      ``ingest-refused{reason=too-many-series}``, non-retryable
a policy without a namespace               yes, once that is sure   ``ingest-refused{reason=no-namespace}``, non-retryable;
                                           (M3: no)                 until then the same with internal
a policy whose namespace is read-only      the same                 ``ingest-refused{reason=read-only-namespace}``, the same
storage fails, after all retries           no                       ``ingest-refused{reason=storage}``, internal
=========================================  =======================  ==========================================================

*Non-retryable* and *internal* are ``ingest-error{error_type=non_retryable_error}`` and ``{error_type=internal_error}``, as in M3. That
there is no namespace is sure at once where namespaces are those of the file, and after ``ingest.noNamespaceGrace`` where they may
still come (``IngestOptions.no_namespace_grace_ns``). All that is not stored is named with an example, the policy and the rules that ask
for it in the log (once a minute and kind) and by ``problems``, for ``/ready``, until nothing of it has come for some minutes
(``refusals``). A frame that is no message ends its connection, unacked (``m3msg.consumer``).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.examples import Examples, SampleTime, about
from coordinator.ingest.outlet import Arrived, Outlet
from coordinator.ingest.refusals import AskedBy, RefusalReason, Refusals
from coordinator.ingest.suffixes import Suffixes
from coordinator.ingest.translate import Rejected, Translator, Verdict
from coordinator.store import Refusal, StoreError, Written
from m3metrics.policy import StoragePolicy, format_duration
from m3msg.consumer import ConsumerOptions, ConsumerServer, ReceivedBatch
from m3x.clock import monotonic_ns, wall_ns
from m3x.endpoints import check_endpoint
from m3x.instrument import Scope
from m3x.log import logger
from m3x.retry import Backoff
from m3x.tls import ServerTLS, ServerTLSConfig

__all__ = ["IngestOptions", "IngestServer", "Ingester"]

_log = logger(__name__)

_REJECTED = {
    Verdict.DECODE_ERROR: RefusalReason.DECODE_ERROR,
    Verdict.NO_NAMESPACE: RefusalReason.NO_NAMESPACE,
    Verdict.READ_ONLY: RefusalReason.READ_ONLY,
}
_NOT_WRITTEN = {
    Refusal.BAD_ID: (RefusalReason.BAD_ID, "the id is no tag set"),
    Refusal.OUTSIDE_RETENTION: (
        RefusalReason.OUTSIDE_RETENTION,
        "older than its policy's retention, or too far in the future",
    ),
    Refusal.TOO_MANY_SERIES: (RefusalReason.TOO_MANY_SERIES, "the store has as many series as it may"),
}


class IngestOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``ingest:`` of the configuration, as far as it has a meaning here."""

    retry: Backoff = Backoff()
    """Between attempts to write a batch."""
    max_retries: int = 2
    retry_forever: bool = False
    blackhole_policies: tuple[StoragePolicy, ...] = ()
    no_namespace_grace_ns: int = 0
    """How long values of a policy without a namespace are left unacked, from the first one on; 0: namespaces do not change."""
    consumer: ConsumerOptions = ConsumerOptions()
    keep_alive_ns: int = 10_000_000_000
    tls: ServerTLSConfig = ServerTLSConfig()
    suffix_labels: bool = False
    """Whether the suffix of an id becomes a label (``suffixes``)."""


class _Namespaces:
    """Which storage policies are written, thrown away, or have no place."""

    def __init__(
        self,
        outlet: Outlet,
        policies: Iterable[StoragePolicy],
        blackhole: Sequence[StoragePolicy],
        known: Iterable[StoragePolicy] | None,
    ) -> None:
        self._outlet = outlet
        self._blackhole = blackhole
        self._writable = {(policy.window_ns, policy.retention_ns) for policy in policies}
        self._known = None if known is None else {(policy.window_ns, policy.retention_ns) for policy in known}

    def verdict(self, policy: StoragePolicy) -> tuple[Verdict, int, str]:
        """See ``coordinator.ingest.translate.Namespaces``; the precision does not matter."""
        if any(policy.equivalent(one) for one in self._blackhole):
            return Verdict.BLACKHOLE, 0, ""
        retention, resolution = format_duration(policy.retention_ns), format_duration(policy.window_ns)
        attributes = policy.window_ns, policy.retention_ns
        index = self._outlet.index_of(policy)
        if index < 0 or (self._known is not None and attributes not in self._known):
            text = f"no configured cluster namespace for: retention={retention}, resolution={resolution}"
            return Verdict.NO_NAMESPACE, 0, text
        if attributes not in self._writable:
            return (
                Verdict.READ_ONLY,
                0,
                f"cannot write to read only namespace: retention={retention}, resolution={resolution}",
            )
        return Verdict.WRITE, index, ""


class Ingester:
    """Writes batches and acks them. ``policies`` are the namespaces that may be written; ``asked_by`` finds the rules behind a policy."""

    def __init__(
        self,
        outlet: Outlet,
        policies: Iterable[StoragePolicy],
        options: IngestOptions,
        scope: Scope,
        *,
        asked_by: AskedBy = lambda _: (),
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._outlet = outlet
        self._options = options
        self._scope = scope
        self._clock = clock
        self._refusals = Refusals(asked_by)
        self._examples = Examples()
        self._suffixes = Suffixes() if options.suffix_labels else None
        self.set_namespaces(policies)

    def set_namespaces(self, policies: Iterable[StoragePolicy], known: Iterable[StoragePolicy] | None = None) -> None:
        """From now on these may be written; ``known``: all that there are, if the outlet takes others as well."""
        namespaces = _Namespaces(self._outlet, policies, self._options.blackhole_policies, known)
        self._translator = Translator(namespaces, self._suffixes)

    def problems(self) -> list[str]:
        """What has come lately and was not stored, one line each, for ``/ready``."""
        return self._refusals.problems(self._clock())

    async def handle(self, batch: ReceivedBatch) -> None:
        """The handler of the m3msg server."""
        starts = batch.rows["value_at"].astype(np.int64)
        ends = starts + batch.rows["value_size"]
        batch.ack(await self.ingest(batch.buffer, starts, ends, batch.peer))

    async def ingest(
        self, buf: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], peer: str = ""
    ) -> NDArray[np.bool_]:
        """Writes the messages ``buf[starts[i]:ends[i]]``; which of them are to be acked. Never raises for what is in them."""
        translation = self._translator.translate(buf, starts, ends)
        acked: NDArray[np.bool_] = translation.verdicts == Verdict.BLACKHOLE
        self._count(translation.verdicts)
        for rejected in translation.rejected:
            acked[rejected.rows] = self._reject(rejected, peer)
        if len(translation.rows):
            written = await self._write(translation.batch, peer)
            if written is not None:
                acked[translation.rows] = True
                self._judge(translation.batch, written, peer)
        return acked

    async def _write(self, batch: Arrived, peer: str) -> Written | None:
        """None: it failed after all retries."""
        attempt = 0
        while True:
            try:
                return await self._outlet.write(batch)
            except StoreError as error:
                attempt += 1
                self._scope.count("errors")
                if attempt > self._options.max_retries and not self._options.retry_forever:
                    self._scope.count("errors-final")
                    count, text = len(batch.id_at), f"{error} (tried {attempt} times)"
                    self._refuse(RefusalReason.STORAGE, count, text, peer, metric=_id(batch, 0), final=False)
                    return None
                await asyncio.sleep(self._options.retry.delay(attempt))

    def _judge(self, batch: Arrived, written: Written, peer: str) -> None:
        """Counts and names the rows of a committed batch, all of which are final."""
        refusals = written.refusals
        self._scope.count("ingest-success", int((refusals == Refusal.WRITTEN).sum()))
        if not refusals.any():
            return
        errors = dict(written.errors)
        for code, (reason, text) in _NOT_WRITTEN.items():
            rows = np.flatnonzero(refusals == code)
            if len(rows):
                row = int(rows[self._examples.choose(len(rows))])
                error = errors.get(row, errors.get(int(rows[0]), text))
                time = SampleTime(int(batch.time_ns[row]))
                self._refuse(reason, len(rows), error, peer, metric=_id(batch, row), time=time)

    def _reject(self, rejected: Rejected, peer: str) -> bool:
        """Counts and names messages that are not written; whether they are acked."""
        reason, count = _REJECTED[rejected.verdict], len(rejected.rows)
        if rejected.policy is None:
            self._scope.sub("metric").tagged(reason=reason).count("dropped", count)
        return self._refuse(reason, count, rejected.text, peer, metric=rejected.metric, policy=rejected.policy)

    def _refuse(
        self, reason: RefusalReason, count: int, error: str, peer: str, *, metric: bytes, policy: StoragePolicy | None = None,
        final: bool = True, time: SampleTime | None = None,
    ) -> bool:  # fmt: skip
        """Counts and names what is not stored; ``time``: of ``metric``. ``final``, unless it may be written yet as a namespace can still
        come."""
        now_ns = self._clock()
        refused = self._refusals.note(reason, count, now_ns, error=error, metric=metric, peer=peer, policy=policy)
        if policy is not None:
            final = now_ns - refused.since_ns >= self._options.no_namespace_grace_ns
        if reason != RefusalReason.DECODE_ERROR:
            error_type = "non_retryable_error" if final else "internal_error"
            self._scope.tagged(error_type=error_type).count("ingest-error", count)
            self._scope.tagged(reason=reason).count("ingest-refused", count)
        if self._refusals.to_be_logged(refused, now_ns):
            _log.warning(
                "values are acknowledged and not stored" if final else "values are not stored; they will be sent again",
                reason=reason, error=error, policy=str(policy or ""),
                rules=self._refusals.rules(refused), peer=peer, messages=refused.messages,
                **({"metric": refused.metric} if time is None else about(metric, time, wall_ns())),
            )  # fmt: skip
        return final

    def _count(self, verdicts: NDArray[np.uint8]) -> None:
        metric = self._scope.sub("metric")
        metric.count("accepted", int((verdicts != Verdict.DECODE_ERROR).sum()))
        blackholed = int((verdicts == Verdict.BLACKHOLE).sum())
        if blackholed:
            metric.tagged(reason="blackhole-policy").count("dropped", blackholed)


def _id(batch: Arrived, row: int) -> bytes:
    at = int(batch.id_at[row])
    return batch.buf[at : at + int(batch.id_size[row])].tobytes()


class IngestServer:
    """The m3msg server with an ``Ingester`` behind it; ``async with``. ``address`` is that of ``ConsumerServer``. Raises ``TLSError``."""

    def __init__(
        self,
        address: str,
        outlet: Outlet,
        policies: Iterable[StoragePolicy],
        options: IngestOptions,
        scope: Scope,
        *,
        asked_by: AskedBy = lambda _: (),
    ) -> None:
        check_endpoint(address)
        self._ingester = Ingester(outlet, policies, options, scope, asked_by=asked_by)
        self._server = ConsumerServer(
            address,
            self._ingester.handle,
            options.consumer,
            scope=scope.sub("consumer"),
            keep_alive_ns=options.keep_alive_ns,
            tls=ServerTLS.of(options.tls),
        )

    @property
    def port(self) -> int:
        """The bound port; 0 of a socket in the file system."""
        return self._server.port

    def set_namespaces(self, policies: Iterable[StoragePolicy], known: Iterable[StoragePolicy] | None = None) -> None:
        """See ``Ingester``."""
        self._ingester.set_namespaces(policies, known)

    def problems(self) -> list[str]:
        """See ``Ingester.problems``."""
        return self._ingester.problems()

    async def __aenter__(self) -> Self:
        """Listens. Raises ``OSError`` where the address cannot be had."""
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits for what is being written, sends the acks, closes."""
        await self._server.close()
