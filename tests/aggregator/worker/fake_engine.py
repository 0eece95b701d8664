"""A worker process whose engine only writes a diary: what it was given, in order. ``fake_engine.py --options FILE``

A flush answers with ``times_forwarded`` parts of ``resolution_ns`` bytes, the first bytes being the diary at the moment when the flush
closed its windows, and the last eight the number of its entries when the part was made; parts of a flush of forwarded lists are forwarded
ones. A batch that contains ``boom`` makes the engine fail.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.lists import KIND_FORWARDED, ListId
from aggregator.worker import WorkerOptions, run
from m3metrics.growth import GrowthReport
from m3metrics.traffic import TrafficReport
from m3msg.batch import MessageBatch
from m3x.process import die_with_parent


@dataclass
class Result:
    acks: NDArray[np.uint8]
    ack_sizes: NDArray[np.int64]
    messages: int
    rows: NDArray[np.uint8]
    expected: bool


@dataclass
class Part:
    batch: MessageBatch | None
    last: bool
    discarded: int
    forwarded: bool = False
    early: bool = False


class Output:
    early = False

    def __init__(self, parts: Iterator[Part]) -> None:
        self._parts = parts

    def __iter__(self) -> "Output":
        return self

    def __next__(self) -> Part:
        return next(self._parts)


class Diary:
    def __init__(self) -> None:
        self.recent_errors: list[tuple[str, str]] = []
        self.entries: list[list[object]] = []
        self.lists: list[ipc.NewList] = []

    def ingest(self, payload: NDArray[np.uint8], sizes: NDArray[np.int64], now_ns: int, **_: object) -> Result:
        text = payload.tobytes()
        if b"boom" in text:
            raise RuntimeError("the engine fails")
        if b"list" in text:
            self.lists.append(ipc.NewList(3, ListId(0, 10**10), now_ns))
        if b"bad" in text:
            self.recent_errors.append(("decode-error", "id bad"))
        self.entries.append(["batch", now_ns, text.decode()])
        acks = b"".join(b"ack of %d;" % size for size in sizes)
        return Result(
            np.frombuffer(acks, np.uint8),
            np.array([len(b"ack of %d;" % s) for s in sizes]),
            len(sizes),
            payload[:0],
            expected=False,
        )

    def set_shards(self, command: ipc.Shards, now_ns: int) -> None:
        self.entries.append(["shards", now_ns, command.num_shards])

    def set_runtime(self, command: ipc.RuntimeOptions) -> None:
        self.entries.append(["runtime", command.values_per_metric_limit_per_second])

    def expire(self, now_ns: int) -> None:
        self.entries.append(["expire", now_ns])

    def commit(self, command: ipc.Commit) -> None:
        self.entries.append(["commit", command.through_ns])

    def reopen(self, command: ipc.Reopen) -> None:
        kind, resolution_ns, times_forwarded = command.list_id
        self.entries.append(["reopen", kind, resolution_ns, command.since_ns, times_forwarded])

    def new_lists(self) -> list[ipc.NewList]:
        out, self.lists = self.lists, []
        return out

    @property
    def passes_on(self) -> bool:
        return False

    def take_passthrough(self) -> MessageBatch | None:
        return None

    def flush(self, command: ipc.Flush, now_ns: int) -> "Output":
        self.entries.append(["close", now_ns, command.id])
        return Output(self._parts(command, json.dumps(self.entries).encode()))

    def _parts(self, command: ipc.Flush, diary: bytes) -> Iterator[Part]:
        for k in range(command.list_id.times_forwarded):
            payload = np.zeros(command.list_id.resolution_ns, np.uint8)
            payload[: len(diary)] = np.frombuffer(diary, np.uint8)
            payload[-8:] = np.array([len(self.entries)], "<i8").view(np.uint8)
            batch = MessageBatch(
                payload,
                np.array([0, len(diary), len(payload)]),
                np.array([1, 2], np.uint32),
                None if k else np.zeros(2, np.uint16),
                ("10s:2d",),
                None if k else np.array([3, 4], np.uint32),
            )
            yield Part(batch, False, 0, command.list_id.kind == KIND_FORWARDED)
        yield Part(None, True, 5)

    def stats(self) -> tuple[dict[str, int], dict[str, float], list[ipc.ShardStats]]:
        return {"engine.entries": len(self.entries)}, {}, [ipc.ShardStats(3, 1, 2, 0)]

    def forget_marks(self) -> None:
        self.entries.append(["other connections"])

    def late_values(self) -> int:
        return 0

    def successes(self) -> list[int]:
        return [len(self.entries), 0, 0]

    def memory_bytes(self) -> int:
        return 1

    def growth(self) -> GrowthReport:
        return GrowthReport(new_series=len(self.entries))

    def traffic(self) -> TrafficReport:
        return TrafficReport(messages=len(self.entries))


def main() -> int:
    options = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=WorkerOptions)
    die_with_parent(options.parent_pid)
    return run(options, Diary())


if __name__ == "__main__":
    sys.exit(main())
