"""``scripts/bench profile``: CPU of each stage of the chain, from HTTP to the store, by sample, beside what the same bytes cost at least.

    scripts/bench profile [--series 100000] [--samples 20] [--windows 2] [--workers 1]

The chain is that of ``scripts/bench chain`` with one aggregator. Its processes are started with timers around the functions that
``bench/profile/stages.py`` names: CPU of the thread that is in them, without what is told of another stage. What a process spent in some
seconds without load is told as *idle*; what it has spent besides is its *rest*: threads of ZeroMQ and of files, the event loop, turns.
All series are known when the measurement begins. Columns are microseconds a sample and the part of the process; there is one value of
output for ``--samples`` samples.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.chain.chains import Ours
from bench.chain.command import send_windows, spent_between, wait_for
from bench.chain.meter import Meter
from bench.chain.samples import Samples
from bench.chain.store import Store
from bench.profile.hooks import read
from bench.profile.limits import limits
from bench.profile.stages import ENVIRONMENT, STAGES

__all__ = ["main"]

_SITE = Path(__file__).with_name("site")
_REST, _IDLE = "rest", "idle"
_IDLE_S = 4.0


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs it."""
    times = folder / "times"
    times.mkdir()
    path = os.pathsep.join(filter(None, (str(_SITE), os.environ.get("PYTHONPATH", ""))))
    samples = Samples(options.series, options.per_request)
    least = limits(samples.body(0), min(options.per_request, options.series))
    with Store() as store:
        chain = Ours(
            folder / "chain", store.url, options.resolution, "prom-remote", 1, options.workers,
            env={"PYTHONPATH": path, ENVIRONMENT: str(times)}, coordinator={"workers": 1},
        )  # fmt: skip
        try:
            meter = Meter(chain.pids)
            before = meter.cpu()
            time.sleep(_IDLE_S)
            idle = spent_between(before, meter.cpu())
            for windows in (1, options.windows):
                before, stages = meter.cpu(), _stages(times, chain.pids())
                since, came = time.monotonic(), store.series()
                ended, _ = send_windows(chain, samples, windows, options)
                arrived = wait_for(store.series, came, options.series * windows, ended, options.resolution)
                spent, in_stages = spent_between(before, meter.cpu()), _stages(times, chain.pids())
            took = time.monotonic() - since
            by_process = {
                name: {_REST: seconds, _IDLE: min(idle.get(name, 0.0) / _IDLE_S * took, seconds)}
                | {
                    stage.name: after - first
                    for stage, first, after in zip(STAGES, stages[name], in_stages[name], strict=True)
                    if after > first
                }
                for name, seconds in spent.items()
                if name in stages
            }
        finally:
            chain.stop()
    for found in by_process.values():
        found[_REST] -= sum(seconds for name, seconds in found.items() if name != _REST)
    count = options.series * options.samples * options.windows
    return {
        "samples": count,
        "values_missing": options.series * options.windows - arrived,
        "us_per_sample": {
            process: {stage: round(seconds / count * 1e6, 4) for stage, seconds in found.items()}
            for process, found in by_process.items()
        },
        "limits_us_per_sample": {name: round(cost, 4) for name, cost in least.items()},
    }


def _stages(times: Path, pids: dict[str, int]) -> dict[str, tuple[float, ...]]:
    return {name: read(times, pid) for name, pid in pids.items()}


def _print(figures: dict[str, Any]) -> None:
    total = sum(sum(found.values()) for found in figures["us_per_sample"].values())
    print(f"{figures['samples']} samples, {total:.3f} us of CPU a sample; {figures['values_missing']} values missing")
    for process, found in figures["us_per_sample"].items():
        whole = sum(found.values())
        if whole < total / 200:
            continue
        print(f"{process:48} {whole:8.4f}   {whole / total:5.0%} of all")
        for name, cost in sorted(found.items(), key=lambda entry: (entry[0] in (_REST, _IDLE), -entry[1])):
            print(f"    {name:44} {cost:8.4f} {cost / whole:5.0%}")
    print("the bytes of a sample in a remote write cost at least")
    for name, cost in figures["limits_us_per_sample"].items():
        print(f"    {name:44} {cost:8.4f}")


def main(values: list[str]) -> int:
    """Runs the benchmark; exit code 1 if a value is missing in the store."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=20, help="of each series in a window")
    parser.add_argument("--windows", type=int, default=2, help="after the first one")
    parser.add_argument("--resolution", type=int, default=10, help="length of a window, seconds")
    parser.add_argument("--per-request", type=int, default=2000, help="samples of a remote write")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(values)
    counts = ("series", "samples", "windows", "resolution", "per_request", "connections", "workers")
    if min(getattr(options, count) for count in counts) < 1:
        parser.error("all numbers must be at least 1")
    folder = Path(tempfile.mkdtemp(prefix="bench-profile-"))
    try:
        figures = measure(folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(figures))
    else:
        _print(figures)
    return 0 if figures["values_missing"] == 0 else 1
