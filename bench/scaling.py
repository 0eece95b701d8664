"""``scripts/bench scaling``: what a message costs with more workers, and with more than there are cores.

    scripts/bench scaling [--workers 1,2,4,8] [--kind timed] [--series 100000] [--turns 2]

Instances with as many workers get the same load in turn, as fast as they acknowledge it, journals on. With one worker the front reads into
memory that the worker reads; with several it finds the id of every message, hashes it and copies the message to the worker that owns
its shard. What workers cost together should not grow with their number; where it does, they get smaller batches, or share caches and cores.
"""

import argparse
import statistics

from bench.ingest import SinkProcess
from bench.instance import Aggregator
from bench.loading import Loaded, load, machine_ms
from bench.messages import KINDS

__all__ = ["main"]


def _parts(found: Loaded) -> dict[str, float]:
    """Microseconds a message of the front, of all workers, of the rest."""
    parts = {"front": 0.0, "workers": 0.0, "rest": 0.0}
    for name, seconds in found.cpu_s.items():
        part = "workers" if name.startswith("worker") else name if name == "front" else "rest"
        parts[part] += seconds / found.messages * 1e6
    return parts


def main(values: list[str]) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", default="1,2,4,8", help="numbers of workers")
    parser.add_argument("--kind", choices=KINDS, default="timed")
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=2, help="of each")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn; as long a one before it does not count")
    parser.add_argument("--connections", type=int, default=2)
    options = parser.parse_args(values)
    try:
        counts = [int(one) for one in options.workers.split(",")]
    except ValueError:
        parser.error(f"--workers {options.workers!r}: expected numbers, like 1,2,4")
    if min(*counts, options.series, options.turns, options.connections) < 1 or options.seconds <= 0:
        parser.error("all numbers must be positive")
    found: dict[int, list[Loaded]] = {count: [] for count in counts}
    sink = SinkProcess()
    print(f"{options.kind}, {options.series} series; machine: {machine_ms():.1f} ms", flush=True)
    try:
        for _ in range(options.turns):
            for count in counts:
                with Aggregator(count, sink.address) as aggregator:
                    for _ in range(2):
                        one = load(
                            aggregator.address, aggregator.cpu, options.kind, options.series, options.seconds,
                            options.connections,
                        )  # fmt: skip
                found[count].append(one)
    finally:
        sink.close()
    for count, all_of in found.items():
        cost = statistics.median(one.us_per_message for one in all_of)
        parts = {name: statistics.median(_parts(one)[name] for one in all_of) for name in ("front", "workers", "rest")}
        rate = statistics.median(one.messages / one.seconds for one in all_of)
        print(
            f"  {count:2} workers: {cost:.3f} us a message ({', '.join(f'{name} {part:.3f}' for name, part in parts.items())}), "
            f"{rate / 1e3:.0f} k a second"
        )
    return 0
