"""scripts/cluster with real processes: its leader is killed while the demo stream runs, and every value comes out right.

Takes 50 to 110 s, most of it waiting: the cutover of a new placement is up to a minute away.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.stack.demo import WINDOW_S

ROOT = Path(__file__).resolve().parents[2]
END_S = 200.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two aggregators, replication factor 2, with the demo stream; ends by itself 40 s after it serves."""
    command = ["-m", "lab.interactive", "--demo", "--duration", "40", "--free-ports", "--data-dir", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=ROOT,
    )  # fmt: skip
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def read_until(process: subprocess.Popen[str], wanted: str, seen: list[str]) -> str:
    """The first line that contains ``wanted``; all lines go to ``seen``."""
    assert process.stdout is not None
    deadline = time.monotonic() + END_S
    for line in process.stdout:
        seen.append(line)
        if wanted in line:
            return line
        assert time.monotonic() < deadline, "".join(seen)
    raise AssertionError(f"no line with {wanted!r}:\n{''.join(seen)}")


def test_a_killed_leader_costs_no_value(cluster: subprocess.Popen[str]) -> None:
    seen: list[str] = []
    url = read_until(cluster, "coordinator  http://", seen).split()[1].rstrip("/")
    leader = read_until(cluster, ", leads", seen).split()[0]
    other = "agg2" if leader == "agg1" else "agg1"
    # In the middle of the first whole window: no value of it has been sent, and the other instance has to send them all.
    time.sleep(WINDOW_S + 4 - time.time() % WINDOW_S)
    assert cluster.stdin is not None
    cluster.stdin.write(f"kill {leader}\n")
    cluster.stdin.flush()
    read_until(cluster, f"{other} leads", seen)
    found = subprocess.run(
        [sys.executable, "-m", "m3ctl", "leaders", "--json", "--coordinator", url, "--env", "namespace/m3db-cluster-name"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    answer = json.loads(found.stdout)
    # The dead instance is a problem, the leader is known all the same.
    assert (found.returncode, answer["shardSets"][0]["leader"]) == (1, other)
    assert any(f"instance {leader}" in line for line in answer["problems"])
    rest, _ = cluster.communicate(timeout=END_S)
    assert cluster.returncode == 0, "".join(seen) + rest
    assert "leadership changed 1 times" in rest
    assert "all right" in rest
