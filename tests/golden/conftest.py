"""Makes ``vectors`` importable where only this folder is run, and the plain engine that scripts are compared with."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "aggregator" / "engine"))
