"""What a write process is told."""

from pathlib import Path

import pytest

from coordinator.config import load_coordinator
from coordinator.writers.options import Sockets, read, write_configuration, write_options
from coordinator.writers.told import WorkerOptions
from m3x.endpoints import check_endpoint

ROOT = Path(__file__).parents[3]
FILES = sorted(path for path in (ROOT / "configs").rglob("*coordinator*.yml"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_configuration_arrives_as_it_was_read(tmp_path: Path, file: Path) -> None:
    loaded = load_coordinator([file])
    write_configuration(tmp_path, loaded.value, loaded.places)
    options = WorkerOptions(
        index=2, workers=3, epoch=7, run_dir=str(tmp_path), data_dir="/d", inside_kv="", identity="i"
    )
    config, places, told = read(write_options(options))
    assert config == loaded.value
    assert told == options
    assert places.named("listenAddress", "x") == loaded.places.named("listenAddress", "x")


def test_sockets_are_endpoints(tmp_path: Path) -> None:
    sockets = Sockets(tmp_path)
    for endpoint in (sockets.main, sockets.writes(0), sockets.writes(127)):
        check_endpoint(endpoint)
    assert len({sockets.main, sockets.writes(0), sockets.writes(1), f"unix:{sockets.link}"}) == 4
