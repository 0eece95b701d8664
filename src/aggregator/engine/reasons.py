"""Why a metric is refused, and what the engine counts: the numbers that kernels use, the names that M3 gives them.

Names: reference/aggregator_core.md §19. A *detail* is finer than M3's reason: it is what a log line says.
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
    D_FORWARDED,
    D_MEMORY,
    D_UNRECOGNIZED,
    D_DECODE,
    D_RESOLUTION,
    D_LISTS,
    D_METADATAS,
    D_FRAME,
) = range(24)

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
    Detail("pipelines with operations are not supported", "pipeline-not-supported"),
    Detail("forwarded metrics are not supported", "pipeline-not-supported"),
    Detail("memory limit reached", "memory-limit"),
    Detail("unrecognized message type", "unrecognized-message-type"),
    Detail("message cannot be decoded", "decode"),
    Detail("resolution is not positive", "not-categorized"),
    Detail("too many different resolutions", "too-many-lists"),
    Detail("too many different metadatas", "too-many-metadatas"),
    Detail("no m3msg message in a frame", "frame"),
)

UNTIMED, TIMED, FORWARDED, OTHER = range(4)
CATEGORIES = ("addUntimed", "addTimed", "addForwarded", "ingest")
"""Rows of the matrix of error counts; ``ingest``: refused before it is known what it is."""

C_COUNTERS = 0
C_TIMERS = 1
C_TIMER_BATCHES = 2
C_GAUGES = 3
C_FORWARDED = 4
C_TIMED = 5
C_SUCCESS = 6  # + category: 6, 7
C_NOT_WRITEABLE = 8
C_WRITE_SUCCESS = 9
C_NEW_ENTRIES = 10
C_NEW_WARMUP = 11
C_NEW_REFUSED = 12
C_RETRIED = 13
C_OUT_OF_ORDER = 14
C_VALUE_REFUSED = 15  # + category
C_DROPPED_VALUES = 17  # + category
C_STALE = 19
C_TOMBSTONED = 20  # + category
C_UPDATES = 22  # + category
C_EMPTY_LIST = 24
C_NO_APPLICABLE = 25
C_NO_PIPELINES = 26  # + category
C_FUTURE = 28
C_PAST = 29
C_EXPIRED = 30  # + category
C_LOG_CAPPED = 32
C_LOG_FULL = 33
C_ANNOTATIONS_DROPPED = 34
C_LATE_RECORDS = 35
C_EMITTED = 36
C_DISCARDED = 37
C_STALE_FLUSH = 38
C_COLLECTED = 39
C_MESSAGES = 40

COUNTERS: tuple[str, ...] = (
    "counters",
    "timers",
    "timer-batches",
    "gauges",
    "forwarded",
    "timed",
    "addUntimed.success",
    "addTimed.success",
    "shard.not-writeable-errors",
    "shard.write-success",
    "map.new-entries",
    "map.no-rate-limit-warmup",
    "map.new-metric-rate-limit-exceeded",
    "entry.retried-values",
    "aggregation.gauges.values-out-of-order",
    "entry.value-rate-limit-exceeded{entry-type=untimed}",
    "entry.value-rate-limit-exceeded{entry-type=timed}",
    "entry.dropped-values{entry-type=untimed}",
    "entry.dropped-values{entry-type=timed}",
    "entry.stale-metadata{entry-type=untimed}",
    "entry.tombstoned-metadata{entry-type=untimed}",
    "entry.tombstoned-metadata{entry-type=timed}",
    "entry.metadatas-updates{entry-type=untimed}",
    "entry.metadatas-updates{entry-type=timed}",
    "entry.empty-metadatas{entry-type=untimed}",
    "entry.no-applicable-metadata{entry-type=untimed}",
    "entry.no-pipelines-in-metadata{entry-type=untimed}",
    "entry.no-pipelines-in-metadata{entry-type=timed}",
    "entry.too-far-in-the-future{entry-type=timed}",
    "entry.too-far-in-the-past{entry-type=timed}",
    "tick.expired-entries{metric-type=standard}",
    "tick.expired-entries{metric-type=timed}",
    "timer.samples-beyond-cap",
    "timer.samples-without-memory",
    "annotations-dropped",
    "late-records",
    "list.flush.metric-consume-success{flush-type=local}",
    "list.flush.metric-discarded{flush-type=local}",
    "list.flush-before.stale",
    "list.flush.elem-collected",
    "messages",
)
"""Names of the counters by number. The category of a counter that has one is 0 for untimed, 1 for timed."""


def error_name(category: int, reason: str) -> str:
    """Name of the counter of one reason: ``addTimed.errors{reason=too-far-in-the-past}``."""
    return f"{CATEGORIES[category]}.errors{{reason={reason}}}"
