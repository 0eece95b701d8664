"""Python runs this before a program whose ``PYTHONPATH`` has this folder: switches the timers of stages on (``bench.profile``)."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))

from bench.profile.hooks import install
from bench.profile.stages import ENVIRONMENT

if folder := os.environ.get(ENVIRONMENT):
    install(Path(folder))
