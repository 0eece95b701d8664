"""What a write process is told when it starts, in files of the private run directory: the configuration as the main process has read it,
whatever has become of its files since, and ``WorkerOptions``."""

import pickle
from pathlib import Path
from typing import NamedTuple

import msgspec

from coordinator.config import CoordinatorConfig
from coordinator.writers.told import WorkerOptions
from m3x.config import Places
from m3x.endpoints import UNIX

__all__ = [
    "LONGEST_RUN_DIRECTORY",
    "Sockets",
    "read",
    "read_configuration",
    "write_configuration",
    "write_options",
]

LONGEST_RUN_DIRECTORY = 80
"""Names of sockets are short."""
_CONFIGURATION = "configuration"


class Sockets(NamedTuple):
    """Where processes listen."""

    run_dir: Path

    @property
    def main(self) -> str:
        """What is no write, at the main process."""
        return f"{UNIX}{self.run_dir / 'main'}"

    @property
    def link(self) -> Path:
        """The links of the main process."""
        return self.run_dir / "link"

    def writes(self, index: int) -> str:
        """What is handed to a write process."""
        return f"{UNIX}{self.run_dir / f'writes-{index}'}"


def write_configuration(run_dir: Path, config: CoordinatorConfig, places: Places) -> None:
    """For all of them. Raises ``OSError``."""
    new = run_dir / f"{_CONFIGURATION}.new"
    new.write_bytes(pickle.dumps((config, places)))
    new.replace(run_dir / _CONFIGURATION)


def read_configuration(run_dir: Path) -> tuple[CoordinatorConfig, Places]:
    """As it was written last. Raises ``OSError``."""
    config, places = pickle.loads((run_dir / _CONFIGURATION).read_bytes())
    return config, places


def write_options(options: WorkerOptions) -> Path:
    """For one incarnation. Raises ``OSError``."""
    path = Path(options.run_dir) / f"writer-{options.index}.json"
    path.write_bytes(msgspec.json.encode(options))
    return path


def read(path: Path) -> tuple[CoordinatorConfig, Places, WorkerOptions]:
    """Both files. Raises ``OSError``."""
    config, places = read_configuration(path.parent)
    return config, places, msgspec.json.decode(path.read_bytes(), type=WorkerOptions)
