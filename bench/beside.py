"""``scripts/bench beside``: an instance of ours and rivals that speak m3msg under the same load, in turn in one run.

    scripts/bench beside --against 'go=PATH/m3aggregator -f {config}' [--kind timed] [--series 10000] [--turns 2]

All get the same configuration, cluster and consumer (``bench.rivals``), which acknowledges at once. Every turn is a process of its own:
some seconds of load first, in which series are made, then ``--seconds`` of the same load measured, as fast as it is acknowledged, over the
same connections, as producers keep theirs. With ``--reconnect`` all connections end between the two, and ours has to expect that what they
sent last comes again. Figures are CPU of all processes of the instance. Ours has its journal on, unless ``--journal off``.
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from bench.ingest import SinkProcess
from bench.loading import Loaded, load, machine_ms
from bench.messages import KINDS, TIMER_VALUES
from bench.rivals import OURS, against_option, named_rivals, started

__all__ = ["main"]


def _turn(
    name: str, command: str, folder: Path, sink: SinkProcess, options: argparse.Namespace
) -> tuple[Loaded, float]:
    own = {"instance": {"journal": options.journal == "on"}}
    with started(name, command, folder, sink.address, own=own, workers=options.workers) as (one,):
        warm = options.warm
        if options.reconnect:
            load(one.address, one.cpu, options.kind, options.series, warm, options.connections)
            warm = 0.0
        found = load(one.address, one.cpu, options.kind, options.series, options.seconds, options.connections, warm)
        return found, one.mib()


def main(values: list[str]) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench beside", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    against_option(parser)
    parser.add_argument("--kind", choices=KINDS, default="timed")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=2, help="of each")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm", type=float, default=3.0, help="seconds of load before")
    parser.add_argument("--reconnect", action="store_true", help="what is measured comes over connections of its own")
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="of ours")
    parser.add_argument("--journal", choices=("on", "off"), default="on", help="of ours")
    options = parser.parse_args(values)
    named = named_rivals(parser, options.against)
    if (
        min(options.series, options.turns, options.connections, options.workers) < 1
        or min(options.seconds, options.warm) <= 0
    ):
        parser.error("all numbers must be positive")
    folder = Path(tempfile.mkdtemp(prefix="bench-beside-"))
    sink = SinkProcess()
    found: dict[str, list[Loaded]] = {}
    print(f"{options.kind}, {options.series} series, journal of ours {options.journal}", flush=True)
    try:
        for turn in range(options.turns):
            for name, command in named:
                speed = machine_ms()
                one, mib = _turn(name, command, folder / f"{name}-{turn}", sink, options)
                found.setdefault(name, []).append(one)
                print(
                    f"  {name:8} {one.per_cpu_second / 1e3:6.0f} k messages of {one.message_bytes} bytes a CPU second = "
                    f"{one.us_per_message:.3f} us, {one.messages / one.seconds / 1e3:.0f} k a second, {mib:.0f} MiB "
                    f"(machine: {speed:.1f} ms)",
                    flush=True,
                )
    finally:
        sink.close()
        shutil.rmtree(folder, ignore_errors=True)
    middle = {name: statistics.median(one.per_cpu_second for one in all_of) for name, all_of in found.items()}
    for name, rate in middle.items():
        samples = f", {rate * TIMER_VALUES / 1e6:.1f} M values" if options.kind == "timer" else ""
        ratio = "" if name == OURS else f"; ours has {middle[OURS] / rate:.1f} times as many"
        print(f"{name}: {rate / 1e3:.0f} k messages a CPU second (median){samples}{ratio}")
    return 0
