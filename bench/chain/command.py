"""``scripts/bench chain``: what a sample costs from remote write to the store: samples per CPU second of all processes, and by process.

    scripts/bench chain [--series 100000] [--samples 1] [--windows 3] [--rf 1] [--workers 1] [--sink prom-remote|embedded]
                        [--against 'NAME=COMMAND']…

A coordinator takes remote writes, gives them to ``--rf`` aggregators that mirror each other, gets the aggregated values (the last one of
each window) back and writes them to a store, whose process is not counted, nor is this one, which makes the load. Journals and queues are
on, on disk. After some seconds without load comes a *first window*, all of whose series are new, and the figure is from its beginning until
the store has a value of each; then ``--windows`` *later windows*, one after the other, until the store has all of them. Each has
``--samples`` samples a series, requests are spread over the window. What idle processes cost in that time is part of a figure, and told
beside it: of few series it is most of it. Memory is PSS of all processes together at its peak.

``--against`` names a rival, which gets the same load afterwards, and may be given several times. Words of its command may contain
``{port}``, where it is to take remote writes over HTTP at ``--against-path``; ``{receiver}``, the URL of a store as ours writes to;
``{resolution}``; and ``{directory}``, which is empty. Values count when they are in the store, whatever their names are there.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lab.errors import LabError

from bench.chain.chains import Chain, Ours, Rival
from bench.chain.meter import Meter
from bench.chain.samples import Samples
from bench.chain.store import Store

__all__ = ["main", "send_windows", "spent_between", "wait_for"]

_IDLE_S = 4.0
_MARGIN_S = 0.5
"""Between the beginning of a window and its first request: senders do not know windows, but here each sample has to be in its own."""
_SPREAD = 0.85
_MOST_LATE_S = 60.0
_LEAST_SHOWN = 0.01


def measure(chain: Chain, store: Store, options: argparse.Namespace) -> dict[str, Any]:
    """Loads a chain, and says what that cost."""
    samples = Samples(options.series, options.per_request)

    def arrived() -> int:
        own = chain.stored()
        return store.series() if own is None else own

    with Meter(chain.pids) as meter:
        cpu, since = meter.cpu(), time.monotonic()
        time.sleep(_IDLE_S)
        idle = sum(spent_between(cpu, meter.cpu()).values()) / (time.monotonic() - since)
        parts = {}
        for part, windows in (("first window", 1), ("later windows", options.windows)):
            cpu, since, before = meter.cpu(), time.monotonic(), arrived()
            at, behind = send_windows(chain, samples, windows, options)
            came = wait_for(arrived, before, options.series * windows, at, options.resolution)
            parts[part] = _figures(spent_between(cpu, meter.cpu()), options, windows, came) | {
                "idle_cpu_s": round(idle * (time.monotonic() - since), 2),
                "seconds_behind": round(behind, 2),
            }
    return {
        "chain": chain.name,
        "bytes_per_sample": samples.bytes_per_sample,
        "parts": parts,
        "peak_mib": {name: round(nbytes / (1 << 20), 1) for name, nbytes in meter.peak.items()},
        "peak_mib_total": round(sum(meter.peak.values()) / (1 << 20)),
    }


def _ours(folder: Path, receiver: str, options: argparse.Namespace) -> Chain:
    return Ours(
        folder / "ours", receiver, options.resolution, options.sink, options.rf, options.workers,
        coordinator=options.coordinator,
    )  # fmt: skip


def _rival(folder: Path, named: str, receiver: str, options: argparse.Namespace) -> Chain:
    name, _, command = named.partition("=")
    return Rival(name, folder, receiver, options.resolution, command, options.against_path)


def send_windows(chain: Chain, samples: Samples, windows: int, options: argparse.Namespace) -> tuple[float, float]:
    """From the next window on; returns when the last one ends (``time.time()``), and how far behind its time a request was."""
    resolution = options.resolution
    first = (int(time.time() + _MARGIN_S) // resolution + 1) * resolution
    spread = (resolution - _MARGIN_S) * _SPREAD / options.samples
    begins = [
        first + window * resolution + _MARGIN_S + turn * spread
        for window in range(windows)
        for turn in range(options.samples)
    ]
    behind = asyncio.run(samples.send(chain.port, chain.path, begins, spread, options.connections))
    return first + windows * resolution, behind


def wait_for(arrived: Callable[[], int], before: int, wanted: int, ended: float, resolution: int) -> int:
    """How many values the store has got since it had ``before``, when that is all or nothing more comes."""
    latest = max(time.time(), ended) + 2 * resolution + _MOST_LATE_S
    while (came := arrived() - before) < wanted and time.time() < latest:
        time.sleep(0.2)
    return came


def spent_between(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The difference by process; all of one that is new."""
    return {name: after[name] - before.get(name, 0.0) for name in after}


