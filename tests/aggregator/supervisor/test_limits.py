"""Limits of the configuration and of the KV."""

from pathlib import Path

from aggregator.config import load_config
from aggregator.ipc import RuntimeOptions
from aggregator.supervisor.limits import Limits
from m3cluster.placement.model import Placement

ROOT = Path(__file__).resolve().parents[3]
PLACEMENT = Placement(num_shards=8, replica_factor=2)


def test_the_kv_overrides_the_configuration_and_gives_it_back() -> None:
    calls: list[int] = []
    limits = Limits(load_config([ROOT / "configs/local/m3aggregator.yml"], {}).value, lambda: calls.append(1))
    before = limits.options(PLACEMENT)
    limits.values_changed(7)
    # A limit of the cluster is divided among shards and replicas, rounded up.
    limits.new_changed(100)
    assert limits.options(PLACEMENT) == RuntimeOptions(7, 7)
    limits.values_changed(None)
    limits.new_changed(None)
    assert limits.options(PLACEMENT) == before
    assert len(calls) == 4
