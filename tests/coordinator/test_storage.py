"""Storage as the file of a coordinator asks for it."""

from pathlib import Path

import numpy as np
import pytest
from lab.receiver import Receiver
from lab.waiting import until

from coordinator.config import load_coordinator
from coordinator.ingest import Ingester, IngestOptions
from coordinator.storage import open_storage
from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3x.instrument import Registry

POLICY = StoragePolicy.parse("10s:6h")
CONFIG = """
backend: prom-remote
tagOptions: {{metricName: called}}
prometheusRemoteBackend:
  endpoints:
    - {{name: told, address: "{told}", storagePolicy: {{resolution: 10s, retention: 6h}}}}
    - {{name: untold, address: "{untold}", storagePolicy: {{resolution: 10s, retention: 6h}}, sendMetadata: {untold_wants}}}
"""


@pytest.mark.parametrize("untold_wants", ["true", "false"])
async def test_types_of_metrics_reach_the_endpoints_that_want_them(untold_wants: str, tmp_path: Path) -> None:
    data = encode_aggregated(
        AggregatedMetric(
            id=encode_tags([(b"called", b"up")]),
            time_ns=10**18,
            value=1.0,
            storage_policy=POLICY,
            annotation=b"\x08\x02",
        )
    )
    message, places = np.frombuffer(bytearray(data), np.uint8), (np.zeros(1, np.int64), np.array([len(data)], np.int64))
    registry = Registry()
    async with Receiver() as told, Receiver() as untold:
        file = tmp_path / "coordinator.yml"
        file.write_text(CONFIG.format(told=told.url, untold=untold.url, untold_wants=untold_wants))
        config = load_coordinator([file]).value
        async with open_storage(config, tmp_path, registry.scope("c")) as storage:
            ingester = Ingester(storage.outlet, [POLICY], IngestOptions(), registry.scope("x"))
            assert (await ingester.ingest(message, *places)).all()
            wanting = ["told", "untold"] if untold_wants == "true" else ["told"]
            for name in wanting:
                await until(lambda name=name: registry.counter("c_sink_metadata_sent", sink=name) == 1, what=name)
            await until(lambda: registry.counter("c_sink_delivered", sink="untold") == 1, what="the value is there")
    metadata = b"\x1a\x06\x08\x02\x12\x02up"
    assert [one.proto == metadata for one in told.requests] == [False, True]
    assert [one.proto == metadata for one in untold.requests] == [False, True][: len(wanting)]
