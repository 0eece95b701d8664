"""When scripts look at the sources of the kernels, and when they compile them anew."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose Python writes down what it is called with; its digest is what the file ``digest`` says."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/environment.sh", tmp_path / "scripts")
    (tmp_path / "src/room/__pycache__").mkdir(parents=True)
    (tmp_path / "src/room/kernels.py").write_text("")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text(
        '#!/bin/sh\ncase "$1 $2" in "-m compileall") echo bytecode >>calls ;; "-m "*) echo compile >>calls ;; '
        "*) echo look >>calls; cat digest ;; esac\n"
    )
    python.chmod(0o755)
    (tmp_path / "digest").write_text("one")
    return tmp_path


def calls(project: Path) -> list[str]:
    """What one more run asks Python for."""
    said = project / "calls"
    said.unlink(missing_ok=True)
    script = f". {project}/scripts/environment.sh; prepare_kernels"
    subprocess.run(["bash", "-c", script], cwd=project, check=True, timeout=60)
    return said.read_text().split() if said.exists() else []


def test_kernels_are_compiled_once_and_sources_looked_at_when_they_change(project: Path) -> None:
    assert calls(project) == ["bytecode", "look", "compile"]
    assert calls(project) == []
    kernels = project / "src/room/kernels.py"
    kernels.write_text("changed")
    assert calls(project) == ["bytecode", "look"]
    assert calls(project) == []
    (project / "digest").write_text("two")
    kernels.write_text("changed again")
    assert calls(project) == ["bytecode", "look", "compile"]
    (project / "src/room/__pycache__/kernels.nbi").touch()
    assert calls(project) == []


@pytest.mark.parametrize("change", ["unpacked", "renamed", "removed", "folder"])
def test_a_file_with_an_old_time_is_noticed(project: Path, change: str) -> None:
    (project / "src/room/other.py").touch()
    (project / "aside/more").mkdir(parents=True)
    (project / "aside/old.py").touch()
    calls(project)
    assert calls(project) == []
    kernels = project / "src/room/kernels.py"
    match change:
        case "unpacked":
            kernels.write_text("other")
            os.utime(kernels, (1, 1))
        case "renamed":
            (project / "aside/old.py").rename(kernels)
        case "removed":
            kernels.unlink()
        case "folder":
            (project / "aside/more").rename(project / "src/room/more")
    assert calls(project) == ["bytecode", "look"]
