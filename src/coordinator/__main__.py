"""``python -m coordinator``: the same as the command ``m3coordinator``."""

import sys

from coordinator.cli import main

sys.exit(main())
