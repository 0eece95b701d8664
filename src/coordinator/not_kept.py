"""Why a sample that was answered for is not kept: one vocabulary for every way into the coordinator, and its counter.

The table of all answers is docs/answers.md. A request that is refused as a whole is not counted here: its sender knows.
"""

from enum import StrEnum

from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["NotKept", "Reason"]

log = logger(__name__)


class Reason(StrEnum):
    """The tag ``reason`` of the counter."""

    DROP_RULE = "drop-rule"
    NO_RULE = "no-rule"
    NO_AGGREGATED_NAMESPACE = "no-aggregated-namespace"
    NOTHING_ASKED = "nothing-asked"
    INVALID_LABELS = "invalid-labels"
    TOO_LARGE = "too-large"
    OUTSIDE_RETENTION = "outside-retention"
    STORAGE_FULL = "storage-full"
    STORAGE_FAILED = "storage-failed"
    REFUSED_BY_STORE = "refused-by-store"
    BUFFER_FULL = "buffer-full"
    TOO_LATE = "too-late"
    TOO_EARLY = "too-early"
    AGGREGATION_TYPE = "aggregation-type"
    NATIVE_HISTOGRAM = "native-histogram"
    EXEMPLAR = "exemplar"
    CREATED_TIMESTAMP = "created-timestamp"
    METADATA = "metadata"
    MALFORMED = "malformed"
    NO_NUMBER = "no-number"
    LIMITED = "limited"

    @property
    def code(self) -> int:
        """A number above 0, for columns."""
        return _CODES[self]

    @property
    def text(self) -> str:
        """What an operator is told."""
        return _TEXTS[self]

    @property
    def meant(self) -> bool:
        """Whether it is not kept because rules or headers say so: nothing has gone wrong."""
        return self in _MEANT

    @classmethod
    def of_code(cls, code: int) -> "Reason":
        """The reason with that ``code``."""
        return _REASONS[code - 1]


_REASONS = tuple(Reason)
_CODES = {reason: code for code, reason in enumerate(_REASONS, 1)}
_TEXTS = {
    Reason.DROP_RULE: "a drop rule matches, and no rollup rule does",
    Reason.NO_RULE: "no rule asks for it, and no namespace takes metrics without a rule (downsample.all)",
    Reason.NO_AGGREGATED_NAMESPACE: "the request asks for aggregation only, and there is no aggregated namespace",
    Reason.NOTHING_ASKED: "the headers of the request ask neither for aggregation nor for storage",
    Reason.INVALID_LABELS: "its labels are not valid",
    Reason.TOO_LARGE: "the series is too large for a message to the aggregators, or for the series cache",
    Reason.OUTSIDE_RETENTION: "it is older than the namespace's retention, or too far in the future",
    Reason.STORAGE_FULL: "storage holds as many series as it may",
    Reason.STORAGE_FAILED: "storage failed",
    Reason.REFUSED_BY_STORE: "the store behind this coordinator refuses it for good",
    Reason.BUFFER_FULL: "the buffer towards the aggregators did not take it",
    Reason.TOO_LATE: "it is older than downsample.bufferPastLimits allow",
    Reason.TOO_EARLY: "it is more than a minute ahead of this machine's clock",
    Reason.AGGREGATION_TYPE: "no aggregation type that is asked for is possible for its metric type",
    Reason.NATIVE_HISTOGRAM: (
        "native histograms are not aggregated; expose the metric with classic buckets too, or set remoteWrite.nativeHistograms: classic"
    ),
    Reason.EXEMPLAR: "exemplars are not kept; send_exemplars can be false",
    Reason.CREATED_TIMESTAMP: "what a series was when it began is not kept",
    Reason.METADATA: "metadata records are not kept",
    Reason.MALFORMED: "its line or data point cannot be read",
    Reason.NO_NUMBER: "the field is a text",
    Reason.LIMITED: "its series is beyond a limit of its tenant (writeLimits)",
}
_MEANT = {Reason.DROP_RULE, Reason.NO_RULE, Reason.NO_AGGREGATED_NAMESPACE, Reason.NOTHING_ASKED}
_LOGGED = {
    Reason.NOTHING_ASKED,
    Reason.NO_AGGREGATED_NAMESPACE,
    Reason.NATIVE_HISTOGRAM,
    Reason.EXEMPLAR,
    Reason.AGGREGATION_TYPE,
}
"""What an operator may not expect, and no other log line tells."""
_LINES_PER_SECOND = 1 / 60


class NotKept:
    """``samples_not_kept{reason=…}`` of one way in."""

    def __init__(self, scope: Scope) -> None:
        self._scopes = {reason: scope.tagged(reason=reason.value) for reason in Reason}

    def count(self, reason: Reason, samples: int) -> None:
        """Counts, and says what is not to be expected, once a minute for each reason."""
        if samples <= 0:
            return
        self._scopes[reason].count("samples_not_kept", samples)
        if reason in _LOGGED:
            log.warning_limited(
                f"samples are not kept: {reason.text}",
                per_second=_LINES_PER_SECOND,
                reason=reason.value,
                samples=samples,
            )
