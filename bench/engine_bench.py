"""What the engine of one worker costs per sample and per flushed value, alone in this process on one core.

    scripts/bench engine --kind gauge --series 10000 [--pipeline rollup] [--policies 3]
    scripts/bench engine --table [--series N]

Frames are encoded beforehand, in random order of the series, and handed over in batches of 512 KiB as a front would. Every sample's time
is the time of its batch; windows are 10 s long. Counts are checked: every message is acked, every series comes out once per window.
``--table`` measures every kind of sample, every pipeline and one to three policies, one line each.
"""

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine import Engine, EngineOptions, warm
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, KIND_TIMED, ListId
from bench.messages import FORWARDED, KINDS, PIPELINES, ROLLUPS, TIMER_VALUES, Frames, build

__all__ = ["START_NS", "WINDOW_NS", "Figures", "batches_of", "engine_of", "flush", "ingest", "main", "measure"]

WINDOW_NS = 10_000_000_000
START_NS = 1_700_000_000_000_000_000
NUM_SHARDS = 1024
_BATCH_BYTES = 512 * 1024
_DELAY_NS = 600_000_000_000
"""How late timed and forwarded metrics may be: nothing is."""
_LIST_KINDS = {"timed": KIND_TIMED, FORWARDED: KIND_FORWARDED}
_TIMER_TYPES = 11


def engine_of(**options: int) -> Engine:
    """An engine that owns all shards."""
    engine = Engine(
        EngineOptions(
            num_shards=NUM_SHARDS,
            topic_shards=64,
            buffer_past_ns=_DELAY_NS,
            forwarding_max_const_delay_ns=_DELAY_NS,
            **options,
        )
    )
    owned = [ipc.OwnedShard(shard, 0, (1 << 63) - 1) for shard in range(NUM_SHARDS)]
    engine.set_shards(ipc.Shards(NUM_SHARDS, 64, owned), START_NS)
    return engine


