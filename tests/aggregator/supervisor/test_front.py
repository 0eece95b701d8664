"""What a front is told."""

from pathlib import Path

import pytest

from aggregator.config import load_config
from aggregator.supervisor.front import front_options


@pytest.mark.parametrize("server", ["", "m3msg: {server: {listenAddress: 0.0.0.0:6000}}\n"])
def test_a_front_is_told_how_many_workers_there_are(tmp_path: Path, server: str) -> None:
    path = tmp_path / "aggregator.yml"
    path.write_text("kvClient: {embedded: {path: kv.sqlite}}\n" + server)
    config = load_config([path], {}).value
    told = front_options(config, run_dir="", epoch=1, parent_pid=1, listener=3, workers=5)
    assert (told.workers, told.listener) == (5, 3)
