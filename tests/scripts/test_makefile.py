"""``make m3aggregator``, as M3's how-to has it."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("m3aggregator", "m3coordinator", "m3ctl")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout whose Python writes down what it is called with, and whose commands say their names."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "src").mkdir()
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "scripts/environment.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", *COMMANDS):
        text = 'echo "$*" >>calls\n' if name == "python" else f"echo {name} $*\n"
        (programs / name).write_text(f"#!/bin/sh\n{text}")
        (programs / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_made(project: Path, name: str) -> None:
    done = subprocess.run(["make", name], cwd=project, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == f"bin/{name}"
    calls = (project / "calls").read_text()
    assert "-m pip install" in calls
    assert "-m aggregator.warmup --also coordinator.warmup" in calls
    said = subprocess.run([f"./bin/{name}", "-f", "x"], cwd=project, capture_output=True, text=True, check=True)
    assert said.stdout == f"{name} -f x\n"


def test_without_a_target_all_are_made(project: Path) -> None:
    subprocess.run(["make", "-j4"], cwd=project, capture_output=True, check=True, timeout=60)
    assert sorted(path.name for path in (project / "bin").iterdir()) == sorted(COMMANDS)
    assert (project / "calls").read_text().count("-m pip install") == 1
