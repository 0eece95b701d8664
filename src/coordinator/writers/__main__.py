"""``python -m coordinator.writers --options FILE``: a write process."""

import argparse
import sys
from pathlib import Path

from coordinator.writers.process import run


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="coordinator.writers", description=__doc__)
    parser.add_argument("--options", required=True, type=Path, help="file that the main process has written")
    return run(parser.parse_args().options)


if __name__ == "__main__":
    sys.exit(main())
