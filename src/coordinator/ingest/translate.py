"""A batch of ``AggregatedMetric`` messages → columns for the store, and a verdict per message. Pure: no sockets, no clocks.

Messages of the shape that aggregators send are decoded by a kernel; their policy bytes and id bytes are looked up in tables, so that
a message that is like earlier ones costs no Python. Everything else is decoded by the plain codec, one by one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.store import WriteBatch
from coordinator.store.id_table import IdTable
from m3metrics.codec import decode_aggregated, decode_storage_policy, encode_storage_policy
from m3metrics.errors import CodecError
from m3metrics.kernels import decode_aggregated as decode_rows
from m3metrics.policy import StoragePolicy, format_duration
from m3metrics.rows import AGGREGATED_ROW, ROW_OK

__all__ = ["Intake", "Translator", "Verdict"]

_MAX_POLICIES = 4096


class Verdict:
    """What is to happen with a message (reference/coordinator.md §11.2)."""

    WRITE = 0
    BLACKHOLE = 1
    """Acknowledged and thrown away."""
    DECODE_ERROR = 2
    """Not acknowledged: the sender repeats it until it gives up."""
    NO_NAMESPACE = 3
    """Storage has no namespace of exactly that resolution and retention; not acknowledged, in case one is configured yet."""


@dataclass(slots=True)
class Intake:
    """A decoded batch."""

    verdicts: NDArray[np.uint8]
    """A constant of ``Verdict`` per message."""
    rows: NDArray[np.int64]
    """The messages to be written, ascending."""
    batch: WriteBatch
    """One row for each of ``rows``."""
    errors: list[tuple[int, str]]
    """Messages with ``DECODE_ERROR`` or ``NO_NAMESPACE`` and what is wrong with them, at most one per text."""


class Translator:
    """``policy_index(window_ns, retention_ns)`` is the store's; ``blackhole`` are policies to be thrown away, their precision ignored."""

    def __init__(self, policy_index: Callable[[int, int], int], blackhole: Iterable[StoragePolicy] = ()) -> None:
        self._policy_index = policy_index
        self._blackhole = tuple(blackhole)
        self._policies = IdTable()
        self._verdicts = np.zeros(_MAX_POLICIES, np.uint8)
        self._indexes = np.zeros(_MAX_POLICIES, np.int64)
        self._texts: list[str] = []

    def translate(self, buf: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Intake:
        """``buf[starts[i]:ends[i]]`` are the messages; ``buf`` is writable."""
        count = len(starts)
        rows = np.zeros(count, AGGREGATED_ROW)
        verdicts = np.zeros(count, np.uint8)
        texts: dict[str, int] = {}
        if decode_rows(buf, starts, ends, count, rows):
            buf = self._decode_odd(buf, rows, verdicts, texts)
        sound = np.flatnonzero(verdicts == Verdict.WRITE)
        at, size = rows["policy_at"][sound].astype(np.int64), rows["policy_size"][sound].astype(np.int64)
        numbers, unknown = self._policies.find(buf, at, size)
        if unknown:
            if len(self._policies) + unknown > _MAX_POLICIES:
                self._policies, self._texts = IdTable(), []
                numbers = np.full(len(at), -1, np.int64)
            for row in np.flatnonzero(numbers < 0)[:_MAX_POLICIES].tolist():
                numbers[row] = self._policy(buf[at[row] : at[row] + size[row]].tobytes())
        verdicts[sound] = np.where(numbers < 0, Verdict.DECODE_ERROR, self._verdicts[numbers])
        for row in np.flatnonzero((verdicts[sound] != Verdict.WRITE) & (numbers >= 0)).tolist():
            if self._texts[numbers[row]]:
                texts.setdefault(self._texts[numbers[row]], int(sound[row]))
        kept = np.flatnonzero(verdicts == Verdict.WRITE)
        chosen = rows if len(kept) == count else rows[kept]
        return Intake(
            verdicts=verdicts,
            rows=kept,
            batch=WriteBatch(
                buf=buf,
                id_at=chosen["id_at"].astype(np.int64),
                id_size=chosen["id_size"].astype(np.int64),
                # Towards zero, as Go divides.
                time_ms=_milliseconds(chosen["time_ns"]),
                values=np.ascontiguousarray(chosen["value"]),
                policies=self._indexes[numbers[verdicts[sound] == Verdict.WRITE]],
            ),
            errors=[(row, text) for text, row in texts.items()],
        )

    def _policy(self, data: bytes) -> int:
        """Number of those policy bytes, which may be new."""
        (known,) = self._policies.find_keys([data]).tolist()
        if known >= 0:
            return int(known)
        number = len(self._policies)
        self._verdicts[number], self._indexes[number], text = self._judge(data)
        self._texts.append(text)
        self._policies.add([data], [number])
        return number

    def _judge(self, data: bytes) -> tuple[int, int, str]:
        try:
            policy = decode_storage_policy(data)
        except CodecError as error:
            return Verdict.DECODE_ERROR, 0, str(error)
        if any(policy.equivalent(one) for one in self._blackhole):
            return Verdict.BLACKHOLE, 0, ""
        index = self._policy_index(policy.window_ns, policy.retention_ns)
        if index < 0:
            retention, resolution = format_duration(policy.retention_ns), format_duration(policy.window_ns)
            return (
                Verdict.NO_NAMESPACE,
                0,
                f"no configured cluster namespace for: retention={retention}, resolution={resolution}",
            )
        return Verdict.WRITE, index, ""

    def _decode_odd(
        self,
        buf: NDArray[np.uint8],
        rows: NDArray[np.void],
        verdicts: NDArray[np.uint8],
        texts: dict[str, int],
    ) -> NDArray[np.uint8]:
        """Fills the rows that the kernel left to us; returns the buffer with their ids and policies behind the rest."""
        more = bytearray()
        for row in np.flatnonzero(rows["status"] != ROW_OK).tolist():
            at, size = int(rows[row]["message_at"]), int(rows[row]["message_size"])
            try:
                metric = decode_aggregated(buf[at : at + size].tobytes())
            except CodecError as error:
                verdicts[row] = Verdict.DECODE_ERROR
                texts.setdefault(str(error), row)
                continue
            for field, data in (("id", metric.id), ("policy", encode_storage_policy(metric.storage_policy))):
                rows[row][f"{field}_at"] = len(buf) + len(more)
                rows[row][f"{field}_size"] = len(data)
                more += data
            rows[row]["time_ns"] = metric.time_ns
            rows[row]["value"] = metric.value
        return np.concatenate([buf, np.frombuffer(more, np.uint8)]) if more else buf


def _milliseconds(time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    whole: NDArray[np.int64] = time_ns // 1_000_000
    whole[(time_ns < 0) & (whole * 1_000_000 != time_ns)] += 1
    return whole
