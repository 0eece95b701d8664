"""``python -m tests.fuzz.guided``: a run that coverage leads reaches branches that no seed does, and a fault ends it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS_ATHERIS = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform (setup.cfg)"
)
_BRANCHES = re.compile(r" cov: (\d+) ")


_FAULTY = """
from dataclasses import replace
from tests.fuzz import guided

def read(data):
    if data[:2] == b"fa":
        raise RuntimeError("found it")

one = guided.PARSERS["durations"]
guided.PARSERS["durations"] = replace(one, read=read, plain=None, seeds=lambda: [b"f"])
guided.main()
"""


def guided(folder: Path, command: list[str], seconds: int) -> tuple[int, str]:
    """Exit code, and what was said; the corpus is ``folder / "corpus"``."""
    done = subprocess.run(
        [sys.executable, *command, "--seconds", str(seconds), "--corpus", str(folder / "corpus")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@NEEDS_ATHERIS
def test_new_branches_are_reached(tmp_path: Path) -> None:
    status, said = guided(tmp_path, ["-m", "tests.fuzz.guided", "rule-set-json"], 5)
    assert status == 0, said
    reached = [int(found) for found in _BRANCHES.findall(said)]
    assert reached[-1] > reached[0] > 0, said


@NEEDS_ATHERIS
def test_a_fault_ends_the_run(tmp_path: Path) -> None:
    script = tmp_path / "faulty.py"
    script.write_text(_FAULTY)
    status, said = guided(tmp_path, [str(script), "durations"], 300)
    assert status != 0, said
    assert "RuntimeError: found it" in said
    assert (tmp_path / "corpus.fault").read_bytes()[:2] == b"fa"
