"""M3DB as a store (``lab/m3db/drill``): a real coordinator under load, nodes that fail; every acknowledged value is looked for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def drill(*options: str, timeout_s: float) -> None:
    """Runs it; fails with what it printed unless every situation has passed."""
    command = [sys.executable, "-m", "lab.m3db.drill", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=timeout_s)
    finally:
        if process.poll() is None:
            # It ends what it has started.
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0, said
    print(said)


def test_a_few_situations_lose_nothing() -> None:
    drill("--short", timeout_s=600)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["embedded", "etcd"])
def test_no_situation_loses_anything(backend: str) -> None:
    drill("--backend", backend, "--kill", timeout_s=2 * 3600)
