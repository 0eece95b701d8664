"""``python -m aggregator.warmup``."""

import subprocess
import sys
from pathlib import Path

import pytest

from aggregator import warmup

ONLY_TESTS_CALL = {"m3metrics.kernels.decode_aggregated_one"}


def test_one_line_per_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "PACKAGES", ("m3msg.kernels",))
    assert warmup.main(["--also", "aggregator.front"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line.partition(":")[0].rsplit(" ", 1) for line in lines]
    assert [head for head, _ in heads] == ["compiling kernels 1/2", "compiling kernels 2/2"]
    assert {name for _, name in heads} == {"m3msg.kernels", "aggregator.front"}


@pytest.mark.parametrize("name", ["aggregator.no_such_package", "aggregator.ipc"])
def test_a_package_that_cannot_be_warmed_is_named(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert warmup.main(["--also", name]) == 1
    assert name in capsys.readouterr().out.splitlines()[-1]


def test_no_kernel_is_left_to_the_first_sample() -> None:
    """In a process of its own: other tests have compiled kernels in this one."""
    script = Path(__file__).with_name("cold_kernels.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    kernels, *cold = done.stdout.split()
    assert int(kernels) > 200
    assert set(cold) <= ONLY_TESTS_CALL
