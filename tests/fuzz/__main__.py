"""``python -m tests.fuzz [parser …]``: reads mutated inputs with the parsers of the table, all of them by default, in that order.

``--inputs`` how many each, ``--seed`` which ones, ``--jobs`` parsers at a time, ``--cpu-seconds`` the most that one may take; ``--input`` a
file of one input instead. How far they are is said on standard error every half minute. ``--serve``: parser, seed and number a line on
standard input, a report a line on standard output, for the tests. Exit code 1: there was a fault, or a parser was too slow.
"""

import argparse
import gc
import json
import math
import os
import sys
from pathlib import Path

from tests.fuzz.running import run, run_all
from tests.fuzz.table import PARSERS


def main() -> int:
    """Runs what the command line says; 1: a fault was found."""
    options = _options()
    gc.freeze()
    if options.serve:
        for line in sys.stdin:
            name, seed, count = line.split()
            print(json.dumps(run(PARSERS[name], seed, int(count)).as_dict()), flush=True)
        return 0
    parsers = [PARSERS[name] for name in options.parsers or PARSERS]
    if options.input is not None:
        for parser in parsers:
            parser.check(options.input.read_bytes())
        return 0
    bad = 0
    for report in run_all(
        parsers, options.seed, options.inputs, jobs=options.jobs, cpu_s=options.cpu_seconds,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    ):  # fmt: skip
        whole = report.ran >= options.inputs
        bad += not whole
        said = f"{report.name:24} {report.ran:9} inputs {report.cpu_s:9.2f} s of CPU {report.wall_s:9.2f} s"
        print(said if whole or report.fault else f"{said}  too slow", flush=True)
        if report.fault:
            print(f"{report.fault}\ninput {report.ran}: {report.input}", flush=True)
    return min(bad, 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parsers", nargs="*", choices=[*PARSERS, []], metavar="parser")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", default=os.environ.get("FUZZ_SEED", "0"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cpu-seconds", type=float, default=math.inf)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--serve", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
