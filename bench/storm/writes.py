"""``scripts/bench storm --coordinator``: known series at the door of a coordinator, while millions of new ones come by remote write.

The aggregator is a consumer in this process, which acks at once and judges what it gets of known series: whether each has come in every
round with the value of that round, and how long after its request was due. Run as a program it is the sender of new series.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
from lab.cluster import member, write_cluster
from lab.http import get, get_json
from lab.kv import kv_of
from lab.processes import family
from numpy.typing import NDArray

from bench.messages import digits, varint_columns
from bench.storm.series import RESOLUTION_S, values_of
from bench.writes import Loaded, posting
from coordinator.prompb import WRITE_REQUEST
from m3metrics.kernels import decode_metrics
from m3metrics.rows import METRIC_ROW
from m3msg.consumer import ConsumerServer, ReceivedBatch
from m3x.process import own_bytes
from m3x.protobuf import marshal

__all__ = ["main", "storm", "table"]

_PATH = "/api/v1/prom/remote/write"
_MARK = b"00000000"
_TIME_BYTES = 6
_PER_REQUEST = 1000
_CONNECTIONS = 4
_SPREAD = 0.8
"""Of a round: what is late still bears a time of it."""
_SETTLES_S = 20.0
"""What the producer still has is to arrive."""
_SHARDS = 64


class Requests:
    """Bodies of series that differ in eight digits; ``name``: of the metric."""

    def __init__(self, name: bytes, count: int) -> None:
        now_ms = time.time_ns() // 1_000_000
        labels = {b"__name__": name, b"app": b"checkout", b"code": b"200", b"host": b"host-" + _MARK, b"method": b"GET"}
        series = {
            "labels": [{"name": key, "value": value} for key, value in labels.items()],
            "samples": [{"value": 1.0, "timestamp": now_ms}],
        }
        one = marshal(WRITE_REQUEST, {"timeseries": [series]})
        self._time_at = one.index(varint_columns(np.array([now_ms]), _TIME_BYTES).tobytes())
        self._value_at, self._number_at = one.index(np.float64(1.0).tobytes()), one.index(_MARK)
        self._matrix = np.tile(np.frombuffer(one, np.uint8), (count, 1))

    def body(self, numbers: NDArray[np.int64], values: NDArray[np.float64]) -> bytes:
        """A sample of each of these series, now."""
        rows = self._matrix[: len(numbers)]
        rows[:, self._number_at : self._number_at + len(_MARK)] = digits(numbers)
        rows[:, self._value_at : self._value_at + 8] = values.view(np.uint8).reshape(-1, 8)
        stamp = varint_columns(np.array([time.time_ns() // 1_000_000]), _TIME_BYTES)[0]
        rows[:, self._time_at : self._time_at + _TIME_BYTES] = stamp
        return bytes(cramjam.snappy.compress_raw(rows.tobytes()))


class Judge:
    """What the aggregator gets."""

    def __init__(self, known: int) -> None:
        self.rounds: dict[int, NDArray[np.float64]] = {}
        """When each series came (Unix seconds), by the number of the round; NaN: not yet."""
        self.wrong = 0
        self.others = 0
        self._known = known

    async def handle(self, batch: ReceivedBatch) -> None:
        """Of one connection."""
        starts = batch.rows["value_at"].astype(np.int64)
        rows = np.zeros(len(batch), METRIC_ROW)
        decode_metrics(batch.buffer, starts, starts + batch.rows["value_size"], len(batch), rows)
        self._judge(batch.buffer, rows)
        batch.ack()

    def _judge(self, buf: NDArray[np.uint8], rows: NDArray[np.void]) -> None:
        text = buf[int(rows["id_at"][0]) :][: int(rows["id_size"][0])].tobytes()
        # All ids have the same length but for the names, which have one letter that tells them apart.
        letter_at, digits_at = text.index(b"_requests") - 1, text.index(b"host-") + len(b"host-")
        at = rows["id_at"].astype(np.int64)
        known = buf[at + letter_at] == ord("n")
        self.others += int((~known).sum())
        at, values, times = at[known], rows["value"][known], rows["time_ns"][known]
        numbers = (buf[at[:, None] + digits_at + np.arange(8)] - ord("0")) @ (10 ** np.arange(7, -1, -1))
        window = times // (RESOLUTION_S * 10**9)
        now = time.time()
        for one in np.unique(window).tolist():
            mine = window == one
            came = self.rounds.setdefault(int(one), np.full(self._known, np.nan))
            came[numbers[mine]] = now
            self.wrong += int((values_of(numbers[mine], int(one)) != values[mine]).sum())


async def _send_known(port: int, known: int, stop: asyncio.Event) -> tuple[int, int, float, float]:
    """Whole rounds, until ``stop``: the first one, how many, the longest wait for an answer, and by how much requests were behind."""
    requests, post = Requests(b"known_requests_total", _PER_REQUEST), posting(_PATH)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    first = window = time.time_ns() // (RESOLUTION_S * 10**9) + 1
    slowest, behind = 0.0, 0.0
    while True:
        await asyncio.sleep(max(window * RESOLUTION_S - time.time(), 0))
        if stop.is_set():
            writer.close()
            return first, window - first, slowest, behind
        starts = range(0, known, _PER_REQUEST)
        for number, start in enumerate(starts):
            due = (window + _SPREAD * number / len(starts)) * RESOLUTION_S
            await asyncio.sleep(max(due - time.time(), 0))
            numbers = np.arange(start, min(start + _PER_REQUEST, known))
            began = time.time()
            behind = max(behind, began - due)
            if await post(reader, writer, requests.body(numbers, values_of(numbers, window))):
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            slowest = max(slowest, time.time() - began)
        window += 1


async def _measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    limit = options.memory_mib << 20
    coordinator = Loaded("storm", folder, {"memoryLimitBytes": limit}, workers=options.workers)
    judge, stop = Judge(options.known), asyncio.Event()
    base = f"http://127.0.0.1:{coordinator.port}"
    try:
        async with ConsumerServer("127.0.0.1:0", judge.handle) as server:
            placed = [member("m3aggregator", f"127.0.0.1:{server.port}")]
            await asyncio.to_thread(
                kv_of("embedded", folder).do, lambda store: write_cluster(store, placed, "127.0.0.1:1", _SHARDS)
            )
            await asyncio.to_thread(coordinator.wait)
            sending = asyncio.create_task(_send_known(coordinator.port, options.known, stop))
            memory = asyncio.create_task(_most_memory(coordinator.process.pid, stop))
            await asyncio.sleep(RESOLUTION_S)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.storm.writes", "--port", str(coordinator.port), "--new", str(options.new),
                "--seconds", str(options.seconds), stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            told, _ = await process.communicate()
            stormed = json.loads(told)
            status = await asyncio.to_thread(get_json, f"{base}/api/v1/status/tsdb?limit=3")
            ready = await asyncio.to_thread(get_json, f"{base}/ready")
            await asyncio.sleep(RESOLUTION_S)
            stop.set()
            first, rounds, slowest, behind = await sending
            most = await memory
            until = time.monotonic() + _SETTLES_S
            while judge.others < options.new and time.monotonic() < until:  # noqa: ASYNC110 - counted in a handler
                await asyncio.sleep(0.05)
            code = (await asyncio.to_thread(get, f"{base}/ready"))[0]
    finally:
        coordinator.process.stop(40)
    nothing = np.full(options.known, np.nan)
    came = [judge.rounds.get(window, nothing) for window in range(first, first + rounds)]
    missing = sum(int(np.isnan(one).sum()) for one in came)
    requests = -(-options.known // _PER_REQUEST)
    last_due = _SPREAD * (requests - 1) / requests
    late = [
        float(np.nanmax(one)) - (first + k + last_due) * RESOLUTION_S
        for k, one in enumerate(came)
        if not np.isnan(one).all()
    ]
    return {
        "known": options.known, "new": options.new, "sent_s": stormed["sent_s"], "refused": stormed["refused"],
        "rounds": rounds, "missing": missing, "wrong": judge.wrong, "exact": not missing and not judge.wrong and rounds > 0,
        "worst_late_s": max(late, default=0.0), "slowest_answer_s": slowest, "sender_behind_s": behind,
        "arrived": judge.others, "limit_mib": options.memory_mib, "most_mib": most / (1 << 20), "ready": code,
        "notes": ready.get("notes", []), "growth": status["data"]["seriesCountByMetricName"],
        "values": status["data"]["labelValueCountByLabelName"],
    }  # fmt: skip


async def _most_memory(pid: int, stop: asyncio.Event) -> int:
    """The most that all processes of the coordinator took together, of their own."""
    most = 0
    while not stop.is_set():
        most = max(most, sum(map(own_bytes, family(pid))))
        await asyncio.sleep(0.25)
    return most


def storm(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a run."""
    folder = Path(tempfile.mkdtemp(prefix="bench-storm-"))
    try:
        return asyncio.run(_measured(options, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(f: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"{f['new']} new series in {f['sent_s']:.1f} s beside {f['known']} known ones; {f['arrived']} messages of new ones arrived, "
        f"{f['refused']} requests were sent again",
        f"known series are {'exact' if f['exact'] else 'NOT EXACT'}: {f['rounds']} rounds of {RESOLUTION_S} s, "
        f"{f['missing']} values missing, {f['wrong']} wrong",
        f"late: the last one of a round at most {f['worst_late_s']:.2f} s after it was due, "
        f"the slowest answer {f['slowest_answer_s']:.2f} s (the sender was behind by {f['sender_behind_s']:.2f} s)",
        f"memory: limit {f['limit_mib']:.0f} MiB, all processes of their own at most {f['most_mib']:.0f} MiB",
        "grow most: " + ", ".join(f"{one['name']} {one['value']}" for one in f["growth"]),
    ]
    return "\n".join([*lines, *f["notes"]])


async def _send_new(port: int, new: int, seconds: float) -> dict[str, Any]:
    began, refused = time.monotonic(), 0
    due: asyncio.Queue[int | None] = asyncio.Queue(_CONNECTIONS)

    async def connection() -> None:
        nonlocal refused
        requests, post = Requests(b"storm_requests_total", _PER_REQUEST), posting(_PATH)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (start := await due.get()) is not None:
            numbers = np.arange(start, min(start + _PER_REQUEST, new))
            body = requests.body(numbers, np.ones(len(numbers)))
            while True:
                try:
                    closes = await post(reader, writer, body)
                    break
                except SystemExit as error:
                    if "503" not in str(error):
                        raise
                    # Back-pressure: the sender keeps it, and comes again.
                    refused += 1
                    await asyncio.sleep(0.1)
            if closes:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(_CONNECTIONS):
            group.create_task(connection())
        for start in range(0, new, _PER_REQUEST):
            await asyncio.sleep(max(began + seconds * start / new - time.monotonic(), 0))
            await due.put(start)
        for _ in range(_CONNECTIONS):
            await due.put(None)
    return {"sent_s": time.monotonic() - began, "refused": refused}


def main() -> int:
    """Sends new series, and prints one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m bench.storm.writes", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--new", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(_send_new(options.port, options.new, options.seconds))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
