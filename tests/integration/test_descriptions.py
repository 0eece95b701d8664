"""What a sender of Remote Write 2.0 says of its metrics arrives at the stores behind: type, help and unit, beside aggregated values."""

import asyncio
import time
from pathlib import Path
from typing import Any

import cramjam
import pytest
from lab.http import request
from lab.receiver import Received, Receiver, Reply
from lab.waiting import until
from tests.integration.inside import Inside, serving

from coordinator.prompb import METADATA_REQUEST, REQUEST_2
from coordinator.write.media import MESSAGE_2
from m3x.protobuf import marshal, unmarshal

CONFIG = """
workers: {workers}
listenAddress: 127.0.0.1:{http}
metrics: {{prometheus: {{listenAddress: "127.0.0.1:{metrics}"}}}}
backend: prom-remote
storeMetricsType: true
prometheusRemoteBackend:
  endpoints:
    - {{name: new, address: "{new}", protobufMessage: io.prometheus.write.v2.Request, storagePolicy: {{resolution: 1s, retention: 48h}}}}
    - {{name: old, address: "{old}", storagePolicy: {{resolution: 1s, retention: 48h}}}}
clusters:
  - namespaces:
      - {{namespace: one, type: aggregated, resolution: 1s, retention: 48h}}
embeddedAggregator: {{workers: 1}}
"""
SYMBOLS = [b"", b"__name__", b"took_sum", b"How long it took.", b"seconds"]
WRITTEN = {"X-Prometheus-Remote-Write-Samples-Written": "1"}


class Coordinator(Inside):
    """With the endpoints ``new`` and ``old``, and so many processes that take writes."""

    def __init__(self, folder: Path, workers: int, new: str, old: str) -> None:
        self._given = {"workers": workers, "new": new, "old": old}
        super().__init__(folder)

    def text(self) -> str:
        return CONFIG.format(http=self.http, metrics=self.metrics, **self._given)

    def write(self) -> None:
        """One sample now."""
        sample = {"value": 1.0, "timestamp": time.time_ns() // 1_000_000}
        metadata = {"type": 3, "help_ref": 3, "unit_ref": 4}
        message = {
            "symbols": SYMBOLS,
            "timeseries": [{"labels_refs": [1, 2], "samples": [sample], "metadata": metadata}],
        }
        headers = {"Content-Type": f"application/x-protobuf;proto={MESSAGE_2}", "Content-Encoding": "snappy"}
        body = bytes(cramjam.snappy.compress_raw(marshal(REQUEST_2, message)))
        status, answer = request("POST", f"{self.base}/api/v1/prom/remote/write", body, headers, timeout_s=60)
        assert status == 200, answer


def described(received: Received) -> list[Any]:
    """Name, type, help and unit of each series of a request of 2.0."""
    message = unmarshal(REQUEST_2, received.proto)
    symbols = message["symbols"]
    found = []
    for one in message["timeseries"]:
        labels = dict(zip(*(iter(symbols[ref] for ref in one["labels_refs"]),) * 2, strict=True))
        said = one.get("metadata", {})
        texts = (symbols[said.get(key, 0)] for key in ("help_ref", "unit_ref"))
        found.append((labels[b"__name__"], said.get("type", 0), *texts))
    return found


@pytest.mark.parametrize("workers", [1, 2])
async def test_type_help_and_unit_arrive(workers: int, tmp_path: Path) -> None:
    family = {"type": 3, "metric_family_name": b"took", "help": b"How long it took.", "unit": b"seconds"}
    record = marshal(METADATA_REQUEST, {"metadata": [family]})
    async with Receiver(lambda _: Reply(headers=WRITTEN)) as new, Receiver() as old:
        made = await asyncio.to_thread(Coordinator, tmp_path, workers, new.url, old.url)
        with serving(made) as coordinator:

            async def arrived() -> bool:
                # One request of many is looked at.
                await asyncio.gather(*(asyncio.to_thread(coordinator.write) for _ in range(8)))
                said = [one for received in new.requests for one in described(received)]
                return (b"took_sum", 3, b"How long it took.", b"seconds") in said and any(
                    received.proto == record for received in old.requests
                )

            await until(arrived, 120, 0.2, "both endpoints are told")
