"""From port 7507 to a sink: annotations and units of time, also when they come from the queue on disk."""

from pathlib import Path

import numpy as np
import pytest
from lab.waiting import until
from tests.coordinator.sinks.batches import RecordingSink, Row

from coordinator.ingest import HubOutlet, Ingester, IngestOptions
from coordinator.sinks import Destination, QueuedSink, QueueOptions, TryAgainError, open_hub
from coordinator.sinks.values import TimeUnit
from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3x.instrument import Registry
from m3x.protobuf import varint

UP = encode_tags([(b"__name__", b"up")])
POLICIES = [StoragePolicy.parse(text) for text in ("10s:2d", "1m@1ms:40d", "1m@1us:50d", "1m@1h:60d", "1m@1ns:70d")]
UNITS = [TimeUnit.SECONDS, TimeUnit.MILLISECONDS, TimeUnit.MICROSECONDS, TimeUnit.SECONDS, TimeUnit.NANOSECONDS]


def _metrics(annotations: list[bytes]) -> tuple[list[Row], list[bytes]]:
    rows, messages = [], []
    for k, annotation in enumerate(annotations):
        policy = POLICIES[k % len(POLICIES)]
        message = encode_aggregated(
            AggregatedMetric(id=UP, time_ns=k, value=float(k), storage_policy=policy, annotation=annotation)
        )
        # Every third message has a field that the kernel leaves to Python.
        messages.append(message + (varint(100 << 3) + b"\x01" if k % 3 == 0 else b""))
        rows.append(Row(UP, k, float(k), Destination.of(policy), annotation))
    return rows, messages


@pytest.mark.parametrize("killed", [False, True])
async def test_what_a_value_carries_comes_with_it(tmp_path: Path, killed: bool) -> None:
    sink = RecordingSink(lanes=1)
    if killed:
        sink.verdict = lambda _: TryAgainError("not now")
    annotations = [b"", b"counter", b"", b"\x00\xff", b"counter", *(b"%d" % k for k in range(300)), b"", b"counter"]
    rows, messages = _metrics(annotations)
    ends = np.cumsum([len(one) for one in messages])
    async with open_hub([QueuedSink(sink, QueueOptions())], tmp_path, Registry().scope("sink")) as hub:
        ingester = Ingester(HubOutlet(hub), POLICIES, IngestOptions(), Registry().scope("x"))
        buf = np.frombuffer(bytearray(b"".join(messages)), np.uint8)
        assert (await ingester.ingest(buf, np.concatenate([[0], ends[:-1]]), ends)).all()
        plain, message = _metrics([b""])
        one = np.frombuffer(bytearray(message[0]), np.uint8)
        assert (await ingester.ingest(one, np.zeros(1, np.int64), np.array([len(one)]))).all()
        await until(lambda: killed or hub.status()[0].waiting_values == 0)
    if killed:
        assert sink.rows == []
        sink = RecordingSink(lanes=1)
        async with open_hub([QueuedSink(sink, QueueOptions())], tmp_path, Registry().scope("sink")) as hub:
            await until(lambda: hub.status()[0].waiting_values == 0)
    assert sink.rows == [*rows, *plain]
    assert [Destination.of(policy).unit for policy in POLICIES] == UNITS
