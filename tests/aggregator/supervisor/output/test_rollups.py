"""Rollups through a real instance: out of its workers, over m3msg to its own front, and out again under the rollup's id."""

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Sequence

import httpx
import pytest
from bench.load import Connection
from bench.messages import build
from lab.waiting import until
from tests.aggregator.supervisor.instance_rig import SHARDS, Rig, S

from m3metrics.aggregation import AggregationType
from m3metrics.codec.unaggregated import Metric, TimedMetricWithMetadatas
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.metric import MetricType
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3metrics.shard import shard_of

pytestmark = pytest.mark.integration

PER_SECOND = TransformationOp(TransformationType.PER_SECOND)
SUM, MAX, LAST = (1 << kind for kind in (AggregationType.SUM, AggregationType.MAX, AggregationType.LAST))
# A window of a source is flushed two seconds after it; its rollup may take twelve more, as machines that run tests may be slow.
TIMES = {"forwarding": {"maxSingleDelay": "12s", "maxConstDelay": "0s"}}
SOURCES = 30
WINDOWS = 4


def rate_of(source: int, window: int) -> float:
    """PerSecond of a source in a window, the second of the run and later ones."""
    return float((source + 1) * (window + 1) % 97)


def value_of(source: int, window: int) -> float:
    return 1000.0 + sum(rate_of(source, w) for w in range(1, window + 1))


def sample(name: str, source: int, window: int, at_ns: int, pipeline: AppliedPipeline) -> Metric:
    policy = PipelineMetadata(
        aggregation_id=LAST, storage_policies=(StoragePolicy.parse("1s:1h"),), pipeline=(PER_SECOND, *pipeline)
    )
    return TimedMetricWithMetadatas(
        metric_type=MetricType.GAUGE,
        id=f"{name}.{source}".encode(),
        time_ns=at_ns,
        value=value_of(source, window),
        metadatas=(StagedMetadata(pipelines=(policy,)),),
    )


