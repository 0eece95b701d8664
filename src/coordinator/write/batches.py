"""Samples in columns → one batch of encoded messages."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.write import kernels
from coordinator.write.series_cache import SeriesCache
from m3metrics.kernels import encode_samples as encode_mixed
from m3metrics.kernels import encode_timed_samples, samples_size_bound
from m3msg.batch import MessageBatch

MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000


def encode_samples(
    cache: SeriesCache,
    series: NDArray[Any],
    first: NDArray[np.int64],
    count: NDArray[np.int64],
    times: NDArray[np.int64],
    unit_ns: int,
    values: NDArray[np.float64],
    num_shards: int,
) -> MessageBatch | None:
    """One message per sample and template, timed or untimed as the template says; None if there is none.

    ``series``: ``kernels.SERIES_ROW`` rows whose samples are rows of ``times`` (counting ``unit_ns``) and ``values``; ``first`` and
    ``count``: what ``cache.resolve`` just returned for them.
    """
    total = int((count * series["samples"]).sum())
    if total == 0:
        return None
    series_index, time_ns = np.empty(total, np.int64), np.empty(total, np.int64)
    sample_values, shards = np.empty(total, np.float64), np.empty(total, np.uint32)
    templates = cache.templates
    kernels.expand(
        series, len(series), first, count, cache.hashes, templates, times, unit_ns, num_shards, values,
        series_index, time_ns, sample_values, shards,
    )  # fmt: skip
    encode, room = (encode_mixed, 8 * total) if cache.any_untimed else (encode_timed_samples, 0)
    payload = np.empty(samples_size_bound(templates, series_index) + room, np.uint8)
    offsets = np.empty(total + 1, np.int64)
    used = encode(cache.arena, templates, series_index, time_ns, sample_values, payload, offsets)
    return MessageBatch(payload[:used], offsets, shards)
