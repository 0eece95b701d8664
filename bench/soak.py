"""Whether memory comes back when series come and go: one engine, ``--windows`` windows, a part of the series replaced before each.

    scripts/bench soak [--series 100000] [--windows 30] [--replaced 0.2] [--kind gauge] [--pipeline rollup]

Everything that an instance does to an engine happens: samples, flush, commit, expiry of idle entries (here after two windows). The end is
compared with the level after window 5: exit code 1 if the engine's memory, or that of the process, is more than 20 % above it.
"""

import argparse
import resource
from collections.abc import Callable

import numpy as np

from aggregator import ipc
from aggregator.engine import warm
from aggregator.lists import KIND_STANDARD, KIND_TIMED, ListId
from bench.engine_bench import NUM_SHARDS, START_NS, WINDOW_NS, engine_of, flush, ingest
from bench.messages import KINDS, PIPELINES, build
from m3x.process import resident_bytes

__all__ = ["main", "soak"]

REFERENCE_WINDOW = 5
TOLERANCE = 0.2


def soak(
    kind: str, series: int, windows: int, replaced: float, pipeline: str, told: Callable[[str], None]
) -> tuple[float, float]:
    """Growth of the engine's and of the process's memory from ``REFERENCE_WINDOW`` to the end, as parts of the former."""
    engine = engine_of(entry_ttl_ns=2 * WINDOW_NS)
    frames = build(kind, series, series, 10, pipeline=pipeline)
    numbers = frames.series.copy()
    rng = np.random.default_rng(3)
    list_kind = KIND_TIMED if kind == "timed" else KIND_STANDARD
    next_number = series
    levels: list[tuple[int, int]] = []
    for window in range(1, windows + 1):
        now_ns = START_NS + window * WINDOW_NS
        fresh = rng.choice(series, int(series * replaced), replace=False)
        numbers[fresh] = next_number + np.arange(len(fresh))
        next_number += len(fresh)
        frames.name(numbers)
        ingest(engine, frames, now_ns)
        flush(engine, kind, window, now_ns, now_ns)
        engine.commit(ipc.Commit(ListId(list_kind, WINDOW_NS), list(range(NUM_SHARDS)), now_ns))
        engine.expire(now_ns)
        levels.append((engine.memory_bytes(), resident_bytes()))
        if window == 1 or window % REFERENCE_WINDOW == 0:
            memory, resident = levels[-1]
            told(f"  window {window:3}  engine {memory / 2**20:8.1f} MiB  process {resident / 2**20:8.1f} MiB")
    refused = {name: count for name, count in engine.stats()[0].items() if "errors{" in name and count}
    assert not refused, refused
    reference = levels[REFERENCE_WINDOW - 1]
    return levels[-1][0] / reference[0] - 1, levels[-1][1] / reference[1] - 1


def main(values: list[str] | None = None) -> int:
    """Command line; exit code 1 if memory grew by more than ``TOLERANCE``."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, default="gauge")
    parser.add_argument("--pipeline", choices=PIPELINES, default="none")
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=30)
    parser.add_argument("--replaced", type=float, default=0.2, help="part of the series replaced before every window")
    options = parser.parse_args(values)
    if options.windows <= REFERENCE_WINDOW or not 0.0 <= options.replaced <= 1.0:
        parser.error(f"--windows must be above {REFERENCE_WINDOW} and --replaced between 0 and 1")
    if options.series < 1:
        parser.error("--series must be at least 1")
    warm(lambda _: None)
    print(
        f"{options.kind}, {options.series} series, pipeline {options.pipeline}, {options.replaced:.0%} replaced every window"
    )
    engine, process = soak(
        options.kind, options.series, options.windows, options.replaced, options.pipeline, lambda text: print(text, flush=True)
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"  from window {REFERENCE_WINDOW} to {options.windows}: engine {engine:+.1%}, process {process:+.1%}; peak {peak:.0f} MiB"
    )
    return 0 if max(engine, process) <= TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
