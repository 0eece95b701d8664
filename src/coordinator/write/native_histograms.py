"""Native histograms of remote writes as classic ones (``remoteWrite.nativeHistograms: classic``), plainly: there are few of them.

A histogram becomes what a classic one of its name is: ``_bucket`` by ``le``, ``_count`` and ``_sum``. Custom buckets keep their bounds.
Exponential ones are joined to those between powers of two, or stay what they are where they are wider, so that the same bounds come again
when the resolution changes; there is one for each step from below the lowest observation to above the highest one.
"""

import math
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal

import numpy as np

from coordinator import prompb
from coordinator.not_kept import Reason
from coordinator.write import kernels
from coordinator.write.attributes import PromType
from coordinator.write.building import label_fields
from coordinator.write.decoding import Decoded
from coordinator.write.otlp.texts import number_text
from m3metrics.errors import IdError
from m3metrics.ids import Tags
from m3x.protobuf import DecodeError, Field, Kind, MessageValue, generated, unmarshal

__all__ = ["HISTOGRAM", "samples_of", "with_classic_buckets"]

_SPAN = generated("BucketSpan", Field(1, "offset", Kind.UINT64), Field(2, "length", Kind.UINT32))
HISTOGRAM = generated(
    "Histogram",
    Field(1, "count_int", Kind.UINT64),
    Field(2, "count_float", Kind.DOUBLE),
    Field(3, "sum", Kind.DOUBLE),
    Field(4, "schema", Kind.UINT64),
    Field(5, "zero_threshold", Kind.DOUBLE),
    Field(6, "zero_count_int", Kind.UINT64),
    Field(7, "zero_count_float", Kind.DOUBLE),
    Field(8, "negative_spans", Kind.MESSAGE, _SPAN, repeated=True),
    Field(9, "negative_deltas", Kind.UINT64, repeated=True),
    Field(10, "negative_counts", Kind.DOUBLE, repeated=True),
    Field(11, "positive_spans", Kind.MESSAGE, _SPAN, repeated=True),
    Field(12, "positive_deltas", Kind.UINT64, repeated=True),
    Field(13, "positive_counts", Kind.DOUBLE, repeated=True),
    Field(15, "timestamp", Kind.INT64),
    Field(16, "custom_values", Kind.DOUBLE, repeated=True),
)
"""Of both versions; numbers that may be negative are zigzag."""
_CUSTOM = -53
_SCHEMAS = range(-4, 9)
_STALE = 0x7FF0000000000002
_MOST_BETWEEN = 64
"""Bounds without observations of their own, between two that have some; more are left out."""


def with_classic_buckets(decoded: Decoded, number: int) -> Decoded:
    """A request with the samples of its native histograms, field ``number`` of their series. What cannot be read is left out."""
    keys: list[bytes] = []
    times, values = [], []
    read = 0
    for labels_data, message in decoded.native:
        try:
            labels = prompb.labels_of(labels_data)
            table = generated("TimeSeries", Field(number, "histograms", Kind.MESSAGE, HISTOGRAM, repeated=True))
            histograms = unmarshal(table, message)["histograms"]
            found = [(one.get("timestamp", 0), samples_of(one)) for one in histograms]
            added = [
                (label_fields(_named(labels, suffix, bound)), time_ms, value)
                for time_ms, samples in found
                for suffix, bound, value in samples
            ]
        except (DecodeError, IdError, ValueError, OverflowError):
            continue
        read += len(histograms)
        for key, time_ms, value in added:
            keys.append(key)
            times.append(time_ms)
            values.append(value)
    if not keys:
        return decoded
    series = np.zeros(len(keys), kernels.SERIES_ROW)
    sizes = np.array([len(key) for key in keys])
    series["labels_at"], series["labels_size"] = len(decoded.buf) + np.cumsum(sizes) - sizes, sizes
    series["sample_from"] = len(decoded.times) + np.arange(len(keys))
    series["samples"] = 1
    series["prom_type"] = PromType.HISTOGRAM
    left = decoded.others.get(Reason.NATIVE_HISTOGRAM, 0) - read
    others = {**decoded.others, Reason.NATIVE_HISTOGRAM: left}
    return replace(
        decoded,
        buf=np.concatenate([decoded.buf, np.frombuffer(b"".join(keys), np.uint8)]),
        series=np.concatenate([decoded.series, series]),
        times=np.concatenate([decoded.times, np.array(times, np.int64)]),
        values=np.concatenate([decoded.values, np.array(values)]),
        others={reason: lost for reason, lost in others.items() if lost},
        histograms=read,
        classic=len(keys),
        lasting=True,
    )


