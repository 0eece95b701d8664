"""The configuration of every service: the files of configs/local, and an overlay with addresses, ids and the KV."""

from pathlib import Path
from typing import Any

import yaml

from local_cluster.layout import Instance, Layout

__all__ = ["LOCAL", "aggregator_files", "coordinator_files"]

LOCAL = Path(__file__).resolve().parents[2] / "configs/local"


def coordinator_files(layout: Layout, kv: dict[str, Any], folder: Path) -> list[Path]:
    """The files of the coordinator; ``kv``: its section ``clusterManagement``."""
    overlay = {
        "listenAddress": f"127.0.0.1:{layout.http}",
        "metrics": {"prometheus": {"listenAddress": f"127.0.0.1:{layout.metrics}"}},
        "carbon": {"ingester": {"listenAddress": f"127.0.0.1:{layout.carbon}"}},
        "ingest": {"m3msg": {"server": {"listenAddress": f"127.0.0.1:{layout.ingest}"}}},
        "clusterManagement": kv,
        "embeddedStorage": {"path": str(folder / "metrics.duckdb")},
    }
    return [LOCAL / "m3coordinator.yml", _write(folder / "coordinator.yml", overlay)]


def aggregator_files(instance: Instance, kv: dict[str, Any], folder: Path) -> list[Path]:
    """The files of one aggregator; ``kv``: its section ``kvClient``."""
    overlay = {
        "m3msg": {"server": {"listenAddress": f"{instance.host}:{instance.m3msg}"}},
        "http": {"listenAddress": f"{instance.host}:{instance.http}"},
        "metrics": {"prometheus": {"listenAddress": f"{instance.host}:{instance.metrics}"}},
        "kvClient": kv,
        "aggregator": {"hostID": {"value": instance.id}},
    }
    return [LOCAL / "m3aggregator.yml", _write(folder / f"{instance.id}.yml", overlay)]


def _write(path: Path, overlay: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(overlay, sort_keys=False))
    return path
