"""Without vectors none of the modules that read them are collected; ``test_vectors.py`` says so, or fails where they are required."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import vectors

_HERE = {reader for reader in vectors.READERS.values() if reader.startswith("golden/")}
collect_ignore = [] if vectors.present() else sorted(reader.removeprefix("golden/") for reader in _HERE)
