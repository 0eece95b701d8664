"""The failover drill (``lab/failover``) on real processes and a real etcd: a few faults always, all of them with ``--slow``."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lab.kv_servers import ZooKeeperServer
from tests.real_servers import require_server

ROOT = Path(__file__).resolve().parents[2]


def drill(*options: str, timeout_s: float) -> None:
    """Runs the drill; fails with what it printed unless every fault has passed."""
    command = [sys.executable, "-m", "lab.failover", *options]
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


def test_a_few_faults_lose_nothing(real: Callable[[str], str]) -> None:
    real("etcd")
    drill("--short", "--backend", "etcd", "--resolution", "5", "--ttl", "5", timeout_s=900)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["embedded", "etcd"])
def test_no_fault_loses_anything(real: Callable[[str], str], backend: str) -> None:
    if backend != "embedded":
        real(backend)
    drill("--backend", backend, "--jobs", "3", timeout_s=2 * 3600)


@pytest.mark.slow
def test_zookeeper_sessions_and_outages_lose_nothing() -> None:
    require_server(ZooKeeperServer)
    faults = "session of the leader expires;leader cut off from the KV 30 s;KV killed 5 s"
    drill("--backend", "zookeeper", "--faults", faults, "--jobs", "3", timeout_s=3600)


@pytest.mark.slow
def test_shards_move_out_and_back(real: Callable[[str], str]) -> None:
    real("etcd")
    drill("--scaling", "--backend", "etcd", timeout_s=900)


@pytest.mark.slow
def test_a_kv_that_dies_at_any_moment_needs_nobody(real: Callable[[str], str]) -> None:
    real("etcd")
    drill("--random", "12", "--backend", "etcd", timeout_s=3600)
