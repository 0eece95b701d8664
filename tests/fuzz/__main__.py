"""``python -m tests.fuzz [parser …]``: reads mutated inputs with the parsers of the table, all of them by default.

``--inputs`` how many each, ``--seed`` which ones; ``--input`` a file of one input instead. ``--serve``: parser, seed and number a line on
standard input, a report a line on standard output, for the tests.
"""

import argparse
import gc
import json
import os
import sys
from pathlib import Path

from tests.fuzz.running import run
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
    faults = 0
    for name in options.parsers or PARSERS:
        if options.input is not None:
            PARSERS[name].check(options.input.read_bytes())
            continue
        report = run(PARSERS[name], options.seed, options.inputs)
        print(f"{name:24} {report.ran:9} inputs {report.cpu_s:9.2f} s of CPU", flush=True)
        if report.fault:
            faults += 1
            print(f"{report.fault}\ninput {report.ran}: {report.input}", flush=True)
    return min(faults, 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parsers", nargs="*", choices=[*PARSERS, []], metavar="parser")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", default=os.environ.get("FUZZ_SEED", "0"))
    parser.add_argument("--input", type=Path)
    parser.add_argument("--serve", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
