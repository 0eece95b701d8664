"""Every parser of the table over mutated inputs: no crash, no hang, only documented errors, only what the plain reader says.

About two thousand inputs each; with ``--slow`` a million of those that ``FUZZ_SEED`` names. ``python -m tests.fuzz`` does so for some.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.table import PARSERS

ROOT = Path(__file__).parents[2]
INPUTS = 2000
MANY_INPUTS = 1_000_000
MOST_CPU_S = 1800
"""Of one parser over so many."""
SEED = os.environ.get("FUZZ_SEED", "0")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}

Run = Callable[[str, int], dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """A process of one thread, which forks a child for each parser."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz", "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def one(name: str, count: int) -> dict[str, Any]:
            process.stdin.write(f"{name} {SEED} {count}\n")
            process.stdin.flush()
            report: dict[str, Any] = json.loads(process.stdout.readline())
            return report

        yield one
        process.stdin.close()


def check(report: dict[str, Any]) -> None:
    if report["fault"]:
        pytest.fail(f"input {report['ran']} of seed {SEED}: {report['fault']}\n{report['input']}", pytrace=False)


@pytest.mark.parametrize("name", PARSERS)
def test_mutated_inputs(name: str, run: Run) -> None:
    check(run(name, INPUTS))


@pytest.mark.slow
def test_very_many_mutated_inputs() -> None:
    """As many parsers at a time as there are CPUs; progress is on standard error (pytest's ``-s`` shows it)."""
    options = ["--inputs", str(MANY_INPUTS), "--jobs", str(os.cpu_count()), "--cpu-seconds", str(MOST_CPU_S)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--seed", SEED, *options],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
