"""One instance alone, with a journal: whatever of it is killed, every sample that was acked is in exactly one window, once."""

import asyncio
import logging
import os
import signal
import time
from collections import Counter
from typing import Any

import pytest
from lab.waiting import until
from tests.aggregator.supervisor.instance_rig import Recorder, Rig

from m3metrics.aggregation import AggregationType
from m3metrics.codec.unaggregated import CounterWithMetadatas, TimedMetricWithMetadatas
from m3metrics.metadata import PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.metric import MetricType
from m3metrics.pipeline import RollupOp
from m3metrics.policy import StoragePolicy

pytestmark = pytest.mark.integration

POLICY: StagedMetadatas = (
    StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(StoragePolicy.parse("2s:1h"),)),)),
)
SUM = 1 << AggregationType.SUM
ROLLED: StagedMetadatas = (
    StagedMetadata(
        pipelines=(
            PipelineMetadata(
                aggregation_id=SUM,
                storage_policies=(StoragePolicy.parse("2s:1h"),),
                pipeline=(RollupOp(b"rolled", SUM),),
            ),
        )
    ),
)
SERIES = 20


def totals(recorder: Recorder) -> Counter[str]:
    found: Counter[str] = Counter()
    for (name, _), values in recorder.every.items():
        found[name] += max(values)
    return found


async def load(rig: Rig, sent: Counter[str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        now = time.time_ns()
        for i in range(SERIES):
            rig.client.send([CounterWithMetadatas(id=b"counter.%d" % i, value=i + 1, metadatas=POLICY)])
            sent[f"counter.{i}"] += i + 1
            rig.client.send(
                [
                    TimedMetricWithMetadatas(
                        metric_type=MetricType.COUNTER, id=b"timed.%d" % i, time_ns=now, value=i + 1, metadatas=POLICY
                    )
                ]
            )
            sent[f"timed.{i}"] += i + 1
            rig.client.send([CounterWithMetadatas(id=b"source.%d" % i, value=1, metadatas=ROLLED)])
            sent["rolled"] += 1
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("victim", ["worker", "front", "all", "SIGTERM"])
async def test_nothing_acked_is_lost_and_nothing_doubled(rig: Rig, victim: str) -> None:
    await rig.start(bufferDurationForPastTimedMetric="20s")
    await rig.until_ready()
    assert rig.instance is not None
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    sent: Counter[str] = Counter()
    stop = asyncio.Event()
    running = asyncio.create_task(load(rig, sent, stop))
    for _ in range(3):
        await asyncio.sleep(0.7)
        await rig.until_ready()
        await asyncio.sleep(2.3)
        if victim == "worker":
            os.kill(rig.worker(0), signal.SIGKILL)
        elif victim == "front":
            os.kill(rig.children("aggregator.front")[0], signal.SIGKILL)
        elif victim == "all":
            rig.instance.kill()
            rig.instance.start()
        else:
            await rig.stop()
            rig.instance.start()
    await rig.until_ready()
    await asyncio.sleep(1.0)
    stop.set()
    await running
    await until(lambda: not rig.client.unacked, what="acks")

    def different() -> dict[Any, set[float]]:
        return {key: values for key, values in rig.recorder.every.items() if len(values) > 1}

    def complete() -> bool:
        return totals(rig.recorder) == sent

    try:
        await until(complete, 60, every_s=0.5, what="all values")
    except TimeoutError:
        found = totals(rig.recorder)
        wrong = {name: (found[name], sent[name]) for name in sent if found[name] != sent[name]}
        pytest.fail(f"{wrong}\n{different()}\n{rig.log()}")
    assert not different()
    assert await rig.stop() == 0
