"""The storage pass of a write: its samples as they are, to the namespace that the request is for."""

from collections.abc import Callable

import numpy as np

from coordinator.examples import Examples, SampleTime, about
from coordinator.not_kept import Reason
from coordinator.sinks import SeriesTable
from coordinator.sinks.values import Destination, Values
from coordinator.write import kernels
from coordinator.write.attributes import Source
from coordinator.write.decoding import Decoded
from coordinator.write.direct import SCHEME_TAG, DirectStore, DirectWriteError
from coordinator.write.options import WriteOptions
from coordinator.write.outcome import Outcome
from coordinator.write.raw_series import DROPPED, INVALID, Found, RawSeries
from coordinator.write.series_labels import SeriesLabels
from m3metrics.errors import IdError
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3x.clock import wall_ns
from m3x.log import logger

__all__ = ["StoragePass", "say_refused"]

Drops = Callable[[int], bool]
"""Whether rules drop the series of a row. Raises ``IdError``."""
log = logger(__name__)


class StoragePass:
    """Of one writer. ``direct`` None: this coordinator has no storage."""

    def __init__(self, direct: DirectStore | None, labels: SeriesLabels, examples: Examples) -> None:
        self._direct = direct
        self._labels = labels
        self._examples = examples
        self._dropping, self._undropped = RawSeries(), RawSeries()
        """Series that are stored as they come, with and without what rules drop."""

    def refusal(self, policy: StoragePolicy | None) -> str | None:
        """Why nothing can be written to the namespace of ``policy``; None: it can."""
        return self._direct.refusal(policy) if self._direct is not None else "this coordinator has no storage"

    async def store(
        self,
        request: Decoded,
        options: WriteOptions,
        outcome: Outcome,
        context: int,
        drops: Drops | None,
        generation: int,
    ) -> None:
        """Every valid series goes to the namespace of the request. ``context``: a number for what else decides over its tags; ``drops``
        None: rules are not asked; ``generation``: of the rules."""
        refusal = self.refusal(options.policy)
        if refusal is not None:
            # Without an unaggregated namespace ordinary writes go to the aggregators only.
            if options.policy is not None:
                outcome.retryable += len(request.series)
                outcome.last_retryable = refusal
            return
        assert self._direct is not None
        table = self._direct.table
        found = self._numbers(table, request, options, outcome, context, drops, generation)
        numbers = found.numbers
        samples = request.series["samples"].astype(np.int64)
        outcome.count("metrics_dropped", int((numbers == DROPPED).sum()))
        for _ in range(int(((numbers >= 0) & (samples == 0)).sum())):
            outcome.refuse("write query with no datapoints")
        of_sample = np.repeat(numbers, samples)
        kept = of_sample >= 0
        if not kept.any():
            return
        # Times beyond what int64 has in nanoseconds wrap around, as in M3.
        times_ns = request.times[kept] * request.unit_ns
        units, unit = request.units(times_ns)
        batch = Values(
            table,
            of_sample[kept].astype(np.uint32),
            times_ns,
            request.values[kept],
            tuple(Destination(options.policy, one) for one in units),
            unit,
            found.annotations_of(samples, kept),
        )
        try:
            refused = await self._direct.write(batch)
        except DirectWriteError as error:
            outcome.retryable += int((numbers >= 0).sum())
            outcome.last_retryable = str(error)
            return
        for _, reason, text in refused:
            outcome.refuse(text)
            outcome.lose(reason, 1)
        if refused:
            one = refused[self._examples.choose(len(refused))]
            time_of = request.sample_time(int(times_ns[one.row]))
            say_refused(len(refused), table.id(int(batch.series[one.row])), time_of, one.text)

    def _numbers(
        self,
        table: SeriesTable,
        request: Decoded,
        options: WriteOptions,
        outcome: Outcome,
        context: int,
        drops: Drops | None,
        generation: int,
    ) -> Found:
        """What the series of a request are called in the direct store's table, or why they are not stored."""
        rows = len(request.series)
        key_at, key_size = np.empty(rows, np.uint32), np.empty(rows, np.uint32)
        contexts = np.empty(rows, np.uint64)
        kernels.keys(request.series, rows, context, key_at, key_size, contexts)

        def prepare(row: int) -> tuple[bytes, bytes] | int:
            one = request.series[row]
            try:
                tags, name = self._labels.labels(request.buf, one, options)
                if drops is not None and drops(row):
                    return DROPPED
            except IdError:
                # Said before, by the pass that checks labels.
                return INVALID
            graphite = options.policy is not None and int(one["source"]) == Source.GRAPHITE
            try:
                return encode_tags([*tags, SCHEME_TAG] if graphite else tags), self._labels.annotation(one, name)
            except IdError as error:
                outcome.refuse(str(error))
                outcome.lose(Reason.INVALID_LABELS, int(one["samples"]))
                return INVALID

        # What rules drop is remembered together with the rules; other writes do not ask them.
        series = self._undropped if drops is None else self._dropping
        return series.numbers(
            table,
            0 if drops is None else generation,
            request.buf,
            key_at.astype(np.int64),
            key_size.astype(np.int64),
            contexts,
            prepare,
        )


def say_refused(samples: int, metric: bytes, time: SampleTime, why: str) -> None:
    """In the log."""
    log.warning_limited("samples are refused", samples=samples, error=why, **about(metric, time, wall_ns()))
