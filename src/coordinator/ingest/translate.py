"""A batch of ``AggregatedMetric`` messages → columns for the store, and a verdict per message. Pure: no sockets, no clocks.

Messages of the shape that aggregators send are decoded by a kernel; their policy bytes and id bytes are looked up in tables, so that
a message that is like earlier ones costs no Python. Everything else is decoded by the plain codec, one by one.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.ingest.outlet import Arrived
from coordinator.ingest.suffixes import Suffixes
from m3metrics.codec import decode_aggregated, decode_storage_policy, encode_storage_policy
from m3metrics.errors import CodecError
from m3metrics.kernels import decode_aggregated as decode_rows
from m3metrics.policy import StoragePolicy
from m3metrics.rows import AGGREGATED_ROW, ROW_OK
from m3x.byte_table import ByteTable

__all__ = ["Namespaces", "Rejected", "Translation", "Translator", "Verdict"]

_MAX_POLICIES = 4096
"""Beyond it all are judged anew, so that what comes in cannot fill the memory."""


class Verdict(IntEnum):
    """What is to happen with a message; which of them are acknowledged: ``coordinator.ingest.server``."""

    WRITE = 0
    BLACKHOLE = 1
    """To be thrown away (docs/m3/coordinator.md, what is acked)."""
    DECODE_ERROR = 2
    """No ``AggregatedMetric``, or one whose storage policy cannot be."""
    NO_NAMESPACE = 3
    """There is no namespace of exactly that resolution and retention."""
    READ_ONLY = 4
    """There is, and nothing may be written to it."""


@dataclass(slots=True)
class Rejected:
    """Messages of a batch that are not written, all for one reason."""

    verdict: Verdict
    rows: NDArray[np.int64]
    text: str
    """What is wrong with the first of them."""
    policy: StoragePolicy | None = None
    metric: bytes = b""
    """Id of the first; empty where it cannot be read."""


@dataclass(slots=True)
class Translation:
    """A decoded batch."""

    verdicts: NDArray[np.uint8]
    """A ``Verdict`` per message."""
    rows: NDArray[np.int64]
    """The messages to be written, ascending."""
    batch: Arrived
    """One row for each of ``rows``."""
    rejected: list[Rejected]
    """The messages that are neither written nor thrown away: one entry per storage policy, and one for what cannot be decoded."""


class Namespaces(Protocol):
    """Where values of a storage policy go."""

    def verdict(self, policy: StoragePolicy) -> tuple[Verdict, int, str]:
        """The verdict, the outlet's index of the policy (``WRITE``), what is wrong (neither ``WRITE`` nor ``BLACKHOLE``)."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A storage policy as its bytes came."""

    verdict: Verdict
    index: int
    text: str
    policy: StoragePolicy | None


