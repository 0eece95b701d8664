"""``POST /api/v1/prom/remote/write`` (docs/m3/coordinator.md, remote write), and what all writes over HTTP have in common.

``RemoteWriter`` is the core: body and options in, batches out; how a body is read, a ``Sender`` knows. Series that have been
seen before are recognised by the bytes of their labels; what is new is prepared once, in compiled code if it is an ordinary gauge. The
order of checks, the status codes and the error texts are M3's.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from coordinator.config.coordinator import TagOptionsConfig
from coordinator.downsample import Appended, Downsampler
from coordinator.downsample.dry_run import SeenSeries
from coordinator.examples import Examples
from coordinator.not_kept import Reason
from coordinator.write import kernels
from coordinator.write.acks import Acks, Ticket
from coordinator.write.attributes import Source, m3_type_of, prom_type_of, source_of
from coordinator.write.batches import BatchTooLargeError, Columns, Encoded, Encoder, Preparation
from coordinator.write.bodies import BodyRoom, Held, body_of, gone
from coordinator.write.declared import Declare, Declared
from coordinator.write.decoding import Decoded
from coordinator.write.direct import SCHEME_TAG, DirectStore
from coordinator.write.door import Door
from coordinator.write.forwarding import Forward, Forwarding
from coordinator.write.interest import Interest
from coordinator.write.known import KnownSeries, TriedBody
from coordinator.write.limits import Limiter, Visit
from coordinator.write.options import BadRequestError, WriteOptions
from coordinator.write.outcome import FailedError, Outcome
from coordinator.write.poisoned import Poisoned
from coordinator.write.prometheus import PrometheusSender
from coordinator.write.repeats import Elsewhere
from coordinator.write.sender import Sender, WayIn
from coordinator.write.series_cache import Prepared, RowNumbers, SeriesCache
from coordinator.write.series_labels import SeriesLabels, check_labels, raise_attributes
from coordinator.write.sink import MessageSink, RefusedError
from coordinator.write.steps import Steps, finished, in_turns
from coordinator.write.storage_pass import StoragePass, say_refused
from coordinator.write.turns import Turns
from m3metrics.errors import IdError
from m3metrics.metric import PROM_TYPES
from m3msg.batch import MessageBatch, joined_messages
from m3x.instrument import Scope
from m3x.log import logger

_FIRST_MAPPED_CONTEXT = 2
_LABEL_FIELD = b"\x0a"
"""With what the labels of a TimeSeries begin, and no path of carbon."""
_MAX_MAPPED_CONTEXTS = 1024
_ROWS_OF_A_STEP = 8192
"""Series that are encoded before others have their turn."""
_METADATA_BYTES = 96
"""What a message is longer than its share of the request, roughly."""
_ORDINARY = WriteOptions()
REMOTE_WRITE_PATH = "/api/v1/prom/remote/write"
HANDED_OVER = "coordinator.handed_over"
"""In the scope of a request: another process has left it to this one."""
log = logger(__name__)


class Taken(NamedTuple):
    """A request that has gone to the aggregators by ``RemoteWriter.take_known``."""

    body: bytes
    options: WriteOptions
    began_s: float
    """Monotonic clock."""
    ticket: Ticket | None


class RemoteWriter:
    """Turns bodies into batches. One per process; used from its event loop only."""

    def __init__(
        self,
        downsampler: Downsampler,
        cache: SeriesCache,
        sink: MessageSink | None,
        scope: Scope,
        *,
        tag_options: TagOptionsConfig | None = None,
        store_metrics_type: bool = False,
        direct: DirectStore | None = None,
        acks: Acks | None = None,
        door: Door | None = None,
        forwarding: Forwarding | None = None,
        limiter: Limiter | None = None,
        elsewhere: Elsewhere | None = None,
        classic_histograms: bool = False,
        bodies: BodyRoom | None = None,
        declare: Declare | None = None,
    ) -> None:
        """``classic_histograms``: native histograms of remote writes become classic ones; ``declare``: told of help and unit of metrics."""
        self._downsampler = downsampler
        self._cache = cache
        self._sink = sink
        self._prometheus = PrometheusSender(classic_histograms, None if declare is None else Declared(declare))
        self._way = WayIn(self._prometheus, scope)
        self._acks = acks
        """None: a request is answered when its messages are in the producer."""
        self._forwarding = forwarding
        """Of remote writes only, as in M3."""
        self._limiter = limiter
        self._bodies = bodies or BodyRoom(0, scope)
        self._poisoned = Poisoned()
        self._turns = Turns()
        self._elsewhere = elsewhere
        self._labels = SeriesLabels(tag_options or TagOptionsConfig(), store_metrics_type)
        self._generation = -1
        self._interest: Interest | None = None
        """Which series a rule may match; None: all."""
        self._contexts: dict[tuple[tuple[bytes, bytes], ...], int] = {}
        self._next_context = _FIRST_MAPPED_CONTEXT
        self._examples = Examples()
        self._storing = StoragePass(direct, self._labels, self._examples)
        self._known = KnownSeries(cache) if sink is not None and door is None else None
        """None: messages go nowhere, or are judged before they do."""
        self._encoder = (
            Encoder(cache, sink.largest_message, sink.largest_batch, door) if sink is not None else Encoder(cache)
        )

    def set_limiter(self, limiter: Limiter | None) -> None:
        """Judges requests from now on; None: nothing does."""
        self._limiter = limiter

    @property
    def acks(self) -> Acks | None:
        """What waits for aggregators; None: nothing does."""
        return self._acks

    @property
    def bodies(self) -> BodyRoom:
        """Room for bodies of requests."""
        return self._bodies

    @property
    def takes_known(self) -> bool:
        """Whether ``take_known`` may take the next request."""
        known = self._known
        return known is not None and not known.pauses and self._limiter is None and self._forwarding is None

    def take_known(self, headers: list[tuple[bytes, bytes]], body: bytes) -> Taken | bytes:
        """Gives a remote write to the aggregators if all of its series are known and ordinary; otherwise nothing is done, and it returns
        the body, for ``handle``. ``headers``: their names are in lower case."""
        began_s = time.monotonic()
        outcome = Outcome()
        try:
            options = self._prometheus.asked(headers)
            if self._elsewhere is not None and self._elsewhere.has(body, options):
                return body
            if self._acks is not None and self._acks.knows(body, options):
                return body
        except BadRequestError:
            return body
        try:
            rest = self._take_known(body, options, outcome)
        except RefusedError:
            return body
        except BaseException:
            self._remember(body, options, outcome)
            raise
        if rest is not None:
            return rest
        for name, number in outcome.figures.items():
            self._way.scope.count(name, number)
        _note_age(self._way, outcome)
        return Taken(body, options, began_s, outcome.ticket)

    def answered(self, status: int, text: str, began_s: float) -> None:
        """Counts the answer to a remote write that did not come by ``handle``, and logs ``text``."""
        self._note(self._way, status, text, began_s, None)

    async def handle(self, request: Request, way: WayIn | None = None) -> Response:
        """Answers one HTTP request. ``way``: which way it came; None: by remote write."""
        with self._bodies.request() as held:
            return await self._handle(request, way or self._way, held)

    async def _handle(self, request: Request, way: WayIn, held: Held) -> Response:
        started = time.monotonic()
        text, body, final = "", b"", False
        headers: Mapping[str, str] = {}
        forward, response = None, None
        visit = None if self._limiter is None else self._limiter.visit(request.headers)
        try:
            options = way.sender.options(request)
            body = await body_of(request, visit, held)
            if self._elsewhere is not None and not request.scope.get(HANDED_OVER):
                answer = await self._elsewhere.answer(request, body, options, lambda: gone(request))
                if answer is not None:
                    return answer
            if self._forwarding is not None and way is self._way:
                forward = self._forwarding.of(body, request.headers, options)
            outcome = await self.take(body, options, lambda: gone(request), way, forward, visit)
            status, text = outcome.status, outcome.text
            response = way.sender.answer(outcome, options)
            final = response.status_code == 400
        except BadRequestError as error:
            status, text, headers = error.status, str(error), error.headers
            final = not headers
        except RefusedError as error:
            status, text, headers = 503, error.reason, {"Retry-After": str(error.retry_after_s)}
        except FailedError as error:
            # M3 answers so, and yet it will fail again.
            status, text, final = 500, f"retryable_errors: count=1, last={error}", True
        except Exception as error:
            # A mistake of ours; the sender keeps the samples and comes again.
            log.error(f"a {way.sender.title} ended with an unexpected error", exception=error)
            status, text, final = 500, f"retryable_errors: count=1, last=unexpected {type(error).__name__}", True
        if response is None:
            response = way.sender.refuse(status, text, dict(headers), request)
        if visit is not None:
            visit.ended(response.status_code)
        if final:
            self._poisoned.note(request, body, response.status_code, text, way.scope)
        self._note(way, response.status_code, text, started, forward)
        return response

    @staticmethod
    def _note(way: WayIn, status: int, text: str, started: float, forward: Forward | None) -> None:
        """Counts an answer, and logs it where its sender may not."""
        if forward is not None:
            forward.answered(status)
        if status < 300:
            way.scope.count("write_success")
        else:
            way.scope.tagged(code=f"{status // 100}XX").count("write_errors")
        if text and status != 503:
            log.warning_limited(f"{way.sender.title} failed", status=status, error=text)
        way.scope.record("write_batch_latency", time.monotonic() - started)

    def refusal(self, options: WriteOptions = _ORDINARY) -> str | None:
        """Why this coordinator can keep nothing of such requests, by its file; None: it can, or nothing is asked for."""
        if options.policy is not None or not (options.downsample or options.store):
            return None
        obstacle = self._downsampler.obstacle if options.downsample else None
        if options.downsample and obstacle is None:
            return None
        unaggregated = self._storing.refusal(None)
        if options.store:
            return unaggregated and "; ".join(filter(None, (obstacle, unaggregated)))
        # Where there is an unaggregated namespace only, M3 answers 200 to a request that leaves it out.
        return None if obstacle == self._downsampler.no_namespace and unaggregated is None else obstacle

    async def write(
        self, body: bytes, options: WriteOptions, gone: Callable[[], Awaitable[Any]] | None = None
    ) -> Response:
        """Writes one compressed remote write; see ``take``."""
        return self._way.sender.answer(await self.take(body, options, gone, self._way), options)

    async def take(
        self,
        body: bytes,
        options: WriteOptions,
        gone: Callable[[], Awaitable[Any]] | None,
        way: WayIn,
        forward: Forward | None = None,
        visit: Visit | None = None,
    ) -> Outcome:
        """Writes one request. ``gone`` returns when its sender has gone away: nobody waits for acks then. ``forward``: where else it goes;
        ``visit``: what its tenant may send.

        Raises ``BadRequestError``, ``RefusedError``, ``FailedError``.
        """
        began = time.monotonic()
        outcome = Outcome()
        try:
            await self._take(body, options, outcome, way.sender, forward, visit)
        except BaseException:
            self._remember(body, options, outcome)
            raise
        finally:
            for name, number in outcome.figures.items():
                way.scope.count(name, number)
        _note_age(way, outcome)
        if outcome.status >= 500:
            self._remember(body, options, outcome)
        elif outcome.ticket is not None:
            assert self._acks is not None
            await self._acks.wait(outcome.ticket, body, options, began + self._acks.timeout_s, gone)
        if outcome.status < 500:
            # All others are sent again.
            for reason, samples in outcome.not_kept.items():
                way.not_kept.count(reason, samples)
        return outcome

    def _remember(self, body: bytes, options: WriteOptions, outcome: Outcome) -> None:
        """The request comes again for a reason that has nothing to do with its messages."""
        if outcome.ticket is not None:
            assert self._acks is not None
            self._acks.remember(outcome.ticket, body, options)

    async def _take(
        self,
        body: bytes,
        options: WriteOptions,
        outcome: Outcome,
        sender: Sender,
        forward: Forward | None,
        visit: Visit | None,
    ) -> None:
        """Gives a request to the aggregators and to storage."""
        if sender is self._prometheus and forward is None and visit is None:
            rest = self._take_known(body, options, outcome)
            if rest is None:
                return
            body = rest
        request = await self._turns.decoded(sender, body, options)
        outcome.points, outcome.histograms = request.points, request.histograms
        samples, classic = request.samples(), request.classic
        if visit is not None:
            request = visit.admit(request, outcome)
        if forward is not None:
            at, size = (request.series[key].astype(np.uint32) for key in ("labels_at", "labels_size"))
            check_labels(request, at, size, np.arange(len(at)))
            forward.begin(request)
        if len(request.series):
            refusal = self.refusal(options)
            if refusal is not None:
                raise RefusedError(f"{refusal}; nothing was accepted")
            if options.downsample and self._downsampler.obstacle is None:
                request = await self._downsample(body, request, options, outcome, sender)
            elif options.store:
                self._validate(request, options, outcome)
            else:
                asked = Reason.NO_AGGREGATED_NAMESPACE if options.downsample else Reason.NOTHING_ASKED
                outcome.lose(asked, request.samples())
            if options.store:
                await self._store(request, options, outcome)
        lost = sum(lost for reason, lost in outcome.not_kept.items() if not reason.meant)
        outcome.written = samples - max(classic, lost)
        for reason, number in request.others.items():
            outcome.lose(reason, number)
        if request.unread:
            outcome.refuse(request.last_unread, request.unread)

    def _take_known(self, body: bytes, options: WriteOptions, outcome: Outcome) -> bytes | None:
        """Gives a request to the aggregators whose series are all known and ordinary (``known``), and returns None; otherwise nothing is
        done, and it returns the body that is to be decoded.

        Raises ``RefusedError``.
        """
        if self._known is None or isinstance(body, TriedBody) or not self._may_be_known(options):
            return body
        plain = self._known.unpacked(body)
        if plain is None:
            return body
        if self._encode_known(self._known, plain, body, options, outcome):
            return None
        return self._known.handed_over(body, plain)

    def _may_be_known(self, options: WriteOptions) -> bool:
        """Whether a request with such headers can be one for ``_encode_known``."""
        if self._labels.renames or self._labels.store_type or not _is_usual(options):
            return False
        return self._downsampler.obstacle is None and not (options.store and self._storing.refusal(None) is None)

    def _encode_known(
        self, known: KnownSeries, plain: NDArray[np.uint8], body: bytes, options: WriteOptions, outcome: Outcome
    ) -> bool:
        """See ``_take_known``; ``plain``: the request, unpacked."""
        assert self._sink is not None
        if self._acks is not None:
            outcome.ticket = self._acks.repeated(body, options)
        num_shards = self._sink.ready(2 * len(plain)) if outcome.ticket is None else None
        if num_shards is None:
            return False
        self._advance()
        found = known.encode(plain, num_shards)
        if found is None or found[0].size_bytes > self._sink.largest_batch:
            return False
        batch, last_ms = found
        self._produce(batch, body, options, outcome)
        outcome.newest_s, outcome.written = last_ms / 1e3, len(batch)
        return True

    def _produce(self, batch: MessageBatch, body: bytes, options: WriteOptions, outcome: Outcome) -> None:
        """Gives messages to the sink. Raises ``RefusedError``."""
        assert self._sink is not None
        if self._acks is not None:
            outcome.ticket = self._acks.produce(self._sink, batch, body, options)
            taken = outcome.ticket is not None
        else:
            taken = self._sink.produce(batch)
        if not taken:
            raise RefusedError("the buffer towards the aggregators is full; nothing was accepted, send it again")
        outcome.count("ingest_samples", len(batch))

    def _context(self, options: WriteOptions) -> int:
        """A number for everything outside the series that decides over its templates; numbers are never used twice."""
        if not options.map_tags:
            return 0
        context = self._contexts.get(options.map_tags)
        if context is None:
            if len(self._contexts) >= _MAX_MAPPED_CONTEXTS:
                self._contexts.clear()
            context = self._contexts[options.map_tags] = self._next_context
            self._next_context += 1
        return context

    def series_of(self, key: bytes, context: int) -> SeenSeries | None:
        """The series of a key in the cache; None: it is none of remote write, or nobody knows any more what its labels are replaced by.

        Raises ``IdError``.
        """
        mapped = next((tags for tags, number in self._contexts.items() if number == context >> 16), ())
        if not key.startswith(_LABEL_FIELD) or (context >> 16 and not mapped):
            return None
        row = np.zeros(1, kernels.SERIES_ROW)[0]
        m3_type, source, prom_type = context >> 8 & 0xFF, context >> 4 & 0xF, context & 0xF
        row["labels_size"], row["source"] = len(key), source
        tags, _ = self._labels.labels(np.frombuffer(key, np.uint8), row, WriteOptions(map_tags=mapped))
        if source_of(source) is Source.GRAPHITE:
            tags = [*tags, SCHEME_TAG]
        return SeenSeries(tags, m3_type_of(m3_type), PROM_TYPES[prom_type])

    def _advance(self) -> int:
        """Lets rules come into effect, and returns the number of these; what is remembered of the series is forgotten if they say something
        else now."""
        generation = self._downsampler.advance(time.time_ns())
        if generation != self._generation:
            self._generation = generation
            self._interest = Interest.of(self._downsampler.filters())
        self._cache.expect(generation)
        return generation

    async def _downsample(
        self, body: bytes, request: Decoded, options: WriteOptions, outcome: Outcome, sender: Sender
    ) -> Decoded:
        """Everything to the aggregators, or nothing; what is on its way from an earlier attempt is not sent again.

        Returns the request, as its columns are good for no more than one step.
        """
        assert self._sink is not None
        nbytes = len(request.buf) + _METADATA_BYTES * len(request.values)
        if self._acks is not None and outcome.ticket is None:
            outcome.ticket = self._acks.repeated(body, options)
        num_shards = self._sink.ready(nbytes) if outcome.ticket is None else 1
        if num_shards is None:
            num_shards = await self._sink.admit(nbytes)
            if not request.lasting:
                # Its arrays may have been used by another request meanwhile.
                request = sender.decode(body, options)
        if len(request.series) > _ROWS_OF_A_STEP and not request.lasting:
            request = request.kept()
        encoded = None
        while encoded is None:
            generation = self._advance()
            steps = self._encode(request, options, num_shards, outcome)
            encoded = await in_turns(steps, partial(self._holds, generation)) if request.lasting else finished(steps)
        if encoded.batches and outcome.ticket is None:
            batch = encoded.batches[0] if len(encoded.batches) == 1 else joined_messages(encoded.batches)
            self._produce(batch, body, options, outcome)
            outcome.newest_s = int(request.times[-1]) * request.unit_ns / 1e9
        return request

    def _holds(self, generation: int) -> bool:
        """Whether rules are those of an ``_advance`` still."""
        return self._downsampler.advance(time.time_ns()) == generation

    def _encode(self, request: Decoded, options: WriteOptions, num_shards: int, outcome: Outcome) -> Steps[Encoded]:
        """The messages of a request; what makes none goes to ``outcome``. Raises ``BadRequestError``, ``FailedError``."""
        series = request.series
        rows = len(series)
        key_at, key_size = np.empty(rows, np.uint32), np.empty(rows, np.uint32)
        contexts = np.empty(rows, np.uint64)
        wrong = kernels.keys(series, rows, self._context(options), key_at, key_size, contexts)
        if wrong >= 0:
            check_labels(request, key_at, key_size, self._cache.find(request.buf, key_at, key_size, contexts))
            raise_attributes(series[wrong])
        invalid: dict[int, str] = {}

        def make(row: int) -> Prepared:
            try:
                appended = self._appended(request.buf, series[row], options)
            except IdError as error:
                invalid[row] = str(error)
                return None
            return appended.specs if appended.unsent is None else appended.unsent

        def check(missing: RowNumbers) -> None:
            check_labels(request, key_at, key_size, missing)

        plain, plain_rows = self._downsampler.auto_metadatas, None
        if options.map_tags or self._labels.renames or self._interest is None:
            plain = None
        elif plain is not None:
            odd = contexts & np.uint64(0xFFFF if self._labels.store_type else 0xFFF0)
            plain_rows = None if not odd.any() else odd == 0
        columns = Columns(
            request.buf, key_at, key_size, contexts, series, request.times, request.unit_ns, request.values
        )
        try:
            preparation = Preparation(make, plain, plain_rows, check, self._interest)
            encoded = yield from self._encoder.steps(columns, preparation, num_shards, _ROWS_OF_A_STEP)
        except BatchTooLargeError as error:
            raise BadRequestError(str(error)) from error
        self._account(request, options, encoded, invalid, outcome)
        return encoded

    def _account(
        self, request: Decoded, options: WriteOptions, encoded: Encoded, invalid: dict[int, str], outcome: Outcome
    ) -> None:
        """What is not sent, and why."""
        if encoded.refused.samples:
            outcome.refuse(encoded.refused.last, encoded.refused.samples)
            if encoded.refused.example is not None:
                metric, time_ns = encoded.refused.example
                say_refused(
                    encoded.refused.samples, metric, request.sample_time(time_ns), "they come too late or too early"
                )
            if not (options.store and self._storing.refusal(None) is None):
                for reason, samples in encoded.refused.not_sent.items():
                    outcome.lose(reason, samples)
        if not (invalid or encoded.too_large or encoded.any_unsent):
            return
        for text in invalid.values():
            # As in M3 once for each pass.
            outcome.refuse(text, 1 + options.store)
        for text in encoded.too_large.values():
            outcome.refuse(text)
        outcome.lose(Reason.INVALID_LABELS, request.samples(list(invalid)))
        kept = {Reason.NO_RULE, Reason.TOO_LARGE} if options.store and self._storing.refusal(None) is None else set()
        if Reason.TOO_LARGE not in kept:
            outcome.lose(Reason.TOO_LARGE, request.samples(list(encoded.too_large)))
        for code in np.unique(encoded.unsent[encoded.unsent > 0]).tolist():
            reason = Reason.of_code(code)
            if reason not in kept:
                outcome.lose(reason, request.samples(encoded.unsent == code))

    def _appended(self, buf: NDArray[np.uint8], row: Any, options: WriteOptions) -> Appended:
        """What becomes of one series. Raises ``IdError``."""
        tags, name = self._labels.labels(buf, row, options)
        metric_type, source = m3_type_of(int(row["m3_type"])), source_of(int(row["source"]))
        prom_type = prom_type_of(int(row["prom_type"]))
        annotation = self._labels.annotation(row, name)
        if source is Source.GRAPHITE:
            tags = [*tags, SCHEME_TAG]
        return self._downsampler.append(tags, metric_type, PROM_TYPES[prom_type], annotation=annotation)

    def _validate(self, request: Decoded, options: WriteOptions, outcome: Outcome) -> None:
        """The checks of the storage pass where there is no other; only with ``M3-Metrics-Type`` or without aggregated namespaces."""
        rows = len(request.series)
        key_at, key_size = np.empty(rows, np.uint32), np.empty(rows, np.uint32)
        contexts = np.empty(rows, np.uint64)
        wrong = kernels.keys(request.series, rows, self._context(options), key_at, key_size, contexts)
        check_labels(request, key_at, key_size, np.arange(rows))
        if wrong >= 0:
            raise_attributes(request.series[wrong])
        for row in request.series:
            try:
                self._labels.labels(request.buf, row, options)
            except IdError as error:
                outcome.refuse(str(error))
                outcome.lose(Reason.INVALID_LABELS, int(row["samples"]))

    async def _store(self, request: Decoded, options: WriteOptions, outcome: Outcome) -> None:
        """The storage pass; what rules drop is not stored."""
        drops = None
        if options.policy is None and options.downsample and self._downsampler.matching:

            def drops(row: int) -> bool:
                return self._appended(request.buf, request.series[row], options).drop_policy_applied

        await self._storing.store(request, options, outcome, self._context(options), drops, self._generation)


def _is_usual(options: WriteOptions) -> bool:
    """Whether headers ask for what they ask for by default, of a body in snappy."""
    return (
        options.downsample
        and not (options.map_tags or options.dialect or options.encoding)
        and options.policy is None
        and options.prom_type is None
    )


def _note_age(way: WayIn, outcome: Outcome) -> None:
    """How old the last sample was when it went to the aggregators."""
    if outcome.newest_s:
        way.scope.record("ingest_latency", max(time.time() - outcome.newest_s, 0.0))
