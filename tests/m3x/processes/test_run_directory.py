"""The private directory of an instance, and what becomes of those of killed ones."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from m3x.config import ConfigError
from m3x.processes import run_directory

NAMES: Any = {"key": "instance.runDirectory", "prefix": "m3agg-", "longest": 55}


def test_it_is_private_short_and_removed() -> None:
    with run_directory("", **NAMES) as path:
        assert path.stat().st_mode & 0o777 == 0o700
        assert len(str(path)) <= 70
    assert not path.exists()


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with (
        pytest.raises(ConfigError, match=r"instance\.runDirectory: .*/file/below cannot be made"),
        run_directory(str(file / "below"), **NAMES),
    ):
        pass


def test_directories_of_killed_instances_are_removed_and_no_others() -> None:
    with tempfile.TemporaryDirectory(prefix="rd") as parent:
        script = (
            "import sys, time; from m3x.processes.run_directory import run_directory\n"
            "with run_directory(sys.argv[1], key='k', prefix='m3agg-', longest=55) as path: print(path, flush=True); time.sleep(3600)"
        )
        killed = subprocess.Popen([sys.executable, "-c", script, parent], stdout=subprocess.PIPE, text=True)
        assert killed.stdout is not None
        stale = Path(killed.stdout.readline().strip())
        with run_directory(parent, **NAMES) as living:
            assert stale.exists(), "its instance lives"
            os.kill(killed.pid, signal.SIGKILL)
            killed.wait()
            killed.stdout.close()
            foreign = Path(parent) / "m3agg-foreign"
            foreign.mkdir()
            (Path(parent) / "m3agg-link").symlink_to(living)
            with run_directory(parent, **NAMES):
                assert not stale.exists()
                assert living.exists()
                assert foreign.exists()