def _named(labels: prompb.Labels, suffix: bytes, bound: bytes) -> Tags:
    """The labels of a series of the classic histogram."""
    named = [(name, value + suffix if name == b"__name__" else value) for name, value in labels]
    return [*named, (b"le", bound)] if bound else named


def samples_of(histogram: MessageValue) -> list[tuple[bytes, bytes, float]]:
    """Suffix of the name, ``le`` and value of each sample. Raises ``ValueError`` for what is no histogram."""
    total = float(histogram.get("count_int", 0)) + histogram.get("count_float", 0.0)
    sum_of = histogram.get("sum", 0.0)
    if np.float64(sum_of).view(np.uint64) == _STALE:
        return [(b"_bucket", b"+Inf", sum_of), (b"_count", b"", sum_of), (b"_sum", b"", sum_of)]
    counts = _counts(histogram)
    samples = []
    so_far = 0.0
    for bound in sorted(counts):
        so_far += counts[bound]
        if math.isfinite(bound):
            samples.append((b"_bucket", _le(bound), so_far))
    return [*samples, (b"_bucket", b"+Inf", total), (b"_count", b"", total), (b"_sum", b"", sum_of)]


def _counts(histogram: MessageValue) -> dict[float, float]:
    """Observations by upper bound, not counted on."""
    schema = _signed(histogram.get("schema", 0))
    counts: dict[float, float] = defaultdict(float)
    if schema == _CUSTOM:
        bounds = [*histogram.get("custom_values", []), math.inf]
        counts.update(dict.fromkeys(bounds, 0.0))
        for index, count in _buckets(histogram, "positive"):
            if not 0 <= index < len(bounds):
                raise ValueError(f"there is no bound of bucket {index}")
            counts[bounds[index]] += count
        return counts
    if schema not in _SCHEMAS:
        raise ValueError(f"schema {schema} is unknown")
    width, joined = 2 ** max(-schema, 0), 2 ** max(schema, 0)
    for sign in ("negative", "positive"):
        steps: dict[int, float] = defaultdict(float)
        for index, count in _buckets(histogram, sign):
            steps[-(-index // joined)] += count
        if not steps:
            continue
        lowest, highest = min(steps), max(steps)
        listed = range(lowest - 1, highest + 1) if highest - lowest <= _MOST_BETWEEN else sorted(steps)
        for step in listed:
            # Above zero a bucket ends at its bound; below at that of the next smaller one.
            bound = _power(width * step) if sign == "positive" else -_power(width * (step - 1))
            counts[bound] += steps.get(step, 0.0)
    zeros = float(histogram.get("zero_count_int", 0)) + histogram.get("zero_count_float", 0.0)
    if zeros:
        counts[float(histogram.get("zero_threshold", 0.0))] += zeros
    return counts


def _power(exponent: int) -> float:
    """Of two; what is too large is infinite."""
    return math.ldexp(1.0, exponent) if exponent < 1024 else math.inf


def _buckets(histogram: MessageValue, sign: str) -> list[tuple[int, float]]:
    """Index and count of each bucket. Raises ``ValueError`` where spans and counts do not fit."""
    counts = list(histogram.get(f"{sign}_counts", []))
    if not counts:
        deltas = np.array([_signed(one) for one in histogram.get(f"{sign}_deltas", [])], np.int64)
        counts = np.cumsum(deltas).astype(np.float64).tolist()
    found: list[tuple[int, float]] = []
    index = 0
    for span in histogram.get(f"{sign}_spans", []):
        index += _signed(span.get("offset", 0))
        length = span.get("length", 0)
        if length > len(counts) - len(found):
            raise ValueError("spans have more buckets than there are counts")
        found += [(index + k, counts[len(found) + k]) for k in range(length)]
        index += length
    if len(found) != len(counts):
        raise ValueError("there are more counts than buckets")
    return found


def _signed(zigzag: int) -> int:
    return (zigzag >> 1) ^ -(zigzag & 1)


def _le(bound: float) -> bytes:
    """As Prometheus 3 writes it: with an exponent from a million on, and below a ten-thousandth."""
    if bound == 0 or 1e-4 <= abs(bound) < 1e6:
        text = number_text(bound)
        return (text if "." in text else f"{text}.0").encode()
    sign, digits, power = Decimal(repr(bound)).normalize().as_tuple()
    assert isinstance(power, int), "it is finite"
    power += len(digits) - 1
    rest = "".join(map(str, digits[1:]))
    return f"{'-' if sign else ''}{digits[0]}{rest and f'.{rest}'}e{'-' if power < 0 else '+'}{abs(power):02}".encode()
