"""``scripts/run --sink prometheus``: a real Prometheus as the store, beside the embedded one, which the live table is read from."""

from pathlib import Path
from typing import Any

from lab.prometheus import Points
from lab.stores import PrometheusStore

__all__ = ["fetch", "overlay", "store_of"]


def store_of(data: Path) -> PrometheusStore:
    """Prometheus with its data below ``data``, not started; takes samples up to an hour late. Raises ``LabError`` without its binary."""
    folder = data / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    return PrometheusStore(folder, "1h", ends_with_us=True)


def overlay(store: PrometheusStore) -> dict[str, Any]:
    """Sections of the coordinator's file that send what is aggregated there.

    Not the policy of 1 m as well: values of two policies would be the same series to Prometheus.
    """
    endpoint = {
        "name": "prometheus", "address": store.write_url, "storagePolicy": {"resolution": "10s", "retention": "48h"},
    }  # fmt: skip
    return {
        "backend": "prom-remote",
        "prometheusRemoteBackend": {"endpoints": [endpoint]},
        "sinks": [{"type": "embedded"}],
    }


def fetch(store: PrometheusStore, start_s: int, end_s: int) -> Points:
    """All demo series between the two times, as Prometheus has them."""
    points: Points = {}
    for match in ('{__name__=~"demo_.*"}', '{__g0__="demo"}'):
        points.update(store.samples(match, start_s * 1000, end_s * 1000))
    return points
