"""Samples that come too late or too early where aggregation happens inside: they are not sent, and their senders hear of it
(docs/m3/coordinator.md, aggregation inside).

A message (a sample under one of its ids) is judged by each of its storage policies. What no policy takes is not sent; what some take is
sent as it is, and counts where its window is open. Either way the sample is refused in M3's words. A request without such samples costs
two comparisons a message.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.examples import Examples
from coordinator.not_kept import Reason
from m3metrics.codec import decode_staged_metadatas
from m3metrics.past_limits import PastLimits
from m3x.clock import wall_ns
from m3x.golang import go_duration

__all__ = ["Door", "Refused"]

_FUTURE_NS = 60_000_000_000
"""Not configurable, as in M3."""
_MOST_KNOWN = 4096


@dataclass(slots=True)
class Refused:
    """Samples of a request that a policy refused."""

    samples: int = 0
    last: str = ""
    """What the last of them is told."""
    example: tuple[bytes, int] | None = None
    """Id and Unix nanoseconds of one of them, for the log."""
    not_sent: dict[Reason, int] = field(default_factory=dict)
    """Samples of which no message is sent."""


class Door:
    """Judges by ``limits`` and by the clock."""

    def __init__(self, limits: PastLimits, now_ns: Callable[[], int] = wall_ns) -> None:
        self._limits = limits
        self._least_ns = min(past for _, past in limits.limits)
        self._now_ns = now_ns
        self._examples = Examples()
        self._known: dict[bytes, tuple[int, ...]] = {}
        """By staged metadatas: how late samples may be for each of their policies."""

    def judge(
        self,
        arena: NDArray[np.uint8],
        templates: NDArray[Any],
        which: NDArray[np.int64],
        times_ns: NDArray[np.int64],
        samples: Callable[[], NDArray[np.int64]],
        refused: Refused,
    ) -> NDArray[np.bool_] | None:
        """Which messages are to be sent; None: all. ``which``: the template of each; ``samples``: makes the sample of each, ascending.

        What is refused is added to ``refused``.
        """
        now_ns = self._now_ns()
        odd = (times_ns < now_ns - self._least_ns) | (times_ns > now_ns + _FUTURE_NS)
        if not odd.any():
            return None
        sent = np.ones(len(which), np.bool_)
        sample_of, told, named = samples(), {}, []
        for message in np.flatnonzero(odd).tolist():
            template = templates[which[message]]
            if template["untimed"]:
                continue
            at, size = int(template["meta_at"]), int(template["meta_size"])
            pasts = self._pasts(arena[at : at + size].tobytes(), now_ns)
            texts = self._texts(int(times_ns[message]), now_ns, pasts)
            if texts:
                sent[message] = len(texts) < len(pasts)
                told[int(sample_of[message])] = texts, times_ns[message] > now_ns
                named.append(message)
        if not told:
            return None
        kept = np.bincount(sample_of[sent], minlength=int(sample_of[-1]) + 1)
        for sample, (_, early) in told.items():
            if not kept[sample]:
                reason = Reason.TOO_EARLY if early else Reason.TOO_LATE
                refused.not_sent[reason] = refused.not_sent.get(reason, 0) + 1
        refused.samples += len(told)
        refused.last = "\n".join(told[max(told)][0])
        message = named[self._examples.choose(len(named))]
        template = templates[which[message]]
        at, size = int(template["id_at"]), int(template["id_size"])
        refused.example = arena[at : at + size].tobytes(), int(times_ns[message])
        return sent

    def _pasts(self, metadatas: bytes, now_ns: int) -> tuple[int, ...]:
        found = self._known.get(metadatas)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            stages = decode_staged_metadatas(metadatas)
            active = next((stage for stage in reversed(stages) if stage.cutover_ns <= now_ns), stages[0])
            policies = [policy for pipeline in active.pipelines for policy in pipeline.storage_policies]
            found = tuple(self._limits.of(policy.window_ns) for policy in policies)
            if len(stages) == 1:
                self._known[metadatas] = found
        return found

    @staticmethod
    def _texts(time_ns: int, now_ns: int, pasts: tuple[int, ...]) -> list[str]:
        """What the policies that refuse it say, in M3's words."""
        if time_ns > now_ns + _FUTURE_NS:
            return [_text("future", time_ns, now_ns + _FUTURE_NS, time_ns - now_ns - _FUTURE_NS)] * len(pasts)
        late = (now_ns - past for past in pasts)
        return [_text("past", time_ns, limit_ns, limit_ns - time_ns) for limit_ns in late if time_ns < limit_ns]


def _text(what: str, time_ns: int, limit_ns: int, off_ns: int) -> str:
    return (
        f"datapoint for aggregation too far in {what}: off_by={go_duration(off_ns)}, timestamp={_seconds(time_ns)}, "
        f"{what}_limit={_seconds(limit_ns)}, timestamp_unix_nanos={time_ns}, {what}_limit_unix_nanos={limit_ns}"
    )


def _seconds(time_ns: int) -> str:
    """RFC 3339 without a fraction."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
