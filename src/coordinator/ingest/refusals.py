"""What the ingest server does not store: counted, with an example, for the log and for ``/ready``. Pure: the time is an argument."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from m3metrics.ids import readable_id
from m3metrics.policy import StoragePolicy, format_duration

__all__ = ["AskedBy", "RefusalReason", "Refusals", "Refused"]

_SECOND = 1_000_000_000
_KEPT_NS = 300 * _SECOND
_KEPT_WINDOWS = 3
"""A problem is listed for five minutes, or three windows of the policy if they take longer, after its last value."""
_LOGGED_EVERY_NS = 60 * _SECOND
_MOST_LISTED = 20
_MOST_RULES = 5
_LONGEST = 1000
"""Bytes of an id and characters of an error that are shown."""
_MOST_POLICIES = 1000
"""Beyond it further policies share one entry, so that what comes in cannot fill the memory."""

AskedBy = Callable[[StoragePolicy], Sequence[str]]
"""The rules that ask for a storage policy, as they are called in messages."""


class RefusalReason(StrEnum):
    """Why values are not stored, as counters are tagged."""

    DECODE_ERROR = "decode-error"
    BAD_ID = "bad-id"
    NO_NAMESPACE = "no-namespace"
    READ_ONLY = "read-only-namespace"
    OUTSIDE_RETENTION = "outside-retention"
    TOO_MANY_SERIES = "too-many-series"
    STORAGE = "storage"


_ADVICE = {
    RefusalReason.DECODE_ERROR: "is the sender an aggregator of a release that this coordinator understands?",
    RefusalReason.BAD_ID: "who sends metrics with such ids to the aggregators?",
    RefusalReason.NO_NAMESPACE: "add the namespace to clusters[].namespaces, correct the rule that asks for it, or throw its values away "
    "with ingest.m3msg.handler.blackholePolicies",
    RefusalReason.READ_ONLY: "remove readOnly from the namespace, correct the rule that asks for it, or throw its values away "
    "with ingest.m3msg.handler.blackholePolicies",
    RefusalReason.OUTSIDE_RETENTION: "is the clock of this machine right, or have the aggregators been away for so long?",
    RefusalReason.TOO_MANY_SERIES: "only values of new series are concerned: let a rule aggregate labels away that make so many",
    RefusalReason.STORAGE: "is there room on the disk? They will be sent again",
}


@dataclass(slots=True)
class Refused:
    """Values that were not stored for one reason; of one storage policy, where that is the reason."""

    reason: RefusalReason
    policy: StoragePolicy | None
    since_ns: int
    """The first of them."""
    last_ns: int = 0
    messages: int = 0
    """Those that were sent again counted again."""
    error: str = ""
    metric: str = ""
    """The last one that was looked at, as people write it; empty where it could not be read."""
    peer: str = ""
    logged_ns: int | None = None

    @property
    def kept_until_ns(self) -> int:
        """When it is no problem any more, if nothing comes."""
        window_ns = self.policy.window_ns if self.policy is not None else 0
        return self.last_ns + max(_KEPT_NS, _KEPT_WINDOWS * window_ns)


class Refusals:
    """All of them; ``asked_by`` finds the rules behind a storage policy."""

    def __init__(self, asked_by: AskedBy = lambda _: ()) -> None:
        self._asked_by = asked_by
        self._entries: dict[tuple[str, int, int], Refused] = {}

    def note(
        self, reason: RefusalReason, messages: int, now_ns: int, *, error: str, metric: bytes = b"", peer: str = "",
        policy: StoragePolicy | None = None,
    ) -> Refused:  # fmt: skip
        """Counts messages that have come, with the id of one of them; returns what is known of their kind."""
        key = (reason, policy.window_ns, policy.retention_ns) if policy is not None else (reason, 0, 0)
        known = self._entries.get(key)
        if known is None or known.kept_until_ns < now_ns:
            self._forget(now_ns)
            if len(self._entries) >= _MOST_POLICIES:
                key, policy = (reason, 0, 0), None
            known = self._entries.setdefault(key, Refused(reason, policy, now_ns))
        known.messages += messages
        known.last_ns, known.peer = now_ns, peer
        known.error, known.metric = error[:_LONGEST], readable_id(metric[:_LONGEST])
        return known

    def to_be_logged(self, refused: Refused, now_ns: int) -> bool:
        """Whether a line about it is due: at the first of it, then once a minute."""
        due = refused.logged_ns is None or now_ns - refused.logged_ns >= _LOGGED_EVERY_NS
        if due:
            refused.logged_ns = now_ns
        return due

    def rules(self, refused: Refused) -> str:
        """The rules that ask for the policy; empty: none is known."""
        found = self._asked_by(refused.policy) if refused.policy is not None else ()
        more = [f"{len(found) - _MOST_RULES} more"] if len(found) > _MOST_RULES else []
        return ", ".join([*found[:_MOST_RULES], *more])

    def problems(self, now_ns: int) -> list[str]:
        """One line for each kind of which something has come lately, with what to do; the latest first."""
        self._forget(now_ns)
        listed = sorted(self._entries.values(), key=lambda refused: -refused.last_ns)
        more = len(listed) - _MOST_LISTED
        return [
            *(self._line(refused, now_ns) for refused in listed[:_MOST_LISTED]),
            *([f"ingest: values are not stored for {more} more reasons or storage policies"] if more > 0 else []),
        ]

    def _line(self, refused: Refused, now_ns: int) -> str:
        ago = format_duration(max(now_ns - refused.last_ns, 0) // _SECOND * _SECOND)
        example = f", like {refused.metric}" if refused.metric else ""
        asked = f"; asked for by {rules}" if (rules := self.rules(refused)) else ""
        policy = f" of policy {refused.policy}" if refused.policy is not None else ""
        messages = f"{refused.messages} message{'s' if refused.messages != 1 else ''}"
        return (
            f"ingest: {messages}{policy} not stored, the last one {ago} ago from {refused.peer}{example}: "
            f"{refused.error}{asked}; {_ADVICE[refused.reason]}"
        )

    def _forget(self, now_ns: int) -> None:
        self._entries = {key: known for key, known in self._entries.items() if known.kept_until_ns >= now_ns}