def batches_of(frames: Frames) -> list[NDArray[np.uint8]]:
    """The messages cut into batches, without copying."""
    rows = max(_BATCH_BYTES // frames.matrix.shape[1], 1)
    return [frames.matrix[at : at + rows].reshape(-1) for at in range(0, len(frames.matrix), rows)]


def ingest(engine: Engine, frames: Frames, now_ns: int) -> float:
    """CPU seconds for all messages at ``now_ns``."""
    frames.stamp(now_ns)
    batches = batches_of(frames)
    messages = 0
    begin = time.process_time()
    for k, batch in enumerate(batches):
        messages += engine.ingest(batch, np.array([len(batch)], np.int64), now_ns + k).messages
    took = time.process_time() - begin
    assert messages == len(frames.matrix), (messages, len(frames.matrix))
    return took


def flush(engine: Engine, kind: str, number: int, target_ns: int, now_ns: int) -> tuple[float, int, int, int]:
    """Flushes up to ``target_ns``: CPU seconds, final values, forwarded messages, bytes of both."""
    bounds = [ipc.ShardBounds([], target_ns, 0, (1 << 63) - 1)]
    list_kind = _LIST_KINDS.get(kind, KIND_STANDARD)
    command = ipc.Flush(number, ListId(list_kind, WINDOW_NS, int(kind == FORWARDED)), True, bounds)
    count = {False: 0, True: 0}
    size = 0
    begin = time.process_time()
    for part in engine.flush(command, now_ns):
        if part.batch is not None:
            count[part.forwarded] += len(part.batch)
            size += part.batch.size_bytes
    return time.process_time() - begin, count[False], count[True], size


@dataclass
class Figures:
    """What one run found."""

    kind: str
    series: int
    pipeline: str
    policies: int
    message_bytes: int
    fresh_ns: float = 0.0
    """Per message of a new series."""
    known_ns: list[float] = field(default_factory=list)
    """Per message, by window."""
    bytes_per_series: list[float] = field(default_factory=list)
    """By number of open windows."""
    flushed: int = 0
    forwarded: int = 0
    flush_ns: float = 0.0
    """Per value of a source series that was flushed."""
    flush_bytes: int = 0

    @property
    def ingest_ns(self) -> float:
        """Per message of a known series, the best window: machines are noisy."""
        return min(self.known_ns)


def measure(kind: str, series: int, windows: int, pipeline: str = "none", policies: int = 1) -> Figures:
    """Feeds ``windows`` windows and flushes them. Raises ``AssertionError`` where counts are not what they must be."""
    engine = engine_of()
    rounds = max(1, min(300_000 // series, 100))
    frames = build(kind, series, series * rounds, 10, policies=policies, pipeline=pipeline)
    found = Figures(kind, series, pipeline, policies, frames.matrix.shape[1])
    for window in range(windows):
        took = ingest(engine, frames, START_NS + window * WINDOW_NS) / len(frames.matrix) * 1e9
        if window == 0:
            found.fresh_ns = took
        else:
            found.known_ns.append(took)
        found.bytes_per_series.append(engine.memory_bytes() / series)
    end_ns = START_NS + windows * WINDOW_NS
    took_s, found.flushed, found.forwarded, found.flush_bytes = flush(engine, kind, 1, end_ns, end_ns)
    refused = {name: count for name, count in engine.stats()[0].items() if "errors{" in name and count}
    assert not refused, refused
    values = series * windows * (_TIMER_TYPES if kind == "timer" else 1)
    found.flush_ns = took_s / values * 1e9
    if pipeline == "none":
        assert (found.flushed, found.forwarded) == (values, 0), (found, values)
    else:
        # The first window has nothing to be compared with; values that fall are no rate.
        assert (found.forwarded if pipeline.endswith("rollup") else found.flushed) > 0, found
        assert found.forwarded <= min(series, ROLLUPS) * NUM_SHARDS * windows, found
    return found


def _report(found: Figures) -> None:
    print(f"{found.kind}, {found.series} series, pipeline {found.pipeline}, {found.policies} policies:")
    print(f"  ingest, new series  {found.fresh_ns:8.1f} ns/message of {found.message_bytes} bytes")
    for took in found.known_ns:
        print(f"  ingest, known       {took:8.1f} ns/message")
    print(f"  memory by open windows: {', '.join(f'{n:.0f}' for n in found.bytes_per_series)} bytes/series")
    if found.kind == "timer":
        print(f"  {1000 * TIMER_VALUES / found.ingest_ns:8.1f} M values/s")
    out = found.flushed + found.forwarded
    print(
        f"  flush {found.flushed} final values, {found.forwarded} forwarded messages, {found.flush_bytes / max(out, 1):.0f} bytes each: "
        f"{found.flush_ns:.1f} ns per value of a series"
    )


def _table(series: int) -> None:
    print(f"{series} series, ns of CPU; ids of 90 bytes, one policy unless said otherwise")
    for kind in ("counter", "gauge", "timer", "timed", FORWARDED):
        found = measure(kind, series, 3)
        per_value = f" = {found.ingest_ns / TIMER_VALUES:.1f} a value" if kind == "timer" else ""
        print(f"  ingest {kind:<22} {found.ingest_ns:8.1f} a message{per_value}", flush=True)
    for pipeline in PIPELINES:
        found = measure("gauge", series, 3, pipeline)
        print(f"  flush  gauge, pipeline {pipeline:<16} {found.flush_ns:5.1f} a value", flush=True)
    for policies in (1, 2, 3):
        found = measure("gauge", series, 2, policies=policies)
        print(f"  memory gauge, {policies} policies        {found.bytes_per_series[0]:8.0f} bytes a series", flush=True)
    found = measure("timed", series, 8)
    print(f"  memory timed, 8 open windows    {found.bytes_per_series[7]:8.0f} bytes a series", flush=True)


def main(values: list[str] | None = None) -> int:
    """Command line; exit code 0."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=(*KINDS, FORWARDED), default="gauge")
    parser.add_argument("--pipeline", choices=PIPELINES, default="none")
    parser.add_argument("--policies", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="all kinds, pipelines and policies, a line each")
    options = parser.parse_args(values)
    if options.kind == FORWARDED and options.pipeline != "none":
        parser.error("forwarded metrics carry their own pipeline: leave --pipeline out")
    if options.series < 1:
        parser.error("--series must be at least 1")
    if options.windows < 2:
        parser.error("--windows must be at least 2: the first one meets only new series")
    warm(lambda _: None)
    if options.table:
        _table(options.series)
    else:
        _report(measure(options.kind, options.series, options.windows, options.pipeline, options.policies))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