class Translator:
    """Asks ``namespaces`` once for each policy; when they change, a new one is needed. ``suffixes``: what makes labels of those of ids;
    None: they are left out, as by M3."""

    def __init__(self, namespaces: Namespaces, suffixes: Suffixes | None = None) -> None:
        self._namespaces = namespaces
        self._suffixes = suffixes
        self._forget()

    def _forget(self) -> None:
        self._policies = ByteTable()
        self._judged: list[_Judged] = []
        self._verdicts = np.zeros(0, np.uint8)
        self._indexes = np.zeros(0, np.int64)

    def translate(self, buf: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Translation:
        """``buf[starts[i]:ends[i]]`` are the messages; ``buf`` is writable."""
        count = len(starts)
        rows = np.zeros(count, AGGREGATED_ROW)
        verdicts = np.zeros(count, np.uint8)
        rejected: list[Rejected] = []
        if decode_rows(buf, starts, ends, count, rows):
            buf, undecodable = self._decode_odd(buf, rows)
            if undecodable:
                broken = np.array(list(undecodable), np.int64)
                verdicts[broken] = Verdict.DECODE_ERROR
                rejected.append(Rejected(Verdict.DECODE_ERROR, broken, next(iter(undecodable.values()))))
        sound = np.flatnonzero(verdicts == Verdict.WRITE)
        readable = rows if len(sound) == count else rows[sound]
        numbers = self._numbers(buf, readable["policy_at"].astype(np.int64), readable["policy_size"].astype(np.int64))
        verdicts[sound] = self._verdicts[numbers]
        rejected += self._rejected(buf, rows, sound, numbers)
        kept = np.flatnonzero(verdicts == Verdict.WRITE)
        chosen = rows if len(kept) == count else rows[kept]
        id_at, id_size = chosen["id_at"].astype(np.int64), chosen["id_size"].astype(np.int64)
        if self._suffixes is not None:
            buf, id_at, id_size = self._suffixes.labelled(buf, id_at, id_size)
        return Translation(
            verdicts=verdicts,
            rows=kept,
            batch=Arrived(
                buf=buf,
                id_at=id_at,
                id_size=id_size,
                time_ns=np.ascontiguousarray(chosen["time_ns"]),
                values=np.ascontiguousarray(chosen["value"]),
                policies=self._indexes[numbers if len(kept) == count else numbers[verdicts[sound] == Verdict.WRITE]],
                annotation_at=chosen["annotation_at"],
                annotation_size=chosen["annotation_size"],
            ),
            rejected=rejected,
        )

    def _numbers(self, buf: NDArray[np.uint8], at: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of the policies ``buf[at[i]:at[i] + size[i]]``; those not seen before are judged."""
        numbers, unknown = self._policies.find(buf, at, size)
        if not unknown:
            return numbers
        if len(self._policies) > _MAX_POLICIES:
            self._forget()
            numbers = np.full(len(at), -1, np.int64)
        fresh = list(
            dict.fromkeys(buf[at[i] : at[i] + size[i]].tobytes() for i in np.flatnonzero(numbers < 0).tolist())
        )
        self._policies.add(fresh, range(len(self._judged), len(self._judged) + len(fresh)))
        self._judged += map(self._judge, fresh)
        self._verdicts = np.array([one.verdict for one in self._judged], np.uint8)
        self._indexes = np.array([one.index for one in self._judged], np.int64)
        return self._policies.find(buf, at, size)[0]

    def _judge(self, data: bytes) -> _Judged:
        try:
            policy = decode_storage_policy(data)
        except CodecError as error:
            return _Judged(Verdict.DECODE_ERROR, 0, str(error), None)
        return _Judged(*self._namespaces.verdict(policy), policy)

    def _rejected(
        self, buf: NDArray[np.uint8], rows: NDArray[np.void], sound: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> list[Rejected]:
        """One entry for each policy of the batch that is not written nor thrown away."""
        bad = np.flatnonzero(self._verdicts[numbers] > Verdict.BLACKHOLE)
        if len(bad) == 0:
            return []
        by_policy = bad[np.argsort(numbers[bad], kind="stable")]
        found = []
        for group in np.split(by_policy, np.flatnonzero(np.diff(numbers[by_policy])) + 1):
            judged, row = self._judged[numbers[group[0]]], rows[sound[group[0]]]
            at = int(row["id_at"])
            metric = buf[at : at + int(row["id_size"])].tobytes()
            found.append(Rejected(judged.verdict, sound[group], judged.text, judged.policy, metric))
        return found

    def _decode_odd(self, buf: NDArray[np.uint8], rows: NDArray[np.void]) -> tuple[NDArray[np.uint8], dict[int, str]]:
        """Fills the rows that the kernel left to us. The buffer with their ids and policies behind the rest; what is wrong with which."""
        more = bytearray()
        undecodable: dict[int, str] = {}
        for row in np.flatnonzero(rows["status"] != ROW_OK).tolist():
            at, size = int(rows[row]["message_at"]), int(rows[row]["message_size"])
            try:
                metric = decode_aggregated(buf[at : at + size].tobytes())
            except CodecError as error:
                undecodable[row] = str(error)
                continue
            policy = encode_storage_policy(metric.storage_policy)
            for field, data in (("id", metric.id), ("policy", policy), ("annotation", metric.annotation)):
                rows[row][f"{field}_at"] = len(buf) + len(more)
                rows[row][f"{field}_size"] = len(data)
                more += data
            rows[row]["time_ns"] = metric.time_ns
            rows[row]["value"] = metric.value
        return (np.concatenate([buf, np.frombuffer(more, np.uint8)]) if more else buf), undecodable
