"""The command ``m3coordinator``, and ``python -m coordinator``."""

import sys
from collections.abc import Sequence

from m3x import kernel_cache

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """``coordinator.cli.main``, which loads numba, behind the choice of its cache."""
    kernel_cache.choose()
    from coordinator import cli  # noqa: PLC0415

    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
