"""The crash drill (``lab/crash``) on real processes and a real etcd: two minutes of random faults always, all of it with ``--slow``.

Each run takes its numbers from what came out: nothing acked is missing, wrong or doubled, and nothing is refused.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOON = ("--past", "30", "--scale", "2")
"""Few samples, and little time for what comes late: what has to be out at the end is out sooner."""


def drill(*options: str, timeout_s: float, passes: bool = True) -> list[dict[str, Any]]:
    """The outcomes of its runs; fails with what it printed unless all of them have passed, or one has not where it should not."""
    command = [sys.executable, "-m", "lab.crash", "--json", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said, explained = process.communicate(timeout=timeout_s)
    finally:
        if process.poll() is None:
            # It ends what it has started.
            process.terminate()
            process.communicate(timeout=60)
    assert (process.returncode == 0) == passes, said + explained
    print(said, explained)
    return [json.loads(line) for line in said.splitlines()]


def test_random_deaths_and_cuts_lose_and_double_nothing(real: Callable[[str], str]) -> None:
    real("etcd")
    (outcome,) = drill("--seconds", "120", "--way", "both", *SOON, timeout_s=900)
    assert sum(outcome["faults"].values()) >= 10
    # A series has at most one sample a second; deaths and a slow machine cost some of them, not the half of 200 series.
    assert outcome["acked"] == outcome["sent"] > 100 * outcome["seconds"]


@pytest.mark.slow
def test_a_full_disk_holds_producers_and_loses_nothing(real: Callable[[str], str]) -> None:
    """Nothing is acked while it is full, the instance says so, and goes on by itself; a worker that dies meanwhile waits as well."""
    real("etcd")
    (outcome,) = drill("--situations", "a full disk for 8 s, a worker", *SOON, timeout_s=600)
    assert outcome["faults"] == {"fill leader": 1, "kill worker leader": 1}
    assert outcome["acked"] == outcome["sent"] > 2_000


@pytest.mark.slow
def test_without_a_journal_the_drill_finds_what_is_missing(real: Callable[[str], str]) -> None:
    real("etcd")
    (outcome,) = drill("--situations", "kill -9 of RF 1", "--instance", "journal=off", timeout_s=900, passes=False)
    assert outcome["missing"] > 100
    assert outcome["invalid"] == []


@pytest.mark.slow
def test_no_situation_loses_anything(real: Callable[[str], str]) -> None:
    real("etcd")
    drill("--situations", "all", "--phases", "0.3,4,9.5", timeout_s=4 * 3600)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["interval", "always"])
def test_a_power_cut_takes_no_more_than_the_policy_says(real: Callable[[str], str], policy: str) -> None:
    real("etcd")
    drill("--power-cut", policy, timeout_s=1800)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_minutes_of_deaths_and_cuts_lose_and_double_nothing(real: Callable[[str], str], seed: int) -> None:
    real("etcd")
    drill("--seconds", "600", "--backend", "etcd", "--way", "both", "--seed", str(seed), timeout_s=3600)
