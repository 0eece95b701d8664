"""``python -m aggregator.worker --options FILE``: started by the supervisor."""

import argparse
import sys
from pathlib import Path

import msgspec

from aggregator import preload
from aggregator.engine import Engine
from aggregator.worker import WorkerOptions, run
from m3x import log, process

_log = log.logger(__name__)


def main() -> int:
    """Reads the options file, loads the kernels, and runs."""
    parser = argparse.ArgumentParser(prog="aggregator.worker", description=__doc__)
    parser.add_argument("--options", required=True, type=Path, help="JSON file with WorkerOptions")
    arguments = parser.parse_args()
    options = msgspec.json.decode(arguments.options.read_bytes(), type=WorkerOptions)
    process.die_with_parent(options.parent_pid)
    log.configure(options.log_level, process=f"worker {options.index}")
    try:
        preload.load()
        engine = Engine(options.engine, max_series=options.max_series)
    except Exception as error:
        _log.error("the engine does not start", exception=error)
        return 1
    return run(options, engine)


if __name__ == "__main__":
    sys.exit(main())
