"""Why a metric is refused, and what the engine counts: the numbers that kernels use, the names that M3 gives them.

Names: docs/m3/aggregation.md, metric names. A *detail* is finer than M3's reason: it is what a log line says.
"""

from typing import NamedTuple


class Detail(NamedTuple):
    """One way of being refused."""

    text: str
    """M3's error text where it has one."""
    reason: str
    """M3's name of the reason, tag of the error counters; our own name where M3 has none."""


(
    D_NONE,
    D_NOT_OWNED,
    D_NOT_WRITEABLE,
    D_VALUE_LIMIT,
    D_NEW_LIMIT,
    D_CLOSED,
    D_FUTURE,
    D_PAST,
    D_METRIC_TYPE,
    D_EMPTY_LIST,
    D_NO_APPLICABLE,
    D_NO_PIPELINES,
    D_ONLY_DEFAULT,
    D_ONLY_DROP,
    D_AGGREGATION_TYPES,
    D_PIPELINE,
    D_RESEND_TYPE,
    D_MEMORY,
    D_UNRECOGNIZED,
    D_DECODE,
    D_RESOLUTION,
    D_LISTS,
    D_METADATAS,
    D_FRAME,
    D_DERIVATIVE,
    D_LATE,
    D_MIGRATION,
    D_PREVIOUS,
    D_NEW_MEMORY,
) = range(29)

DETAILS: tuple[Detail, ...] = (
    Detail("", ""),
    Detail("aggregator shard is not owned", "shard-not-owned"),
    Detail("aggregator shard is not writeable", "shard-not-writeable"),
    Detail("write value rate limit is exceeded", "value-rate-limit-exceeded"),
    Detail("write new metric rate limit is exceeded", "new-metric-rate-limit-exceeded"),
    Detail("aggregation is closed", "aggregation-closed"),
    Detail("too far in the future", "too-far-in-the-future"),
    Detail("too far in the past", "too-far-in-the-past"),
    Detail("invalid metric type", "not-categorized"),
    Detail("empty metadata list", "not-categorized"),
    Detail("no applicable metadata", "not-categorized"),
    Detail("no pipelines in metadata", "not-categorized"),
    Detail("only default staged metadata provided", "not-categorized"),
    Detail("only drop policy staged metadata provided", "not-categorized"),
    Detail("invalid aggregation types", "not-categorized"),
    Detail("pipeline has too many transformations", "not-categorized"),
    Detail("only gauges support updating values", "not-categorized"),
    Detail("memory limit reached", "memory-limit"),
    Detail("unrecognized message type", "unrecognized-message-type"),
    Detail("message cannot be decoded", "decode"),
    Detail("resolution is not positive", "not-categorized"),
    Detail("too many different resolutions", "too-many-lists"),
    Detail("too many different metadatas", "too-many-metadatas"),
    Detail("no m3msg message in a frame", "frame"),
    Detail("transformation derivative order is higher than supported 1", "not-categorized"),
    Detail("arrived too late", "arrived-too-late"),
    Detail("aggregation closed before resendEnabled migration", "aggregation-closed"),
    Detail("fewer previous values than values", "not-categorized"),
    Detail("memory limit reached for new metrics", "new-metric-memory-limit"),
)

UNTIMED, TIMED, FORWARDED, OTHER = range(4)
CATEGORIES = ("addUntimed", "addTimed", "addForwarded", "ingest")
"""Rows of the matrix of error counts; ``ingest``: refused before it is known what it is."""

_names: list[str] = []


def _count(*names: str) -> int:
    """Number of the first of some counters in a row: the only one, or one each for untimed, timed and forwarded metrics."""
    _names.extend(names)
    return len(_names) - len(names)


def _each(name: str, tag: str = "entry-type", untimed: str = "untimed") -> int:
    return _count(*(f"{name}{{{tag}={kind}}}" for kind in (untimed, "timed", "forwarded")))


C_COUNTERS = _count("counters")
C_TIMERS = _count("timers")
C_TIMER_BATCHES = _count("timer-batches")
C_GAUGES = _count("gauges")
C_FORWARDED = _count("forwarded")
C_TIMED = _count("timed")
C_PASSTHROUGH = _count("passthrough")
C_SUCCESS = _count("addUntimed.success", "addTimed.success", "addForwarded.success")
C_PASSED = _count("addPassthrough.success")
C_PASSED_DROPPED = _count("addPassthrough.dropped")
C_NOT_WRITEABLE = _count("shard.not-writeable-errors")
C_WRITE_SUCCESS = _count("shard.write-success")
C_NEW_ENTRIES = _count("map.new-entries")
C_NEW_WARMUP = _count("map.no-rate-limit-warmup")
C_NEW_REFUSED = _count("map.new-metric-rate-limit-exceeded")
C_RETRIED = _count("entry.retried-values")
C_RESEND = _count("entry.resend-enabled")
C_OUT_OF_ORDER = _count("aggregation.gauges.values-out-of-order")
C_VALUE_REFUSED = _each("entry.value-rate-limit-exceeded")
C_DROPPED_VALUES = _each("entry.dropped-values")
C_STALE = _count("entry.stale-metadata{entry-type=untimed}")
C_TOMBSTONED = _each("entry.tombstoned-metadata")
C_UPDATES = _each("entry.metadatas-updates")
C_EMPTY_LIST = _count("entry.empty-metadatas{entry-type=untimed}")
C_NO_APPLICABLE = _count("entry.no-applicable-metadata{entry-type=untimed}")
C_NO_PIPELINES = _each("entry.no-pipelines-in-metadata")
C_FUTURE = _count("entry.too-far-in-the-future{entry-type=timed}")
C_PAST = _count("entry.too-far-in-the-past{entry-type=timed}")
C_LATE = _count("entry.arrived-too-late{entry-type=forwarded}")
C_DUPLICATES = _count("entry.duplicate-sources{entry-type=forwarded}")
C_UPDATED_VALUES = _count("updated-values")
C_EXPIRED = _each("tick.expired-entries", "metric-type", "standard")
C_LOG_CAPPED = _count("timer.samples-beyond-cap")
C_LOG_FULL = _count("timer.samples-without-memory")
C_ANNOTATIONS_DROPPED = _count("annotations-dropped")
C_LATE_RECORDS = _count("late-records")
C_EMITTED = _count("list.flush.metric-consume-success{flush-type=local}")
C_FORWARDED_OUT = _count("list.flush.metric-consumed{flush-type=forwarded}")
C_DISCARDED = _count("list.flush.metric-discarded{flush-type=local}")
C_STALE_FLUSH = _count("list.flush-before.stale")
C_COLLECTED = _count("list.flush.elem-collected")
C_MESSAGES = _count("messages")
C_REDELIVERED = _count("redelivered")

COUNTERS: tuple[str, ...] = tuple(_names)
"""Names of the counters by number. Of one that each category has, the category is added to the number."""


def error_name(category: int, reason: str) -> str:
    """Name of the counter of one reason: ``addTimed.errors{reason=too-far-in-the-past}``."""
    return f"{CATEGORIES[category]}.errors{{reason={reason}}}"
