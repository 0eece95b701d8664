"""``python -m aggregator.warmup [--also MODULE …]``: compiles an aggregator's kernels, for a checkout of the sources (``m3x.warming``).

``--also`` names modules of other services.
"""

import argparse
import sys
from collections.abc import Sequence

from m3x.warming import warm_all

__all__ = ["PACKAGES", "main"]

PACKAGES = (
    "aggregator.engine",
    "aggregator.front",
    "m3metrics.kernels",
    "m3msg.kernels",
    "m3msg.producer.kernels",
    "m3msg.legacy.kernels",
    "m3x.checksum",
)
"""What takes longest comes first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command of the module."""
    parser = argparse.ArgumentParser(prog="aggregator.warmup", description="Compile the kernels of the service.")
    parser.add_argument("--also", action="append", default=[], metavar="MODULE", help="one more module with warm()")
    return warm_all((*parser.parse_args(arguments).also, *PACKAGES))


if __name__ == "__main__":
    sys.exit(main())