async def feed(rig: Rig, window: int, metrics_at: "Feed") -> int:
    """Sends a window's samples within it, as time goes by; returns its end."""
    at_ns = metrics_at.begin_ns + window * S
    await until(lambda: time.time_ns() >= at_ns + S // 10, what="the next second")
    rig.client.send(
        sample(name, source, window, at_ns + S // 10, pipeline)
        for name, sources, pipeline in metrics_at.metrics
        for source in sources
    )
    return at_ns + S


class Feed:
    """Series that get a sample in every second from the next one on."""

    def __init__(self, *metrics: tuple[str, Sequence[int], AppliedPipeline]) -> None:
        self.metrics = metrics
        self.begin_ns = (time.time_ns() // S + 1) * S


async def figure(rig: Rig, name: str, **labels: str) -> float:
    """Sum of a counter's series that have these labels."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(rig.instance.metrics_url)).text
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith((f"m3aggregator_{name} ", f"m3aggregator_{name}{{"))
        and all(label in line for label in wanted)
    )


async def test_rollups_of_one_and_two_stages_are_exact(rig: Rig) -> None:
    await rig.start(**TIMES)
    await rig.until_ready()
    metrics = []
    for group in range(3):
        sources = range(group, SOURCES, 3)
        metrics.append((f"one-{group}", sources, (RollupOp(b"rolled.%d" % group, SUM),)))
        twice = (RollupOp(b"middle.%d" % group, SUM), RollupOp(b"highest", MAX))
        metrics.append((f"two-{group}", sources, twice))
    live = Feed(*metrics)
    ends = [await feed(rig, window, live) for window in range(WINDOWS)]
    await until(lambda: not rig.client.unacked, what="acks")
    sums = {
        group: {
            end: [sum(rate_of(i, window) for i in range(group, SOURCES, 3))]
            for window, end in enumerate(ends)
            if window
        }
        for group in range(3)
    }
    highest = {end: [max(sums[group][end][0] for group in range(3))] for end in ends[1:]}
    await until(lambda: len(rig.recorder.of("highest")) >= WINDOWS - 1, what="the second stage")
    assert {group: rig.recorder.of(f"rolled.{group}") for group in range(3)} == sums
    assert rig.recorder.of("highest") == highest
    assert set(rig.recorder.names()) == {"highest", "rolled.0", "rolled.1", "rolled.2"}
    assert await figure(rig, "aggregator_forwarder_lost", output="forwarded") == 0
    assert await figure(rig, "aggregator_forwarder_messages", output="forwarded") > 0

    async def all_lists_are_named() -> bool:
        body = (await rig.get("/shards"))[1]
        return {row["name"] for row in body["lists"]} == {"timed 1s", "forwarded×1 1s", "forwarded×2 1s"}

    # The flush time of a list is written once its values are acked.
    await until(all_lists_are_named, every_s=0.1, what="the lists of all stages")
    began = time.monotonic()
    assert await rig.stop() == 0, rig.log()
    assert time.monotonic() - began < 14, "the end has waited for forwarded metrics that nobody could take"


async def test_a_killed_worker_costs_no_rollups_of_the_others(rig: Rig) -> None:
    await rig.start(**TIMES)
    await rig.until_ready()
    _, body = await rig.get("/shards")
    owner = {row["shard"]: row["worker"] for row in body["shards"]}

    def of_worker(number: int, name: str, count: int) -> list[int]:
        shards = ((i, shard_of(b"%s.%d" % (name.encode(), i), SHARDS)) for i in range(10_000))
        return [i for i, shard in shards if owner[shard] == number][:count]

    # All sources are of worker 0, so that nothing but its own worker matters to the rollup that is lost.
    mine, others = of_worker(0, "source", SOURCES), of_worker(0, "other", SOURCES)
    (kept,), (lost,) = ([f"rolled.{i}" for i in of_worker(number, "rolled", 1)] for number in (0, 1))
    live = Feed(("source", mine, (RollupOp(kept.encode(), SUM),)), ("other", others, (RollupOp(lost.encode(), SUM),)))
    forwarded = await figure(rig, "aggregator_forwarder_messages", output="forwarded")
    ends = []
    for window in range(14):
        ends.append(await feed(rig, window, live))
        if window == 5:

            async def rollups_flow() -> bool:
                return await figure(rig, "aggregator_forwarder_messages", output="forwarded") > forwarded

            await until(rollups_flow, what="rollups")
            os.kill(rig.worker(1), signal.SIGKILL)
    await until(lambda: rig.client.again() or not rig.client.unacked, what="acks")
    expected = {end: [sum(rate_of(i, window) for i in mine)] for window, end in enumerate(ends) if window}
    await until(lambda: len(rig.recorder.of(kept)) >= len(ends) - 1, what="all windows")
    assert rig.recorder.of(kept) == expected
    last = sum(rate_of(i, len(ends) - 1) for i in others)
    await until(lambda: rig.recorder.of(lost).get(ends[-1]) == [last], what="the rollup of the worker that came back")
    assert await rig.stop() == 0, rig.log()


async def test_flushing_does_not_wait_for_its_own_input(rig: Rig) -> None:
    """A buffer that holds a thousandth of one flush, at full load: nothing stands still, nothing is lost."""
    client = {
        "producer": {
            "buffer": {"maxBufferSize": 8192, "maxMessageSize": 4096, "forwardedBufferSize": 4096},
        }
    }
    await rig.start(client={"m3msg": client}, forwarding={"maxConstDelay": "12s", "maxSingleDelay": "0s"})
    await rig.until_ready()
    frames = build("counter", 20_000, 20_000, 1, pipeline="rollup")
    connections = [Connection(rig.instance.socket_address, frames)]
    until_s = time.monotonic() + 4
    writers = [threading.Thread(target=c.replay, args=(until_s, 0.0, 0)) for c in connections]
    for writer in writers:
        writer.start()
    await until(lambda: not any(writer.is_alive() for writer in writers), what="the load")
    await until(lambda: all(c.acked == c.sent for c in connections), what="acks")
    sent = sum(c.replays * frames.value_sum for c in connections)
    assert sent > 0
    totals: dict[str, float] = defaultdict(float)

    def all_out() -> bool:
        totals.clear()
        for (name, _), values in list(rig.recorder.values.items()):
            totals[name] += values[-1]
        return sum(totals.values()) >= sent

    await until(all_out, what="all rollups")
    assert sum(totals.values()) == sent
    assert len(totals) == 1000
    messages = await figure(rig, "aggregator_forwarder_messages", output="forwarded")
    assert messages > 10_000
    assert await figure(rig, "aggregator_forwarder_lost", output="forwarded") == 0
    for connection in connections:
        connection.close()
    assert await rig.stop() == 0, rig.log()


async def test_rollups_without_a_client_are_lost_aloud(rig: Rig) -> None:
    await rig.start(client={"type": "legacy", "m3msg": None}, **TIMES)
    await rig.until_ready()
    live = Feed(("one", range(3), (RollupOp(b"rolled", SUM),)), ("plain", range(3), ()))
    for window in range(3):
        await feed(rig, window, live)

    async def said() -> bool:
        return "rollups are dropped" in " ".join((await rig.get("/ready"))[1].get("reasons", []))

    async def counted() -> bool:
        return await figure(rig, "aggregator_forwarder_lost", output="forwarded") > 0

    await until(said, every_s=0.1, what="that rollups are dropped")
    await until(counted, every_s=0.1, what="the figure")
    # Other metrics do not suffer.
    await until(lambda: all(rig.recorder.of(f"plain.{i}") for i in range(3)), what="the others")
    assert await rig.stop() == 0, rig.log()