def _figures(spent: dict[str, float], options: argparse.Namespace, windows: int, came: int) -> dict[str, Any]:
    samples, total = options.series * options.samples * windows, sum(spent.values())
    return {
        "samples": samples,
        "values": came,
        "values_missing": options.series * windows - came,
        "samples_per_cpu_second": round(samples / total) if total else 0,
        "us_per_sample": round(total / samples * 1e6, 3),
        "cpu_s": {name: round(seconds, 2) for name, seconds in spent.items() if seconds >= _LEAST_SHOWN},
    }


def _print(figures: dict[str, Any]) -> None:
    print(f"{figures['chain']}: remote writes of {figures['bytes_per_sample']} bytes a sample before compression")
    for part, found in figures["parts"].items():
        by_process = ", ".join(f"{name} {seconds} s" for name, seconds in found["cpu_s"].items())
        print(
            f"  {part:13} {found['samples']} samples, {found['samples_per_cpu_second'] / 1e3:.0f} k a CPU second = "
            f"{found['us_per_sample']} us ({by_process}; {found['idle_cpu_s']} s of it would be spent without load)"
        )
        if found["values_missing"]:
            print(f"  {found['values']} values came, {found['values_missing']} fewer than windows and series")
        if found["seconds_behind"] > 1:
            print(f"  the load was {found['seconds_behind']} s behind its time")
    by_process = ", ".join(f"{name} {mib}" for name, mib in figures["peak_mib"].items())
    print(f"  at most {figures['peak_mib_total']} MiB ({by_process})", flush=True)


def arguments(values: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench chain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=1, help="of each series in a window")
    parser.add_argument("--windows", type=int, default=3, help="after the first one")
    parser.add_argument("--resolution", type=int, default=10, help="length of a window, seconds")
    parser.add_argument("--per-request", type=int, default=2000, help="samples of a remote write")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--rf", type=int, choices=(1, 2), default=1, help="aggregators, which mirror each other")
    parser.add_argument("--workers", type=int, default=1, help="of each aggregator")
    parser.add_argument(
        "--coordinator",
        type=yaml.safe_load,
        default={},
        metavar="YAML",
        help="sections of its file: 'writes: {ack: aggregated}'",
    )
    parser.add_argument("--sink", choices=("prom-remote", "embedded"), default="prom-remote")
    parser.add_argument("--against", action="append", default=[], metavar="NAME=COMMAND", help="a rival, see above")
    parser.add_argument("--against-path", default="/api/v1/write", help="where rivals take remote writes")
    parser.add_argument("--json", action="store_true", help="one JSON object a chain")
    options = parser.parse_args(values)
    counts = ("series", "samples", "windows", "resolution", "per_request", "connections", "workers")
    if min(getattr(options, count) for count in counts) < 1:
        parser.error(f"--{', --'.join(counts).replace('_', '-')} must be at least 1")
    if not isinstance(options.coordinator, dict):
        parser.error("--coordinator: expected sections of a file, like 'writes: {ack: aggregated}'")
    if any(not one.partition("=")[0].isidentifier() or not one.partition("=")[2] for one in options.against):
        parser.error("--against: expected NAME=COMMAND")
    return options


def main(values: list[str]) -> int:
    """Runs the benchmark; exit code 1 if a value of ours is missing in the store."""
    options = arguments(values)
    folder = Path(tempfile.mkdtemp(prefix="bench-chain-"))
    complete = True
    try:
        with Store() as store:
            makers = [partial(_ours, folder, store.url, options)]
            for number, named in enumerate(options.against):
                makers.append(partial(_rival, folder / f"rival-{number}", named, store.url, options))
            for make in makers:
                chain = make()
                try:
                    figures = measure(chain, store, options)
                finally:
                    chain.stop()
                if isinstance(chain, Ours):
                    complete = not any(part["values_missing"] for part in figures["parts"].values())
                if options.json:
                    print(json.dumps(figures), flush=True)
                else:
                    _print(figures)
    except (OSError, SystemExit) as error:
        raise LabError(f"the load ended: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if complete else 1
