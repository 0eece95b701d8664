"""The configuration of every service: the files of configs/local, and an overlay with addresses, ids and the KV."""

from pathlib import Path
from typing import Any

from lab.cluster import LOCAL, aggregator_overlay, coordinator_overlay, overlaid
from lab.interactive.layout import Instance, Layout

__all__ = ["aggregator_files", "coordinator_files"]


def coordinator_files(layout: Layout, kv: dict[str, Any], folder: Path) -> list[str]:
    """The options that name the files of the coordinator; ``kv``: its section ``clusterManagement``."""
    overlay = coordinator_overlay(layout.coordinator_ports, kv, folder)
    return overlaid(LOCAL / "m3coordinator.yml", overlay, folder / "coordinator.yml")


def aggregator_files(instance: Instance, kv: dict[str, Any], folder: Path) -> list[str]:
    """The options that name the files of one aggregator; ``kv``: its section ``kvClient``."""
    m3msg, http, metrics = (f"{instance.host}:{port}" for port in (instance.m3msg, instance.http, instance.metrics))
    overlay = {
        **aggregator_overlay(m3msg, http, metrics, kv),
        "aggregator": {"hostID": {"value": instance.id}},
    }
    return overlaid(LOCAL / "m3aggregator.yml", overlay, folder / f"{instance.id}.yml")
