"""What the engine of one worker costs per sample and per flushed value, alone in this process on one core.

    scripts/bench engine --kind gauge|timed|counter|timer --series N

Frames are encoded beforehand, in random order of the series, and handed over in batches of 512 KiB as a front would. Every sample's time
is the time of its batch; windows are 10 s long. Counts are checked: every message is acked, every series comes out once per window.
"""

import argparse
import time

import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine import Engine, EngineOptions, warm
from m3metrics import encode_tags
from m3metrics.codec import encode_staged_metadatas
from m3metrics.kernels import (
    encode_counter_samples,
    encode_gauge_samples,
    encode_timed_samples,
    encode_timer_samples,
    samples_size_bound,
)
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.policy import StoragePolicy
from m3metrics.rows import METRIC_TEMPLATE

WINDOW_NS = 10_000_000_000
START_NS = 1_700_000_000_000_000_000
BATCH_BYTES = 512 * 1024
TIMER_VALUES = 10
_TYPES = {"counter": 1, "timer": 2, "gauge": 3, "timed": 3}


def series_table(series: int, kind: str) -> tuple[NDArray[np.uint8], NDArray[np.void]]:
    """Ids as a coordinator builds them, about 90 bytes long, and the templates of their samples."""
    policies = (StoragePolicy.parse("10s:2d"),)
    meta = encode_staged_metadatas((StagedMetadata(pipelines=(PipelineMetadata(storage_policies=policies),)),))
    arena = bytearray(meta)
    templates = np.zeros(series, METRIC_TEMPLATE)
    for k in range(series):
        at = len(arena)
        name = b"http_requests_total_something%08d" % k
        arena += encode_tags([(b"__name__", name), (b"dc", b"sjc1"), (b"host", b"host%04d" % (k % 1000))])
        templates[k] = (at, len(arena) - at, 0, len(meta), 0, 0, _TYPES[kind], 0)
    return np.frombuffer(arena, np.uint8), templates


def encode_batches(
    kind: str, arena: NDArray[np.uint8], templates: NDArray[np.void], order: NDArray[np.int64], now_ns: int, seed: int
) -> list[NDArray[np.uint8]]:
    """The samples of ``order`` as m3msg frames, cut into batches."""
    values = np.random.default_rng(seed).random(len(order) * (TIMER_VALUES if kind == "timer" else 1)) * 100 + 1
    times = np.full(len(order), now_ns if kind == "timed" else 0, np.int64)
    out = np.zeros(samples_size_bound(templates, order) + 8 * len(values) + 64, np.uint8)
    offsets = np.zeros(len(order) + 1, np.int64)
    if kind == "gauge":
        encode_gauge_samples(arena, templates, order, times, values, out, offsets)
    elif kind == "timed":
        encode_timed_samples(arena, templates, order, times, values, out, offsets)
    elif kind == "counter":
        encode_counter_samples(arena, templates, order, times, values.astype(np.int64), out, offsets)
    else:
        cuts = np.arange(len(order) + 1, dtype=np.int64) * TIMER_VALUES
        encode_timer_samples(arena, templates, order, times, values, cuts, out, offsets)
    data = out.tobytes()
    batches, batch = [], bytearray()
    for k in range(len(order)):
        value = data[offsets[k] : offsets[k + 1]]
        meta = b"\x08\x2a\x10" + _varint(k + 1) + b"\x18" + _varint(now_ns)
        body = b"\x0a" + _varint(len(meta)) + meta + b"\x12" + _varint(len(value)) + value
        batch += len(body).to_bytes(4, "big") + body
        if len(batch) >= BATCH_BYTES:
            batches.append(np.frombuffer(bytes(batch), np.uint8))
            batch = bytearray()
    batches.append(np.frombuffer(bytes(batch), np.uint8))
    return batches


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def run(kind: str, series: int, windows: int) -> None:
    """Measures (CPU time of this process) and prints."""
    warm(lambda _: None)
    engine = Engine(EngineOptions(num_shards=1024, topic_shards=64, buffer_past_ns=600_000_000_000))
    owned = [ipc.OwnedShard(shard, 0, (1 << 63) - 1) for shard in range(1024)]
    engine.set_shards(ipc.Shards(1024, 64, owned), START_NS)
    arena, templates = series_table(series, kind)
    rng = np.random.default_rng(1)
    rounds = max(1, 300_000 // series)
    costs = []
    print(f"{kind}, {series} series: id of {int(templates['id_size'][0])} bytes")
    for window in range(windows):
        now_ns = START_NS + window * WINDOW_NS
        order = np.concatenate([rng.permutation(series) for _ in range(rounds)])
        batches = encode_batches(kind, arena, templates, order, now_ns, window)
        begin = time.process_time()
        messages = 0
        for k, batch in enumerate(batches):
            messages += engine.ingest(batch, np.array([len(batch)], np.int64), now_ns + k).messages
        took = time.process_time() - begin
        assert messages == len(order), (messages, len(order))
        costs.append(took / len(order) * 1e9)
        what = "new series" if window == 0 else "known"
        print(f"  ingest {what:10}  {costs[-1]:8.1f} ns/message ({len(batches)} batches)")
    used = engine.memory_bytes()
    print(f"  memory with {windows} open windows: {used / series:8.1f} bytes/series ({used >> 20} MiB)")
    if kind == "timer":
        print(f"  {1000 * TIMER_VALUES / min(costs[1:]):8.1f} M values/s")
    kind_number = ipc.KIND_TIMED if kind == "timed" else ipc.KIND_STANDARD
    bounds = [ipc.ShardBounds([], START_NS + windows * WINDOW_NS, 0, (1 << 63) - 1)]
    begin = time.process_time()
    values = size = 0
    for part in engine.flush(ipc.Flush(1, kind_number, WINDOW_NS, 0, True, bounds), START_NS + windows * WINDOW_NS):
        if part.batch is not None:
            values += len(part.batch)
            size += part.batch.size_bytes
    took = time.process_time() - begin
    print(f"  flush  {values} values, {size / values:.0f} bytes each: {took / values * 1e9:8.1f} ns/value")
    refused = {name: count for name, count in engine.stats()[0].items() if "errors{" in name}
    assert not refused, refused
    assert values == series * windows * (11 if kind == "timer" else 1), values


def main(values: list[str] | None = None) -> int:
    """Command line; exit code 0."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=_TYPES, default="gauge")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--windows", type=int, default=3)
    arguments = parser.parse_args(values)
    run(arguments.kind, arguments.series, arguments.windows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
