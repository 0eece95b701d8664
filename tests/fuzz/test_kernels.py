"""The table stays whole: each kernel by address that plain code calls is run by a row, or there is a reason why it is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.fuzz.kernels import called_from_python, reasons_of_nothing, without_reason

ROOT = Path(__file__).parents[2]


def test_every_kernel_by_address_has_a_row_or_a_reason() -> None:
    # In a process of its own, in which nobody else has called a kernel.
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.kernels"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    run = set(json.loads(done.stdout))
    called = called_from_python()
    assert len(run) > 40
    left = called - run
    assert without_reason(left) == set(), "add a row to tests/fuzz, or a reason to tests/fuzz/kernels.py"
    assert reasons_of_nothing(left) == set()


def test_what_counts_as_a_kernel_by_address() -> None:
    called = called_from_python()
    assert called >= {
        "m3msg.kernels.scan_frames", "aggregator.front.kernels.route",
        "coordinator.write.request_kernels.request", "m3db.read.fetch_kernels.scan",
    }  # fmt: skip
    # Called by kernels only, and no kernel.
    assert not called & {"m3msg.kernels.read_message", "m3msg.frames.decode_message"}


def test_a_kernel_without_a_row_is_found() -> None:
    assert without_reason({"m3msg.kernels.fresh", "m3x.table_kernels.probe"}) == {"m3msg.kernels.fresh"}
    assert "m3x.table_kernels" in reasons_of_nothing({"m3msg.kernels.fresh"})
