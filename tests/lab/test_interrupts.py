"""Signals of the interactive scripts: the first one ends them in order, further ones do not disturb that."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
from lab.interrupts import Interrupted, raise_interrupted
import signal

raise_interrupted()
try:
    print("runs", flush=True)
    signal.pause()
except Interrupted:
    print("ending", flush=True)
    input()
print("ended in order", flush=True)
"""


@pytest.fixture
def script() -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("first", "second"), list(product((signal.SIGINT, signal.SIGTERM), repeat=2)))
def test_the_second_signal_does_not_disturb_the_end(
    script: "subprocess.Popen[str]", first: signal.Signals, second: signal.Signals
) -> None:
    assert script.stdout is not None
    assert script.stdout.readline() == "runs\n"
    os.kill(script.pid, first)
    assert script.stdout.readline() == "ending\n"
    os.kill(script.pid, second)
    said, _ = script.communicate("\n", timeout=60)
    assert (said, script.returncode) == ("ended in order\n", 0)
