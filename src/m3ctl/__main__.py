"""``python -m m3ctl``."""

import sys

from m3ctl.cli import main

sys.exit(main())
