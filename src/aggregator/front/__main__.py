"""``python -m aggregator.front --options FILE``: started by the supervisor."""

import argparse
import sys
from pathlib import Path

import msgspec

from aggregator.front import FrontOptions, run


def main() -> int:
    """Reads the options file and runs."""
    parser = argparse.ArgumentParser(prog="aggregator.front", description=__doc__)
    parser.add_argument("--options", required=True, type=Path, help="JSON file with FrontOptions")
    arguments = parser.parse_args()
    return run(msgspec.json.decode(arguments.options.read_bytes(), type=FrontOptions))


if __name__ == "__main__":
    sys.exit(main())
